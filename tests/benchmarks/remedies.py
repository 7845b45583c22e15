"""What is said to help where tasks share a backbone: each remedy beside the recipe as it is, and who hinders whom.

    python tests/benchmarks/remedies.py --steps 800 --set data.concepts=20 --out runs/remedies

- uncertainty: losses weighted by what they leave open (Kendall et al. 2018);
- temperature: tasks with few rows seen more often than their weights say (Raffel et al. 2020), at temperature 2;
- wider: half as deep and wider, about as many weights;
- norms: a gain of each norm of the backbone for every modality;
- rate: twice the learning rate, as a step of many tasks may bear.

The score of each task on its held-out rows at the end of a run; nothing chooses a checkpoint by them. Then the cosines
between the tasks' gradients on the shared backbone, at the end of the run as it is, are printed and drawn. What was
scored is kept in OUT/scores.json; started again, the command goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import conflict
import torch
import torch.nn.functional as F
from convergence import arguments, begun, note, table
from results import whole
from torch import Tensor, nn

import unitx
from unitx import backbone
from unitx.config import SIZES, BackboneConfig
from unitx.job import build_job
from unitx.recipe import Recipe, backbone_config, update

MODALITIES = 8  # no recipe has more


class ModalityNorm(nn.Module):
    """Layer normalisation with a gain for each modality.

    Attributes:
        modality: (N,), of each token.
    """

    modality: Tensor

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(MODALITIES, 1, dim))  # no matrix, which Muon would take for a map
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain[:, 0].to(x.dtype).index_select(0, self.modality)
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * gain


@contextmanager
def modality_norms() -> Iterator[None]:
    """Within it backbones are made with such norms on the residual stream, and tell them the modality of each token."""
    make_norm, forward = backbone.make_norm, backbone.Backbone.forward

    def make(config: BackboneConfig, dim: int, bias: bool) -> nn.Module:
        return ModalityNorm(dim, config.norm_eps) if dim == config.dim else make_norm(config, dim, bias)

    def telling(self: Any, tokens: Any, *rest: Any, **named: Any) -> Any:
        for module in self.modules():
            if isinstance(module, ModalityNorm):
                module.modality = tokens.layout.modality
        return forward(self, tokens, *rest, **named)

    with patch.object(backbone, "make_norm", make), patch.object(backbone.Backbone, "forward", telling):
        yield


def wider(recipe: Recipe) -> dict[str, int]:
    """Half as deep, and as much wider as keeps about the number of weights; a head stays as wide."""
    shape = backbone_config(recipe)
    heads = round(shape.heads * 2**0.5)
    return {"model.depth": shape.depth // 2, "model.heads": heads, "model.dim": heads * shape.head_dim}


def main() -> None:
    parser = arguments(__doc__, 800, "runs/remedies")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    recipe, results = begun(given)
    remedies: dict[str, dict[str, Any]] = {
        "as it is": {}, "uncertainty": {"loss_weighting": "uncertainty"}, "temperature": {"temperature": 2.0},
        "wider": wider(recipe), "norms": {}, "rate": {"lr": 2 * (recipe.lr or SIZES[recipe.size].lr)},
    }  # fmt: skip
    for arm, changes in remedies.items():
        if results.has(arm=arm):
            continue
        place = given.out / arm.replace(" ", "-")
        shutil.rmtree(place, ignore_errors=True)  # one that was cut short
        with modality_norms() if arm == "norms" else nullcontext():
            changed = update(recipe, steps=given.steps, **changes)
            run = unitx.train(changed, out=place, seed=given.seed, evaluations=1, echo=False)
        note(whole(run, given.steps), arm, given.seed, results)
        print(table(results, list(remedies)), flush=True)
    if not (picture := given.out / "conflict.png").is_file():
        job = build_job(update(recipe, steps=given.steps))
        conflict.show(unitx.Model.from_pretrained(given.out / "as-it-is"), job, 20, picture)


if __name__ == "__main__":
    main()
