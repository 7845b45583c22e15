"""Text from a language model, with a preallocated key/value cache and a whole ragged batch of prompts at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unitx.errors import UnitxError
from unitx.precision import answering
from unitx.tokens import Batch, Layout, Pieces, Prepared, collate, line_positions

if TYPE_CHECKING:
    from unitx.model import Model


@torch.inference_mode()
def generate(
    model: Model,
    prompts: Iterable[str],
    task: str | None = None,
    *,
    max_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
) -> list[str]:
    """Continue each prompt; a method of `Model`.

    Args:
        prompts: texts; an empty one begins a new text.
        task: one that generates (`next_token`); may be left out where the model has one.
        max_tokens: the most tokens to add.
        temperature: 0 takes the likeliest token, 1 draws from the model's own distribution.
        top_k: draw from the k likeliest tokens only (Fan et al. 2018).
        top_p: draw from the likeliest tokens that together have this probability (Holtzman et al. 2020).
        stop: strings that end a continuation, and are left out of it.
        seed: of the draws.

    Returns: the continuations, without their prompts.

    Raises:
        UnitxError: no language model, an argument out of range, or more tokens than a published model has positions.
    """
    head = model.head(task or model.only_task("generates"))
    if not head.generates:
        raise UnitxError(f"task '{head.info.name}' ({head.info.kind}) does not generate text")
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise UnitxError("temperature must be at least 0, top_k at least 1, and top_p above 0 and at most 1")
    if max_tokens < 0:
        raise UnitxError(f"max_tokens is {max_tokens}; it must be at least 0")
    if isinstance(prompts, str):
        raise UnitxError(f"give a list of prompts, not one: [{prompts!r}]")
    modality = next(iter(head.info.reads.values()))
    text: Any = model.processors[modality]
    given = [text.prompt(prompt) for prompt in prompts]
    if not given:
        return []
    longest, room = max(map(len, given)), getattr(text, "positions", 0)
    if room and longest + max_tokens > room:
        raise UnitxError(
            f"the model has positions for {room} tokens, and the longest prompt has {longest}: "
            f"ask for at most {max(room - longest, 0)} more with max_tokens, or give shorter prompts"
        )
    stops = [stop] if isinstance(stop, str) else list(stop)
    draw = Sampler(temperature, top_k, top_p, seed, model.device)
    return _continue(model, head, modality, given, max_tokens, draw, stops)


def _continue(
    model: Model, head: Any, modality: str, given: list[np.ndarray], max_tokens: int, draw: Sampler, stops: list[str]
) -> list[str]:
    text: Any = model.processors[modality]
    with answering(model):
        prepared = [Prepared([(modality, Pieces(ids, line_positions(len(ids))))], prefix_parts=0) for ids in given]
        batch = collate(prepared, model.modalities).to(model.device)
        room = max(len(ids) for ids in given) + max_tokens
        like = torch.empty(0, dtype=model.compute_dtype, device=model.device)
        cache = model.backbone.new_cache(len(given), room, like)
        out = model.encode(batch, cache=cache)
        last = (out.layout.offsets[1:].long() - 1)[out.layout.inverse]
        vectors = out.vectors.index_select(0, last)
        said: list[list[int]] = [[] for _ in given]
        texts: list[str | None] = [None] * len(given)
        for _ in range(max_tokens):
            ids = draw(head.next_logits(vectors))
            for i, token in enumerate(ids.tolist()):
                if texts[i] is None:
                    said[i].append(token)
                    texts[i] = _finished(text, said[i], stops)
            if None not in texts:
                break
            vectors = model.encode(_next_tokens(model, modality, ids, cache.lengths), cache=cache).vectors
        return [text.decode(ids) if done is None else done for ids, done in zip(said, texts, strict=True)]


def _next_tokens(model: Model, modality: str, ids: Tensor, places: list[int]) -> Batch:
    """A batch of B sequences of the one token that comes next, in the order of the prompts."""
    b, kinds = len(ids), torch.full_like(ids, model.modalities.index(modality))
    positions = torch.tensor(places, device=ids.device)[:, None].repeat(1, 3)
    layout = Layout([1] * b, [0] * b, list(range(b)), positions, kinds, ids)
    return Batch({modality: ids}, {modality: [1] * b}, None, layout, starts=list(places))


def _finished(text: Any, ids: list[int], stops: list[str]) -> str | None:
    """The whole continuation if it ends here: at the end mark, or before a stop string."""
    if ids[-1] in text.ends:
        return text.decode(ids[:-1])
    if stops:
        said = text.decode(ids)
        ends = [said.find(stop) for stop in stops if stop in said]
        if ends:
            return said[: min(ends)]
    return None


class Sampler:
    """Draws one id a row of logits (n, vocabulary)."""

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, seed: int | None, device: torch.device
    ):
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
