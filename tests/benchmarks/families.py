"""The table of published families in docs/results.md: how long our key map is, and how close the answers are.

    python tests/benchmarks/families.py

Over the configurations of tests/published_models.py, with every weight drawn: the largest difference of final hidden
states, in fp32, ragged batches of mixed lengths. Lines are those of the files, comments and docstrings included.
"""

from __future__ import annotations

import inspect
import runpy
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from unitx.model import Model
from unitx.registry import FAMILIES

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "published_models.py"))
drawn, sequences = SMALL["drawn"], SMALL["sequences"]


def lines(file: str | None) -> int:
    return len(Path(file or "").read_text("utf-8").splitlines())


@torch.no_grad()
def difference(original: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        original.save_pretrained(folder)
        ours = Model.from_pretrained(folder, "cpu").hidden_states(sequences())
    theirs = [original.base_model(ids[None]).last_hidden_state[0] for ids in sequences()]
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    found: dict[str, list[tuple[Any, float]]] = defaultdict(list)
    for case in SMALL["CASES"].values():
        original = drawn(*case)
        found[original.config.model_type].append((original, difference(original)))
    print("| family | our file | lines | transformers' modelling file | largest difference | configurations |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, tried in found.items():
        ours, theirs = (inspect.getsourcefile(one) for one in (FAMILIES.get(kind), type(tried[0][0])))
        worst = max(found for _, found in tried)
        print(f"| {kind} | {Path(ours or '').name} | {lines(ours)} | {lines(theirs)} | {worst:.1e} | {len(tried)} |")


if __name__ == "__main__":
    main()
