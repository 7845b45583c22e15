"""Small made data that several tests share: coloured pictures, texts of two kinds, tones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

import unitx

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
WORDS = {"blue": "the sea and the sky", "green": "grass, leaves and moss", "red": "a rose, a cherry, blood"}
TONES = {"high": 2_000.0, "low": 200.0}
RATE = 16_000
STAMPS = {"animals": ["cat", "cat_2", "dog", "cow", "hen", "owl", "ant", "bee"], "food": ["pear", "egg", "cake", "jam"]}
LANGUAGES = ["en", "fr", "ru"]  # of the stamps

# A model and a run so small that a step takes milliseconds.
TINY = {
    "model.dim": 32,
    "model.depth": 1,
    "model.heads": 2,
    "tokenizers.image": {"patch": 8, "max_tokens": 4},
    "tokenizers.text": {"max_tokens": 32},
    "tokenizers.audio": {"max_tokens": 8},
    "batch_tokens": 128,
    "precision": "fp32",
    "workers": 0,
    "augment": "none",
}


def colour_folder(root: Path, each: int = 12, size: tuple[int, int] = (16, 16), seed: int = 0) -> Path:
    """`root`/<colour>/<n>.png: noisy pictures of one colour, `size` (width, height) pixels."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for n in range(each):
            pixels = np.array(colour) + rng.normal(0, 20, (size[1], size[0], 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{n}.png")
    return root


def tone_folder(root: Path, each: int = 6, seconds: float = 0.3) -> Path:
    """`root`/<class>/<n>.wav: high and low tones of any phase and loudness."""
    rng = np.random.default_rng(0)
    time = np.arange(int(RATE * seconds)) / RATE
    for name, pitch in TONES.items():
        (root / name).mkdir(parents=True)
        for n in range(each):
            wave = rng.uniform(0.2, 0.9) * np.sin(2 * np.pi * (pitch * time + rng.random()))
            soundfile.write(root / name / f"{n}.wav", wave, RATE)
    return root


def stamp_folder(root: Path) -> Path:
    """`root`/<kind>/<name>: stamps like Tux Paint's."""
    for number, (kind, name) in enumerate((kind, name) for kind, names in STAMPS.items() for name in names):
        write_stamp(root / kind / name, number, kind)
    return root


def write_stamp(file: Path, number: int, kind: str) -> None:
    """A picture in one of the modes that they come in, its names, and two recordings."""
    rate = 44_100
    rng, mode = np.random.default_rng(number), ["RGBA", "P", "L", "LA", "RGB"][number % 5]
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 100, (20, 24, 4), dtype=np.uint8) + np.uint8(100 * (kind == "food"))
    Image.fromarray(pixels).convert(mode).save(file.with_suffix(".png"))
    name = file.name.removesuffix("_2")
    names = f"A {name}.\nfr.utf8=Un·e {name} !\nru.utf8=Ж{name}я\nde.utf8= \nwrong\n"
    file.with_suffix(".txt").write_text(names, "utf-8")
    time = np.arange(int(0.3 * rate)) / rate
    for language, pitch in (("fr", 300), ("ru", 900)):
        wave = 0.5 * np.sin(2 * np.pi * (pitch + 40 * number) * time)
        soundfile.write(file.with_name(f"{file.name}_desc_{language}.ogg"), wave, rate)


def text_rows(count: int = 30, seed: int = 0) -> list[dict[str, Any]]:
    """Rows {"text", "label"}: a few words about a colour; no two alike."""
    rng = np.random.default_rng(seed)
    names = list(WORDS)
    rows = []
    for i in range(count):
        words = WORDS[names[i % 3]].split()
        rows.append({"text": f"{i} " + " ".join(rng.permutation(words).tolist()), "label": names[i % 3]})
    return rows


def captioned(root: Path, each: int = 8) -> list[dict[str, Any]]:
    """Rows {"image": path, "text": words about it, "label": colour} on pictures below `root`."""
    colour_folder(root, each)
    rng = np.random.default_rng(1)
    return [
        {"image": str(root / name / f"{n}.png"), "text": f"{n} {' '.join(rng.permutation(WORDS[name].split()))}",
         "label": name}
        for name in COLOURS
        for n in range(each)
    ]  # fmt: skip


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A CSV file of the rows, header from the first."""
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def tiny_run(recipe: Any, out: Path, **given: Any) -> unitx.Run:
    """`unitx.train` with `TINY` settings."""
    return unitx.train(recipe, echo=False, out=str(out), **{**TINY, **given})
