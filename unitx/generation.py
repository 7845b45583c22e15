"""Text from a model: continuations of prompts, and what a task writes for items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from unitx.decoding import Sampler, draw_texts
from unitx.embedding import as_list, read_asked
from unitx.errors import BadItem, UnitxError
from unitx.media import is_missing_file, named_file
from unitx.tokens import Pieces, Prepared, line_positions
from unitx.writing import TEXT

if TYPE_CHECKING:
    from unitx.model import Model


def generate(
    model: Model,
    prompts: Iterable[Any],
    task: str | None = None,
    *,
    max_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
) -> list[str]:
    """Draw a text for each prompt; a method of `Model`. The likeliest texts are `predict`'s.

    Args:
        prompts: texts, or files of them, to continue, an empty one begins a new text; of a task that writes
            (`caption`, `translate`, …) items, as for `predict`.
        task: one that generates; may be left out where the model has one.
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
    draw = Sampler(temperature, top_k, top_p, seed, model.device)
    if max_tokens < 0:
        raise UnitxError(f"max_tokens is {max_tokens}; it must be at least 0")
    if isinstance(prompts, str):
        raise UnitxError(f"give a list of prompts, not one: [{prompts!r}]")
    text: Any = model.processors[TEXT]
    if head.writes:
        asked = [found for found in read_asked(model, head, as_list(prompts)) if found]
    else:
        asked = [_prompt(text.prompt(_opened(prompt))) for prompt in prompts]
    if not asked:
        return []
    longest, room = max(len(sequence.parts[-1][1]) for sequence in asked), getattr(text, "positions", 0)
    if room and longest + max_tokens > room:
        raise UnitxError(
            f"the model has positions for {room} tokens, and the longest prompt has {longest}: "
            f"ask for at most {max(room - longest, 0)} more with max_tokens, or give shorter prompts"
        )
    return draw_texts(model, head, asked, max_tokens, draw, [stop] if isinstance(stop, str) else list(stop))


def _opened(prompt: Any) -> Any:
    """Raises: BadItem: it names a text file that is not there."""
    if is_missing_file(prompt):
        raise BadItem(f"there is no file {prompt}; if it is a text, put a word before it")
    return named_file(prompt)


def _prompt(ids: Any) -> Prepared:
    return Prepared([(TEXT, Pieces(ids, line_positions(len(ids))))], prefix_parts=0)
