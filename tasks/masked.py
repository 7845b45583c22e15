"""Masked modelling: say what is missing, in any modality and without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Backbone, Linear
from unitx.config import BackboneConfig, heads_for
from unitx.errors import UnitxError
from unitx.registry import register_task
from unitx.task import Sketch, Task, TaskInfo, TaskLoss
from unitx.tokens import Pieces, Prepared, Targets, Tokens

if TYPE_CHECKING:
    from unitx.batches import Drawn, Preparer
    from unitx.model import Model
    from unitx.tokenizer import Processor

RATIOS = {"text": 0.3}  # of what is hidden where nobody says; of all else:
RATIO = 0.75  # of patches, which tell much of their neighbours (He et al. 2022)
SPAN = 0.2  # chance that a hidden run of ids ends with each (SpanBERT, Joshi et al. 2020)
HEAD = 32  # width of an attention head
EPS = 1e-3  # variance of an even patch, which is normed by this


class Hidden(NamedTuple):
    """What is missing of one part of a sequence: its modality, ids (m,) or patches (m, features), and their positions
    (m, 3)."""

    modality: str
    values: np.ndarray
    positions: np.ndarray


@register_task("masked")
class Masked(Task):
    """What is hidden of a sequence is told from the rest, which alone passes the backbone (MAE, He et al. 2022); a few
    blocks of the head's own see a mark in each place where something is missing.

    Patches of pictures, sounds and videos are told as numbers, normed patch by patch, with the squared error; texts
    lose runs of ids (SpanBERT, Joshi et al. 2020), which are told with the cross-entropy. No data need labels.
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            mask_ratio: of a sequence, hidden; None for 0.3 of a text and 0.75 of all else.
            depth: blocks of the head's own.

        Raises:
            UnitxError: an option is out of range.
        """

        mask_ratio: float | None = None
        depth: int = 2

        def __post_init__(self) -> None:
            if (self.mask_ratio is not None and not 0 < self.mask_ratio < 1) or self.depth < 1:
                raise UnitxError(f"mask_ratio must lie between 0 and 1 and depth be at least 1: {self}")

    headline = "loss"
    lower_is_better = True

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        found: dict[str, Any] = {modality: processors[modality] for modality in sorted({*info.reads.values()})}
        for modality, processor in found.items():
            if any(getattr(processor, name, None) for name in ("positions", "depth", "spectrogram")):
                raise UnitxError(
                    f"task '{info.name}' hides parts of {modality}, and the model's {modality} tokenizer must see all "
                    "of it (learned positions, or blocks of its own): train a new one"
                )
        self.decoder_embed = Linear(dim, dim)
        self.decoder = Backbone(BackboneConfig(dim, self.options.depth, heads=heads_for(dim, HEAD)))
        self.mask_tokens = nn.ParameterDict({modality: 0.02 * torch.randn(dim) for modality in found})
        self.heads = nn.ModuleDict({modality: Linear(dim, _width(p)) for modality, p in found.items()})
        for p in self.heads.parameters():
            nn.init.zeros_(p)

    @classmethod
    def hide(cls, info: TaskInfo, prepared: Prepared, rng: np.random.Generator) -> Prepared:
        ratio, begin, parts, hidden = cls.parse_options(info).mask_ratio, 0, [], []
        for modality, pieces in prepared.parts:
            gone = _choose(modality, len(pieces.values), ratio or RATIOS.get(modality, RATIO), rng)
            hidden.append(Hidden(modality, pieces.values[gone], pieces.positions[gone] + begin))
            seen = Pieces(pieces.values[~gone], pieces.positions[~gone], pieces.shortened)
            begin += int(seen.positions.max()) + 1  # as `collate` counts
            parts.append((modality, seen))
        return replace(prepared, parts=parts, target=hidden)

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> list[list[Hidden]]:
        return targets

    @classmethod
    def count(cls, info: TaskInfo, examples: list[Prepared]) -> int:
        """The ids and patches that are hidden."""
        return sum(len(hidden.values) for example in examples for hidden in example.target)

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        each = self.judged(tokens, targets)
        patches = {"mse": each[:, 2].sum().detach()} if len(self.heads) > ("text" in self.heads) else {}
        return TaskLoss(each[:, 0].sum() + each[:, 2].sum(), patches)

    def judged(self, tokens: Tokens, targets: Targets) -> Tensor:
        """(n, 5): of each sequence the summed nats of its hidden ids and how many are told rightly, the summed squared
        error of its hidden patches, how many ids these were, and how many patches."""
        sums = tokens.vectors.new_zeros(len(targets.values), 5, dtype=torch.float32)
        for modality, (told, values, owners) in self.told(tokens, targets).items():
            each = told.new_zeros(len(owners), 5)
            if modality == "text":
                each[:, 0], each[:, 3] = F.cross_entropy(told, values, reduction="none"), 1
                each[:, 1] = (told.argmax(1) == values).float()
            else:
                each[:, 2], each[:, 4] = (told - normed(values)).square().mean(1), 1
            sums = sums.index_add(0, owners, each)
        return sums

    def told(self, tokens: Tokens, targets: Targets) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Modality → what is told of the hidden: logits or normed patches (m, …), what was there (m, …), and the number
        of its sequence in `targets` (m,)."""
        device = tokens.vectors.device
        packed = self.decoder_embed(tokens.vectors).split(tokens.layout.lengths)
        places = tokens.layout.positions.cpu().split(tokens.layout.lengths)
        sequences, positions = [], []
        for row, hidden in zip(targets.rows.tolist(), targets.values, strict=True):
            masks = [self.mask_tokens[part.modality].expand(len(part.values), -1) for part in hidden]
            sequences.append(torch.cat([packed[row], *(mask.to(packed[row].dtype) for mask in masks)]))
            positions.append(np.concatenate([places[row].numpy(), *(part.positions for part in hidden)]))
        if not sequences:
            return {}
        whole = self.decoder(Tokens.from_list(sequences, positions=positions)).to_list()
        missing = _counts(targets.values)
        vectors = torch.cat([x[len(x) - count :] for x, count in zip(whole, missing, strict=True)])
        kinds = [(part.modality, len(part.values)) for hidden in targets.values for part in hidden]
        kind = np.repeat([modality for modality, _ in kinds], [count for _, count in kinds])
        owners = np.repeat(np.arange(len(missing)), missing)
        found = {}
        for modality, head in self.heads.items():
            mine = torch.from_numpy(np.flatnonzero(kind == modality)).to(device)
            values = [part.values for hidden in targets.values for part in hidden if part.modality == modality]
            if len(mine):
                there = torch.from_numpy(np.concatenate(values)).to(device)
                owner = torch.from_numpy(owners).to(device)[mine]
                found[modality] = head(vectors.index_select(0, mine)).float(), there, owner
        return found

    @torch.inference_mode()
    def sketches(self, model: Model, preparer: Preparer, drawn: list[Drawn]) -> list[Sketch]:
        """What was seen, what was told of the rest, and what was there, of rows of one picture, sound or video."""
        found = []
        for one in drawn:
            whole, left = preparer.cut(one.example, one.features, None), preparer.cut_drawn(one, None)
            (modality, pieces), *others = whole.parts
            processor: Any = preparer.processors[modality]
            if others or not hasattr(processor, "shown"):
                continue
            batch = preparer.batch([(self.info, left)]).to(model.device)
            told = self.told(model.encode(batch), batch.targets[self.info.name])
            if modality not in told:
                continue
            places = [tuple(place) for place in pieces.positions.tolist()]
            gone = [places.index(tuple(place)) for place in left.target[0].positions.tolist()]
            there = pieces.values[gone]
            spread, middle = np.sqrt(there.var(1, keepdims=True) + EPS), there.mean(1, keepdims=True)
            seen, restored = pieces.values.copy(), pieces.values.copy()
            seen[gone] = pieces.values.min()
            restored[gone] = told[modality][0].cpu().numpy() * spread + middle
            shown = [processor.shown(values, pieces.grid) for values in (seen, restored, pieces.values)]
            found.append(Sketch(shown, "seen, told (at the true mean and contrast of each patch), true"))
        return found

    def score(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        """The mean loss of what was hidden; of ids also the share that is told rightly and bits an id, of patches their
        mean squared error, where 1 is what their mean would have."""
        nats, right, error, ids, patches = outputs.double().sum(0).tolist()
        scores = {"loss": (nats + error) / max(ids + patches, 1)}
        if ids:
            scores |= {"accuracy": right / ids, "bits": nats / ids / math.log(2)}
        return scores | ({"mse": error / patches} if patches else {})


def normed(patches: Tensor) -> Tensor:
    """Each patch (m, features) of mean 0 and variance 1, so that its shape counts and not its contrast."""
    variance, mean = torch.var_mean(patches, dim=1, keepdim=True, correction=0)
    return (patches - mean) / (variance + EPS).sqrt()


def _choose(modality: str, count: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) bool: about a share of them, at least one and not all; of texts in runs."""
    gone = np.zeros(count, dtype=bool)
    wanted = min(count - 1, max(1, round(ratio * count)))
    if modality != "text":
        gone[rng.permutation(count)[:wanted]] = True
        return gone
    while (left := wanted - int(gone.sum())) > 0:
        length = min(int(rng.geometric(SPAN)), left)
        start = int(rng.integers(count - length + 1))
        gone[start : start + length] = True
    return gone


def _counts(targets: list[list[Hidden]]) -> list[int]:
    return [sum(len(part.values) for part in hidden) for hidden in targets]


def _width(processor: Any) -> int:
    """Numbers that tell an id or a patch.

    Raises:
        UnitxError: the processor does not say how many.
    """
    for name in ("vocab_size", "width"):
        if hasattr(processor, name):
            return getattr(processor, name)
    raise UnitxError(f"{type(processor).__name__} does not say how many numbers a patch has: give it a `width`")
