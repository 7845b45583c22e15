"""What tasks share that write text: what they read stands before it and sees itself freely, as in a prefix language
model (Liu et al. 2018, Raffel et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unitx.backbone import Linear
from unitx.errors import BadItem, UnitxError
from unitx.media import describe
from unitx.source import parsed_cells
from unitx.task import Sketch, Task, TaskInfo, TaskLoss
from unitx.tokens import Example, Pieces, Prepared, Targets, Tokens, line_positions

if TYPE_CHECKING:
    from unitx.batches import Drawn, Preparer
    from unitx.model import Model
    from unitx.source import Source
    from unitx.tokenizer import Processor

TEXT = "text"  # the modality that is written


@dataclass
class Written:
    """What a task wrote for some sequences, and how likely it found what it should have written.

    Attributes:
        sums: (n, 3) float32: the summed nats of each right text, the bytes they stand for, the tokens predicted.
        texts: n texts of its own.
    """

    sums: Tensor
    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)


class LanguageHead(Task):
    """Says which id comes after each token behind the prefix of a sequence.

    Attributes:
        writes: text that is asked for, in the label's column, from its begin to its end; else a text goes on.
    """

    generates = True
    byte_lengths: Tensor

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        text: Any = processors[TEXT]
        self.head = Linear(dim, text.vocab_size, bias=False)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("byte_lengths", torch.as_tensor(text.byte_lengths), persistent=False)

    @torch.no_grad()
    def start_from(self, heads: Iterable[Task]) -> None:
        """With what a head of the same vocabulary knows of language: a published language model's, before all."""
        for head in heads:
            if isinstance(head, LanguageHead):
                self.head.weight.copy_(head.head.weight)
                return

    @classmethod
    def collate(cls, info: TaskInfo, targets: list[Any]) -> Any:
        return targets

    @classmethod
    def count(cls, info: TaskInfo, examples: list[Prepared]) -> int:
        return sum(len(example) - example.prefix - 1 for example in examples)

    def _losses(self, tokens: Tokens, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For every predicted token of the sequences: nats, the predicted id, its sequence's packed number."""
        layout = tokens.layout
        # A token is predicted by the one before it, unless it is the first behind the prefix.
        first = torch.full((len(layout),), len(layout.segments), device=layout.device)
        first[rows] = torch.tensor(layout.prefix, device=layout.device)[rows]
        predicted = (layout.within > first[layout.segments]).nonzero()[:, 0]
        ids = layout.ids[predicted]
        logits = self.head(tokens.vectors.index_select(0, predicted - 1)).float()
        return F.cross_entropy(logits, ids, reduction="none"), ids, layout.segments[predicted]

    def loss(self, tokens: Tokens, targets: Targets) -> TaskLoss:
        nats, _, _ = self._losses(tokens, targets.rows)
        return TaskLoss(nats.sum(), {})

    def outputs(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """(n, 3): for each sequence the summed nats, the bytes they stand for, and the tokens predicted."""
        nats, ids, segments = self._losses(tokens, rows)
        each = torch.stack([nats, self.byte_lengths[ids].float(), torch.ones_like(nats)], dim=1)
        sums = each.new_zeros(len(tokens.layout), 3).index_add(0, segments, each)
        return sums.index_select(0, rows)

    def next_logits(self, vectors: Tensor) -> Tensor:
        """(n, vocabulary) float32 logits of the token after each of the vectors (n, dim)."""
        return self.head(vectors).float()


def begun(parts: Sequence[tuple[str, Any]], text: Any) -> Prepared:
    """What was read, and the begin of a text to be written behind it."""
    ids = text.prompt("")
    return Prepared([*parts, (TEXT, Pieces(ids, line_positions(len(ids))))], prefix_parts=len(parts))


def bits(sums: Tensor) -> dict[str, float]:
    """Bits per byte and the mean loss of a token, of `LanguageHead.outputs`."""
    nats, byte_count, count = sums.double().sum(0).tolist()
    return {"bits_per_byte": nats / math.log(2) / max(byte_count, 1), "loss": nats / max(count, 1)}


class Writer(LanguageHead):
    """Writes the text of the label's column behind what it reads; a new one names its metrics in `measure`.

    What it learns of the training data is the most bytes that a text has (`longest`): more is never written.

    Raises:
        UnitxError: the vocabulary has no end of a text, or fills texts up.
    """

    writes = True
    answer = TEXT
    headline = "exact_match"

    def __init__(self, dim: int, info: TaskInfo, processors: dict[str, Processor]):
        super().__init__(dim, info, processors)
        text: Any = processors[TEXT]
        if text.eos < 0 or text.padding is not None:
            why = "marks no end of one" if text.eos < 0 else "fills texts up"
            raise UnitxError(
                f"task '{info.name}' writes text, and the model's vocabulary {why}: take a model whose tokenizer "
                "does otherwise, or train one"
            )

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Check that what is to be written is named.

        Raises:
            UnitxError: no label column is named.
        """
        if info.label is None:
            raise UnitxError(f"task '{info.name}' writes text: name the column that holds it with --label")
        texts = parsed_cells(source, info.label, lambda cell: _text(cell, info.label))
        longest = max((len(text.encode()) for text in texts), default=0)
        return replace(info, facts={**info.facts, "longest": max(longest, 1)})

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row without anything to read, or without a text to write, none; a number is written as it is printed.

        Raises:
            BadItem: it is to write something else, such as a list of texts.
        """
        parts, text = info.parts(row), _text(row.get(info.label) if info.label else None, info.label)
        return [Example([*parts, (TEXT, text)], text, prefix_parts=len(parts))] if parts and text else []

    def sketches(self, model: Model, preparer: Preparer, drawn: list[Drawn]) -> list[Sketch]:
        """Pictures and sounds, and what was written of them."""
        from unitx.decoding import write  # which works on heads such as this

        shown = [one for one in drawn if hasattr(preparer.processors[one.example.parts[0][0]], "shown")]
        found = []
        for one in shown:
            whole = preparer.cut(one.example, one.features, None)
            ((text, *_),) = write(model, self, [begun(whole.parts[:-1], preparer.processors[TEXT])])
            (modality, pieces), asked = whole.parts[0], [str(item) for m, item in one.example.parts[1:-1] if m == TEXT]
            truth = "" if exact_match([text.label], [one.example.target]) else f"  (truth: {one.example.target})"
            caption = " ".join([*asked, "→", text.label or "nothing"]) + truth
            picture = preparer.processors[modality].shown(pieces.values, pieces.grid)  # type: ignore[attr-defined]
            found.append(Sketch([picture], caption))
        return found

    def score(self, outputs: Any, targets: Any) -> dict[str, float]:
        """Metrics of `Written` texts beside the right ones."""
        return {**self.measure(outputs.texts, targets), **bits(outputs.sums)}

    def measure(self, texts: list[str], references: list[str]) -> dict[str, float]:
        """Metric → value, the headline among them."""
        return {"exact_match": exact_match(texts, references)}


def _text(cell: Any, column: str | None) -> str:
    if isinstance(cell, list | dict | bytes):
        raise BadItem(f"'{column}' holds {describe(cell)}: give one text, and of several each a row of its own")
    return "" if cell is None else str(cell).strip()


def exact_match(texts: list[str], references: list[str]) -> float:
    """The share of texts that are equal but for upper and lower case and spaces (as SQuAD's, Rajpurkar et al. 2016)."""
    pairs = list(_plain(texts, references))
    return sum(text == reference for text, reference in pairs) / max(len(pairs), 1)


def chrf_and_bleu(texts: list[str], references: list[str]) -> dict[str, float]:
    """chrF (Popović 2015) and BLEU (Papineni et al. 2002) of all texts together, 0 to 100, by sacrebleu; where no text
    has four words, BLEU of the longest runs of words that there are, which would else be 0."""
    from sacrebleu import BLEU, CHRF

    measures = {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}
    return {name: measure.corpus_score(texts, [references]).score for name, measure in measures.items()}


def _plain(*columns: list[str]) -> Iterator[tuple[str, ...]]:
    for texts in zip(*columns, strict=True):
        yield tuple(" ".join(text.casefold().split()) for text in texts)
