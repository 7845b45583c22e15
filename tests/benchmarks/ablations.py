"""What each choice in the demo's recipe gives: `senses` trained with one thing changed, scored on its validation part.

    python tests/benchmarks/ablations.py --steps 300
    python tests/benchmarks/ablations.py --steps 300 --seed 1 --only "as it is" "depth 6"

Prints a table of recall@1 among the 100 concepts and the seconds of training. Changes that no user needs to make are
made to the code here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unitx
from unitx import optim
from unitx.batches import Steps
from unitx.task import TaskLoss
from unitx.tasks import align
from unitx.tasks.align import Align
from unitx.tokens import Targets, Tokens
from unitx.worlds.emoji import EmojiWorld

SHOWN = {"image→name": "image→text", "speech→name": "audio→text", "speech→image": "audio→image"}


def contrast_in_the_batch(self: Align, tokens: Tokens, targets: Targets) -> TaskLoss:
    """In place of proxies: every item against all others, those of its concept as positives (Khosla et al. 2020)."""
    z, concept = self.outputs(tokens, targets.rows), targets.values["concept"]
    others = ~torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / self.options.temperature).masked_fill(~others, -torch.inf).log_softmax(-1)
    positive = (concept[:, None] == concept) & others
    mean = logits.masked_fill(~positive, 0).sum(-1) / positive.sum(-1).clamp(min=1)
    return TaskLoss(-mean.sum(), {})


def learn_the_temperature() -> list[Any]:
    """As in CLIP (Radford et al. 2021): it begins at 0.07 and has a parameter of its own."""
    build = Align.__init__

    def init(self: Align, *given: Any) -> None:
        build(self, *given)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def logits(self: Align, z: Tensor) -> Tensor:
        return z @ F.normalize(self.proxies, dim=-1).T * self.log_scale.exp()

    return [mock.patch.object(Align, "__init__", init), mock.patch.object(Align, "_logits", logits)]


CHANGES: dict[str, tuple[dict[str, Any], Callable[[], list[Any]]]] = {
    "as it is": ({}, list),
    "AdamW alone, 6e-3": ({"optimizer": "adamw"}, list),
    "AdamW alone, 3e-3": ({"optimizer": "adamw", "lr": 3e-3}, list),
    "Muon's rate of 24e-3 for AdamW's part too": ({"lr": 24e-3}, lambda: [mock.patch.object(optim, "MUON_RATE", 1.0)]),
    "depth 6": ({"model.depth": 6}, list),
    "patches of 4, as many items a step": (
        {"tokenizers.image.patch": 4, "tokenizers.image.max_tokens": 64, "batch_tokens": 5_900}, list,
    ),
    "no oriented gradients": ({"tokenizers.image.orientations": 0}, list),
    "ViT's linear patch embedding, pictures and sound": (
        {"tokenizers.image.orientations": 0, "tokenizers.image.merges": 0, "tokenizers.audio.merges": 0}, list,
    ),
    "full variation from the start": ({}, lambda: [mock.patch.object(Steps, "strength", lambda *_: 1.0)]),
    "no batch norm": ({}, lambda: [mock.patch.object(align, "_batch_norm", lambda _, x: x)]),
    "a learned temperature": ({}, learn_the_temperature),
    "contrast within the batch, no proxies": ({}, lambda: [mock.patch.object(Align, "loss", contrast_in_the_batch)]),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=CHANGES)
    arguments = parser.parse_args()
    world = EmojiWorld().prepare()  # once for all runs
    print(f"| change, {arguments.steps} steps | {' | '.join(SHOWN)} | seconds |\n|{' --- |' * (len(SHOWN) + 2)}")
    for name in arguments.only:
        given, patches = CHANGES[name]
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            for patch in patches():
                stack.enter_context(patch)
            settings = {"steps": arguments.steps, "seed": arguments.seed, "evaluations": 1, "data": world, **given}
            run = unitx.train("senses", out=f"{folder}/run", echo=False, **settings)
        seconds = max(line.get("seconds", 0) for line in run.history)
        scores = (f"{run.metrics[f'senses/{metric}']:.1%}" for metric in SHOWN.values())
        print(f"| {name} | {' | '.join(scores)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
