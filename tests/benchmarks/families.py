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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from unitx.model import Model
from unitx.registry import FAMILIES

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "published_models.py"))
drawn, sequences = SMALL["drawn"], SMALL["sequences"]


def lines(file: str | None) -> int:
    return len(Path(file or "").read_text("utf-8").splitlines())


def hidden_states(original: Any, values: torch.Tensor) -> torch.Tensor:
    return original.base_model(values[None]).last_hidden_state[0]


def of_sounds(original: Any, values: torch.Tensor) -> torch.Tensor:
    return SMALL["audio_encoder"](original)(values[None]).last_hidden_state[0]


@torch.no_grad()
def difference(original: Any, items: list[torch.Tensor], modality: str, theirs: Callable[..., torch.Tensor]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        original.save_pretrained(folder)
        ours = Model.from_pretrained(folder, "cpu").hidden_states(items, modality)
    return max((a - theirs(original, item)).abs().max().item() for a, item in zip(ours, items, strict=True))


def tried() -> Iterator[tuple[Any, float]]:
    """Each original with its difference."""
    for case in SMALL["CASES"].values():
        original = drawn(*case)
        yield original, difference(original, sequences(), "text", hidden_states)
    for *case, extractor in SMALL["AUDIO"].values():
        original = drawn(*case)
        yield original, difference(original, SMALL["audio_windows"](extractor), "audio", of_sounds)


def main() -> None:
    found: dict[str, list[tuple[Any, float]]] = defaultdict(list)
    for original, worst in tried():
        found[original.config.model_type].append((original, worst))
    print("| family | our file | lines | transformers' modelling file | largest difference | configurations |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, of_kind in found.items():
        ours, theirs = (inspect.getsourcefile(one) for one in (FAMILIES.get(kind), type(of_kind[0][0])))
        worst = max(difference for _, difference in of_kind)
        print(f"| {kind} | {Path(ours or '').name} | {lines(ours)} | {lines(theirs)} | {worst:.1e} | {len(of_kind)} |")


if __name__ == "__main__":
    main()
