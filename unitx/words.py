"""Words at their times: what stands for a sound before the first block learns to be like what stands for its words.

Most of hearing is telling words apart, and a sentence's meaning says little about it. Where data tell when each word is
said, every token of the sound has an answer of its own: the text tokenizer's vectors of the word, among all words of
the batch (word-aligned contrast, WACO, Ouyang et al. 2023, here at the input of the backbone).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.errors import BadItem
from unitx.tokenizer import Tokenizer
from unitx.tokens import Layout, Tokens, segment_mean

WEIGHT = 10  # of its loss: a gradient of sentences that are not understood yet is noise to what learns words
SILENCE = -1  # the number of no word
Words = list[tuple[float, str]]  # (the second at which it begins, the word); "" for silence


class Said(NamedTuple):
    """A sequence by its packed number, its words, and the seconds that a step along its axis of time takes."""

    row: int
    words: Words
    seconds: float


class Heard(NamedTuple):
    """Tokens that a word is heard in.

    Attributes:
        places: (n,) in the packed batch.
        words: (n,) numbers of their words.
        share: (n,) of each in those of its sequence.
        ids: of each word, by number, those of the text tokenizer: what it cannot tell apart is one word.
    """

    places: Tensor
    words: Tensor
    share: Tensor
    ids: list[np.ndarray]


def parse_words(cell: Any) -> Words:
    """The words of a cell, [(second, word), …].

    Raises:
        BadItem: it is something else, or the seconds are no numbers or fall.
    """
    try:
        words = [(float(second), str(word)) for second, word in ([] if cell is None else cell)]
    except (TypeError, ValueError) as error:
        raise BadItem(f"{str(cell)[:60]} is no list of words: give [[second, word], …]") from error
    if any(not a <= b for (a, _), (b, _) in pairwise([(0.0, ""), *words, (math.inf, "")])):
        raise BadItem(f"the words of {str(cell)[:60]}… must stand in the order of their seconds, from 0 on")
    return words


def heard_words(layout: Layout, said: list[Said], encode: Callable[[str], np.ndarray]) -> Heard:
    """Which word each token of some sequences is in the middle of; `encode` gives the ids of one."""
    offsets, times = layout.offsets.tolist(), layout.positions[:, 0].cpu().numpy()
    encoded = {word: encode(word) for of_sequence in said for _, word in of_sequence.words}
    known = {ids.tobytes(): ids for ids in encoded.values() if len(ids)}
    numbers = {key: number for number, key in enumerate(known)}
    places, found, shares = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for row, words, seconds in said:
        begins = np.array([second for second, _ in words])
        ids = np.array([numbers.get(encoded[word].tobytes(), SILENCE) for _, word in words])
        middle = (times[offsets[row] : offsets[row + 1]] + 0.5) * seconds
        of_token = np.searchsorted(begins, middle, side="right") - 1
        of_token = np.where(of_token >= 0, ids[of_token], SILENCE)
        (heard,) = np.nonzero(of_token != SILENCE)
        places.append(offsets[row] + heard)
        found.append(of_token[heard])
        shares.append(np.full(len(heard), 1 / max(len(heard), 1), dtype=np.float32))
    packed = [torch.from_numpy(np.concatenate(x)).to(layout.device) for x in (places, found, shares)]
    return Heard(packed[0], packed[1], packed[2], list(known.values()))


@torch.no_grad()
def word_vectors(tokenizer: Tokenizer, words: list[np.ndarray], device: torch.device) -> Tensor:
    """(words, dim): the mean of what a text tokenizer gives for the ids of each word by itself."""
    counts = [len(ids) for ids in words]
    vectors = tokenizer(torch.from_numpy(np.concatenate(words)).to(device), counts)
    return segment_mean(vectors, torch.repeat_interleave(torch.tensor(counts, device=device)), len(words))


def word_contrast(tokens: Tokens, heard: Heard, vectors: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Each token against all words.

    Args:
        tokens: a model's output.
        vectors: (words, dim) of the words.

    Returns: () the sum over sequences of their tokens' mean loss, and () that of how often the word was the nearest.
    """
    middle = vectors.mean(0)
    x = cast(Tensor, tokens.embedded).index_select(0, heard.places).float()
    logits = F.normalize(x - middle, dim=-1) @ F.normalize(vectors - middle, dim=-1).T / temperature
    found = (logits.argmax(-1) == heard.words).float()
    return (F.cross_entropy(logits, heard.words, reduction="none") * heard.share).sum(), (found * heard.share).sum()
