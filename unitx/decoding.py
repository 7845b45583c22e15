"""Text from a head that says what comes next, a token a step behind a preallocated key/value cache: drawn, or the
likeliest by beam search. A whole ragged batch goes on at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unitx.errors import UnitxError
from unitx.precision import answering
from unitx.task import Answer
from unitx.tokens import Batch, Layout, Prepared, collate, pack
from unitx.writing import TEXT

if TYPE_CHECKING:
    from unitx.model import Model

LENGTH_PENALTY = 0.6  # power of the length that a finished text's log-probability is divided by (Wu et al. 2016)


class Growing:
    """Sequences that grow by a token a step.

    Args:
        asked: what stands before; the last part of each is text, which goes on.
        room: tokens that will be added at most.

    Attributes:
        vectors: (n, dim), the backbone's output at the last token of each.
    """

    def __init__(self, model: Model, asked: Sequence[Prepared], room: int):
        self.model = model
        batch = collate(asked, model.modalities).to(model.device)
        like = torch.empty(0, dtype=model.compute_dtype, device=model.device)
        self.cache = model.backbone.new_cache(len(asked), max(map(len, asked)) + room, like)
        out = model.encode(batch, cache=self.cache)
        self.vectors = out.vectors.index_select(0, (out.layout.offsets[1:].long() - 1)[out.layout.inverse])
        self.positions = [_next_position(sequence) for sequence in asked]
        self.starts = [len(sequence.parts[-1][1]) for sequence in asked]  # within the text itself
        self.kinds = [_kind(sequence, model) for sequence in asked]

    def append(self, ids: Tensor) -> None:
        """Let each go on with its id (n,)."""
        n = len(ids)
        positions = torch.tensor(self.positions, device=ids.device)[:, None].repeat(1, 3)
        kinds = torch.tensor(self.kinds, device=ids.device)
        layout = Layout([1] * n, [0] * n, list(range(n)), positions, kinds, ids)
        batch = Batch({TEXT: ids}, {TEXT: [1] * n}, None, layout, starts=self.starts)
        self.vectors = self.model.encode(batch, cache=self.cache).vectors
        self.positions = [place + 1 for place in self.positions]
        self.starts = [place + 1 for place in self.starts]

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences, each any number of times."""
        chosen = rows.tolist()
        self.cache.select(rows)
        self.vectors = self.vectors.index_select(0, rows)
        self.positions = [self.positions[i] for i in chosen]
        self.starts = [self.starts[i] for i in chosen]
        self.kinds = [self.kinds[i] for i in chosen]


def _next_position(sequence: Prepared) -> int:
    """Where the next token stands on the axes of the rotary positions, as `collate` counts them."""
    return sum(int(pieces.positions.max()) + 1 for _, pieces in sequence.parts)


def _kind(sequence: Prepared, model: Model) -> int:
    """The number of the modality that tells whether adapters act on the sequence (see `lora.gated`)."""
    free = [modality for modality, _ in sequence.parts if modality not in model.frozen]
    return model.modalities.index(free[0] if free else TEXT)


@torch.inference_mode()
def draw_texts(
    model: Model, head: Any, asked: Sequence[Prepared], max_tokens: int, draw: Sampler, stops: Sequence[str] = ()
) -> list[str]:
    """Continue each text, ids drawn one by one, until its end, a stop string or `max_tokens`."""
    text: Any = model.processors[TEXT]
    with answering(model):
        growing = Growing(model, asked, max_tokens)
        said: list[list[int]] = [[] for _ in asked]
        texts: list[str | None] = [None] * len(asked)
        for left in reversed(range(max_tokens)):
            ids = draw(head.next_logits(growing.vectors))
            for i, token in enumerate(ids.tolist()):
                if texts[i] is None:
                    said[i].append(token)
                    texts[i] = _finished(text, said[i], stops)
            if None not in texts or not left:  # nothing is read behind the last, which may have no position
                break
            growing.append(ids)
        return [text.decode(ids) if done is None else done for ids, done in zip(said, texts, strict=True)]


def _finished(text: Any, ids: list[int], stops: Sequence[str]) -> str | None:
    """The whole continuation if it ends here: at the end mark, or before a stop string."""
    if ids[-1] in text.ends:
        return text.decode(ids[:-1])
    if stops:
        said = text.decode(ids)
        ends = [said.find(stop) for stop in stops if stop in said]
        if ends:
            return said[: min(ends)]
    return None


@torch.inference_mode()
def write(
    model: Model, head: Any, asked: Sequence[Prepared], beams: int = 1, batch_tokens: int = 8_192
) -> list[list[Answer]]:
    """The likeliest texts behind what was read, best first; with one beam the likeliest token each time.

    Args:
        head: one that `writes`.
        beams: texts that are followed at once, and given for each.

    Returns: of each a list of (text, its probability), at most `beams`.
    """
    text: Any = model.processors[TEXT]
    room = text.max_tokens + 1 - len(text.prompt(""))  # what is written last is not read again
    limit = min(room, head.info.facts.get("longest", room) + 1)
    found: list[list[Answer]] = [[] for _ in asked]
    with answering(model):
        for places in pack([beams * (len(sequence) + limit) for sequence in asked], beams * batch_tokens):
            growing = Growing(model, [asked[i] for i in places], limit)
            for i, beam in zip(places, beam_search(growing, head.next_logits, beams, text.ends, limit), strict=True):
                found[i] = [Answer(text.decode(ids).strip(), float(np.exp(score))) for ids, score in beam]
    return found


class Beam(NamedTuple):
    """The ids of a text, without its end, and the logarithm of its probability."""

    ids: list[int]
    score: float


def beam_search(growing: Any, next_logits: Any, beams: int, ends: Sequence[int], max_tokens: int) -> list[list[Beam]]:
    """The likeliest continuations (Graves 2012, Sutskever et al. 2014), ranked by log-probability over length^0.6.

    A text that has ended keeps its place among those that are followed while its probability holds it there.

    Args:
        growing: n sequences, as `Growing`.
        next_logits: (m, dim) vectors → (m, vocabulary).
        ends: ids that end a text.

    Returns: for each sequence at most `beams` texts, best first.
    """
    n = len(growing.vectors)
    device = growing.vectors.device
    # Only the first copy of each is alive at first, or all would go the same way.
    scores = torch.full((n, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0
    growing.select(torch.arange(n, device=device).repeat_interleave(beams))
    done = torch.zeros(n, beams, dtype=torch.bool, device=device)
    said: list[list[int]] = [[] for _ in range(n * beams)]
    for left in reversed(range(max_tokens)):
        steps = next_logits(growing.vectors).log_softmax(-1).view(n, beams, -1)
        # All ends are one: what they end is one text.
        steps[..., ends[0]] = steps[..., list(ends)].logsumexp(-1)
        steps[..., list(ends[1:])] = -torch.inf
        # A text that has ended goes on with its end, at no cost, whatever the model would say.
        steps = steps.masked_fill(done[..., None], -torch.inf)
        steps[..., ends[0]] = steps[..., ends[0]].masked_fill(done, 0.0)
        scores, places = (scores[..., None] + steps).flatten(1).topk(beams)
        vocabulary = steps.shape[-1]
        rows = (torch.arange(n, device=device)[:, None] * beams + places // vocabulary).flatten()
        ids, was_done = (places % vocabulary).flatten(), done.flatten()[rows]
        said = [
            said[row] if ended else [*said[row], token]
            for row, token, ended in zip(rows.tolist(), ids.tolist(), was_done.tolist(), strict=True)
        ]
        done = (was_done | torch.isin(ids, torch.tensor(ends, device=device))).view(n, beams)
        if done.all() or not left:
            break
        growing.select(rows)
        growing.append(ids)
    return [_ranked(said[i * beams : (i + 1) * beams], scores[i].tolist(), ends) for i in range(n)]


def _ranked(texts: list[list[int]], scores: list[float], ends: Sequence[int]) -> list[Beam]:
    alive = [(ids, score) for ids, score in zip(texts, scores, strict=True) if score > -np.inf]
    alive.sort(key=lambda found: -found[1] / max(len(found[0]), 1) ** LENGTH_PENALTY)
    return [Beam(ids[:-1] if ids and ids[-1] in ends else ids, score) for ids, score in alive]


class Sampler:
    """Draws one id a row of logits (n, vocabulary).

    Args:
        temperature: 0 takes the likeliest id, 1 draws from the model's own distribution.
        top_k: draw from the k likeliest only. top_p: from the likeliest that together have this probability.

    Raises:
        UnitxError: one of them is out of range.
    """

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, seed: int | None, device: torch.device
    ):
        if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
            raise UnitxError("temperature must be at least 0, top_k at least 1, and top_p above 0 and at most 1")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.random = torch.Generator(device)
        if seed is None:
            self.random.seed()
        else:
            self.random.manual_seed(seed)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial(self.probabilities(logits), 1, generator=self.random)[:, 0]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(n, vocabulary): the distribution that is drawn from."""
        logits = logits / self.temperature
        if self.top_k is not None:
            values, places = logits.topk(min(self.top_k, logits.shape[-1]))
            logits = torch.full_like(logits, -torch.inf).scatter(1, places, values)  # exactly k, also among equals
        if self.top_p is not None:
            ordered, places = logits.softmax(-1).sort(descending=True)
            # The token that crosses the line is still in: what counts is the probability before it.
            outside = ordered.cumsum(-1) - ordered >= self.top_p
            logits = logits.masked_fill(outside.scatter(1, places, outside), -torch.inf)
        return logits.softmax(-1)
