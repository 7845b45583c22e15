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
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf

from unitx.model import Model
from unitx.registry import FAMILIES

SMALL = runpy.run_path(str(Path(__file__).parent.parent / "published_models.py"))
drawn, sequences = SMALL["drawn"], SMALL["sequences"]


def lines(file: str | None) -> int:
    return len(Path(file or "").read_text("utf-8").splitlines())


def of_text(original: Any, values: torch.Tensor) -> Any:
    return original.base_model(values[None])


def of_picture(original: Any, values: torch.Tensor) -> Any:
    base = original.base_model
    return base(values[None], **({} if "Dinov2" in type(base).__name__ else {"interpolate_pos_encoding": True}))


def of_sound(original: Any, values: torch.Tensor) -> Any:
    return SMALL["audio_encoder"](original)(values[None])


@torch.no_grad()
def difference(original: Any, tried: list[tuple[list[torch.Tensor], str, Callable[[torch.Tensor], Any]]]) -> float:
    """Over items, their modality, and what the original gives for one."""
    with tempfile.TemporaryDirectory() as folder:
        original.save_pretrained(folder)
        model = Model.from_pretrained(folder, "cpu")
    return max(
        (ours - theirs(item).last_hidden_state[0]).abs().max().item()
        for items, modality, theirs in tried
        for ours, item in zip(model.hidden_states(items, modality), items, strict=True)
    )


def tried() -> Iterator[tuple[Any, float]]:
    """Each original with its difference."""
    for case in SMALL["CASES"].values():
        original = drawn(*case)
        yield original, difference(original, [(sequences(), "text", partial(of_text, original))])
    for case in SMALL["IMAGES"].values():
        original = drawn(*case)
        items = SMALL["pictures"](original.config.patch_size)
        yield original, difference(original, [(items, "image", partial(of_picture, original))])
    for case in SMALL["TOWERS"].values():
        original = drawn(case)
        items = SMALL["pictures"](original.config.vision_config.patch_size)
        yield original, difference(original, [
            (items, "image", lambda x, m=original: m.vision_model(x[None], interpolate_pos_encoding=True)),
            (sequences(), "text", lambda x, m=original: m.text_model(x[None])),
        ])  # fmt: skip
    for *case, extractor in SMALL["AUDIO"].values():
        original = drawn(*case)
        items = SMALL["audio_windows"](extractor)
        yield original, difference(original, [(items, "audio", partial(of_sound, original))])
    for case in SMALL["VIDEOS"].values():
        original = drawn(*case)
        yield original, difference(original, [(SMALL["clips"](original.config), "video", partial(of_text, original))])
    for architecture, arguments in SMALL["TIMM"].values():
        yield of_timm(architecture, arguments)


@torch.no_grad()
def of_timm(architecture: str, arguments: dict[str, Any]) -> tuple[Any, float]:
    original = drawn(lambda: timm.create_model(architecture, dynamic_img_size=True, **arguments))
    height, width = original.patch_embed.img_size
    items = [torch.randn(3, *size) for size in ((height, width), (2 * height, width))]
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(original, folder, model_args=arguments, safe_serialization=True)
        ours = Model.from_pretrained(folder, "cpu").hidden_states(items)
    theirs = [original.forward_features(item[None])[0] for item in items]
    return original, max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def family_of(original: Any) -> str:
    return original.config.model_type if hasattr(original, "config") else "timm"


def main() -> None:
    found: dict[str, list[tuple[Any, float]]] = defaultdict(list)
    for original, worst in tried():
        found[family_of(original)].append((original, worst))
    print("| family | our file | lines | the original's modelling file | largest difference | configurations |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind, of_kind in found.items():
        ours, theirs = (inspect.getsourcefile(one) for one in (FAMILIES.get(kind), type(of_kind[0][0])))
        worst = max(difference for _, difference in of_kind)
        print(f"| {kind} | {Path(ours or '').name} | {lines(ours)} | {lines(theirs)} | {worst:.1e} | {len(of_kind)} |")


if __name__ == "__main__":
    main()
