"""Text: UTF-8 bytes, sentencepiece trained on the user's own text, or a published model's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn

from unitx.backbone import LayerNorm
from unitx.errors import BadItem, UnitxError
from unitx.media import check_whole, crop, describe, is_tensor, open_binary
from unitx.registry import register_tokenizer
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces, line_positions
from unitx.vocabulary import NONE, PublishedVocabulary, Vocabulary, load_vocabulary

SPM_TEXTS = 200_000  # texts that a sentencepiece vocabulary is trained on, at most


@dataclass(frozen=True)
class TextProcessor(Processor):
    """Turns text into ids between a begin and an end.

    Attributes:
        max_tokens: the longest sequence, begin and end included.
        vocabulary: "bytes" or "sentencepiece"; of published models "huggingface" or "siglip", or "ids" for no text.
        spm: the sentencepiece model, serialized (the contents of its .model file).
        json: a published model's tokenizer.json.
        ids: rows of a published model's table of token vectors, which may be more than its vocabulary's; 0 for those.
        end: ids that end a generated text, where they are others than the end in the vocabulary's template.
        positions: rows of its table of positions; 0 for none.
        norm_eps: of the LayerNorm behind token vectors and positions; 0 for none.
        norm_bias: whether that norm adds a learned vector.
        truncate: a longer text is cut at its end, as the published model was trained, where others are read in windows.
        padding: the id that texts are filled up with to `max_tokens`, where the published model reads it; None for no
            filling.

    Raises:
        UnitxError: the vocabulary has another name.
    """

    max_tokens: int = 512
    vocabulary: str = "bytes"
    spm: bytes = field(default=b"", repr=False)
    json: bytes = field(default=b"", repr=False)
    ids: int = field(default=0, repr=False)
    end: tuple[int, ...] = field(default=(), repr=False)
    positions: int = field(default=0, repr=False)
    norm_eps: float = field(default=0.0, repr=False)
    norm_bias: bool = field(default=True, repr=False)
    truncate: bool = field(default=False, repr=False)
    padding: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_whole(self, "max_tokens")
        if self.vocabulary not in ("bytes", "sentencepiece", "huggingface", "siglip", "ids"):
            raise UnitxError(f"there is no vocabulary '{self.vocabulary}'; there are: bytes, sentencepiece")

    fit_options = ("vocabulary_size",)

    @classmethod
    def fit(cls, options: dict[str, Any], items: Iterator[Any]) -> TextProcessor:
        """Train a sentencepiece vocabulary of `vocabulary_size` ids where one is wanted and none is given."""
        options = dict(options)
        size = options.pop("vocabulary_size", 4_096)
        if options.get("vocabulary") == "sentencepiece" and not options.get("spm"):
            options["spm"] = train_sentencepiece(islice(_readable(items), SPM_TEXTS), size)
        if isinstance(options.get("spm"), str):
            options["spm"] = _read_bytes(options["spm"])
        return cls(**options)

    @property
    def vocab(self) -> Vocabulary:
        return load_vocabulary(self.vocabulary, self.spm, self.json)

    @property
    def _published(self) -> PublishedVocabulary | None:
        """The vocabulary where it is a published model's own."""
        vocab = self.vocab if self.vocabulary in ("huggingface", "siglip") else None
        return vocab if isinstance(vocab, PublishedVocabulary) else None

    @property
    def vocab_size(self) -> int:
        return self.ids or self.vocab.size

    @property
    def bos(self) -> int:
        """The id of the begin of a text."""
        return self.vocab.bos

    @property
    def eos(self) -> int:
        """The id of the end of a text; -1 where there is none."""
        return self.ends[0]

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids that end a generated text."""
        return self.end or (self.vocab.eos,)

    @property
    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int64: how many bytes of UTF-8 each id stands for; 0 for begin, end and unknown."""
        found = np.zeros(0, np.int64) if self.vocabulary == "ids" else self.vocab.byte_lengths
        return np.pad(found, (0, max(self.vocab_size - len(found), 0)))

    def byte_length(self, ids: Any) -> int:
        """How many bytes of UTF-8 a sequence of ids stands for: what bits per byte are counted over."""
        return int(self.byte_lengths[self._known(ids)].sum())

    def encode(self, text: str) -> np.ndarray:
        """(n,) int64 ids of a text, without begin and end.

        Raises:
            BadItem: the string holds half of a surrogate pair, which UTF-8 can't write.
        """
        _check_unicode(text)
        return self.vocab.encode(text)

    def decode(self, ids: Any) -> str:
        """The text of a sequence of ids; what stands for no text is left out, broken UTF-8 reads as U+FFFD."""
        ids = self._known(ids)
        if vocab := self._published:  # whose library knows best what is text
            return vocab.decode(ids)
        return self.vocab.decode(ids[self.byte_lengths[ids] > 0])

    def _known(self, ids: Any) -> np.ndarray:
        ids = np.asarray(ids, dtype=np.int64)
        return ids[(ids >= 0) & (ids < self.vocab_size)]

    def read(self, item: Any) -> str | np.ndarray:
        """A string as it is, bytes and files (`Path`) as UTF-8, a 1-D array or tensor of integers as ready ids.

        Raises:
            BadItem: not UTF-8, an empty or missing file, ids outside the vocabulary, or no text at all.
        """
        if isinstance(item, str):
            _check_unicode(item)
            return self._checked(item)
        if isinstance(item, bytes | bytearray):
            return self._checked(_decode_utf8(bytes(item), item))
        if isinstance(item, Path):
            with open_binary(item) as file:
                return self._checked(_decode_utf8(file.read(), item))
        if isinstance(item, np.ndarray) or is_tensor(item):
            return self._read_ids(item)
        raise BadItem(
            f"{describe(item)} is not text; give a string, a Path to a text file, or ids as a 1-D integer array"
        )

    def _checked(self, text: str) -> str:
        """A text that has tokens, and a vector for each: published vocabularies may lack either."""
        vocab = self._published
        if vocab is None:
            return text
        if len(text.strip()) < 4 and not len(vocab.encode_whole(text)):
            raise BadItem(f"{describe(text)} is empty, and the model's vocabulary has no begin or end: leave it out")
        if vocab.highest >= self.vocab_size and vocab.encode_whole(text).max(initial=0) >= self.vocab_size:
            raise BadItem(
                f"{describe(text)} has a token that is in tokenizer.json and not among the model's {self.vocab_size}"
            )
        return text

    def _read_ids(self, item: np.ndarray | Tensor) -> np.ndarray:
        ids = item.detach().cpu().numpy() if isinstance(item, Tensor) else item
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise BadItem(f"{describe(item)} is not text; ids are a 1-D integer array with at least one element")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise BadItem(
                f"{describe(item)} has ids outside 0 to {self.vocab_size - 1}; use this model's own vocabulary"
            )
        return ids.astype(np.int64)

    def features(self, raw: str | np.ndarray) -> np.ndarray:
        """(n,) int64 ids: begin, text, end; ready ids pass as they are."""
        if isinstance(raw, np.ndarray):
            return raw
        if vocab := self._published:
            _check_unicode(raw)
            return self._filled(vocab.encode_whole(raw))
        return np.concatenate([[self.bos], self.encode(raw), [self.eos]])

    def _filled(self, ids: np.ndarray) -> np.ndarray:
        """Ids with the padding that belongs to them; a text that is too long is cut before."""
        if self.padding is None:
            return ids
        ids = self.cut(ids).values
        return np.pad(ids, (0, self.max_tokens - len(ids)), constant_values=self.padding)

    def with_positions(self) -> TextProcessor:
        return replace(self, positions=self.positions or self.max_tokens)

    def prompt(self, item: Any) -> np.ndarray:
        """(n,) int64 ids to be continued: begin and text; the end is for the model to say.

        Raises:
            BadItem: it cannot be read, or is empty where the vocabulary has no begin to go on from.
        """
        raw = item if item == "" else self.read(item)
        ids = self.features(raw)
        if isinstance(raw, str) and len(ids) and ids[-1] == self.eos:
            ids = ids[:-1]
        if not len(ids) and self.eos == NONE:
            raise BadItem("an empty prompt, and this model's vocabulary has no begin of text: give a word")
        return ids if len(ids) else np.array([self.eos])

    def framed(self, features: np.ndarray) -> np.ndarray:
        """Ids with a begin and an end, without which no text can be written, also where the vocabulary's template puts
        none: what ends a text then begins it, too (as in GPT-2's training, Radford et al. 2019)."""
        begin = self.prompt("")
        before: Any = [] if features[: len(begin)].tolist() == begin.tolist() else begin
        after = [] if len(features) and features[-1] in self.ends else [self.eos]
        return np.concatenate([before, features, after]).astype(np.int64)

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        begin, inner, end = self._parted(features)
        kept = crop(len(inner), self.max_tokens - len(begin) - len(end), rng)
        part = inner[kept]
        return _pieces(begin, part, end, kept.start, shortened=len(part) < len(inner))

    def windows(self, features: np.ndarray) -> list[Pieces]:
        if self.truncate:
            return [self.cut(features)]
        begin, inner, end = self._parted(features)
        room = self.max_tokens - len(begin) - len(end)
        return [_pieces(begin, inner[i : i + room], end, i) for i in range(0, max(len(inner), 1), room)]

    def extents(self, item: Any, windows: list[Pieces]) -> list[np.ndarray]:
        """In characters, without the space around a token that stands for more than space; of ready ids their places.

        Raises:
            UnitxError: the vocabulary rewrites or fills up texts.
        """
        raw = self.read(item)
        features = self.features(raw)
        found = np.stack([np.arange(len(features)), np.arange(1, len(features) + 1)], axis=1)
        if isinstance(raw, str):
            if self.padding is not None or self.vocabulary == "siglip":
                raise UnitxError("the model rewrites or fills up texts: nobody knows where its tokens stand in them")
            found = self.vocab.extents(raw)
            if not self._published:
                found = np.pad(found, ((1, 1), (0, 0)))
            for i in np.flatnonzero(found[:, 1] - found[:, 0] > 1):
                found[i] = _without_space(raw, *found[i])
        begin, inner, end = np.split(found, np.cumsum([len(part) for part in self._parted(features)])[:-1])
        return [np.concatenate([begin, inner[slice(*window.part)], end]) for window in windows]

    def _parted(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Begin, text and end of ids; a published model has seen no part of a text without its begin and end."""
        vocab = self._published
        begin, end = (vocab.begin, vocab.end) if vocab else ([], [])
        a, b = len(begin), len(features) - len(end)
        if b < a or features[:a].tolist() != begin or features[b:].tolist() != end:
            a, b = 0, len(features)  # ready ids of another form
        return features[:a], features[a:b], features[b:]


def _readable(items: Iterable[Any]) -> Iterator[str]:
    """Texts; what cannot be read is left for training to report."""
    reader = TextProcessor()
    for item in items:
        with suppress(BadItem):
            yield str(reader.read(item))


def _read_bytes(path: str) -> bytes:
    """A trained sentencepiece model's file."""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UnitxError(f"tokenizers.text.spm: {path} cannot be read ({error.strerror})") from error


def _pieces(begin: np.ndarray, inner: np.ndarray, end: np.ndarray, first: int, shortened: bool = False) -> Pieces:
    values = np.concatenate([begin, inner, end])
    return Pieces(values, line_positions(len(values)), shortened, part=(first, first + len(inner)))


def _without_space(text: str, begin: int, end: int) -> tuple[int, int]:
    """A part of a text without the space at both its ends; what is all space stays as it is."""
    piece = text[begin:end]
    if not (inner := piece.strip()):
        return begin, end
    begin += len(piece) - len(piece.lstrip())
    return begin, begin + len(inner)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadItem(
            f"{describe(text)}: the character at {error.start} is half of a surrogate pair; decode the text as UTF-8"
        ) from error


def _decode_utf8(data: bytes, item: Any) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadItem(
            f"{describe(item)} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}; "
            "save it as UTF-8, or give its modality if it is no text"
        ) from error


@register_tokenizer("text")
class TextTokenizer(Tokenizer):
    """A learned vector for each id, drawn from a unit normal distribution: token vectors begin at a unit RMS."""

    Processor = TextProcessor
    needs = ("starts",)

    def __init__(self, processor: TextProcessor, dim: int):
        super().__init__(processor, dim)
        self.embed = nn.Embedding(processor.vocab_size, dim)
        nn.init.normal_(self.embed.weight)
        self.positions = nn.Embedding(processor.positions, dim) if processor.positions else None
        eps, bias = processor.norm_eps, processor.norm_bias
        self.norm = LayerNorm(dim, eps, bias) if eps else nn.Identity()

    def forward(self, values: Tensor, counts: list[int], starts: list[int] | None = None) -> Tensor:
        x = self.embed(values)
        if self.positions is not None:
            first = starts or [0] * len(counts)
            places = np.concatenate([np.arange(a, a + n) for a, n in zip(first, counts, strict=True)])
            x = x + self.positions(torch.from_numpy(places).to(values.device))
        return self.norm(x)


def train_sentencepiece(texts: Iterable[str], vocab_size: int, sample_bytes: int = 4_000_000) -> bytes:
    """Train a unigram vocabulary (Kudo 2018); the same texts give the same bytes.

    Nothing is normalised and every byte is in the vocabulary, so that decoding what was encoded gives the text back
    exactly. A small text may get fewer ids than asked for.

    Args:
        texts: read once, line by line.
        vocab_size: ids, among them 256 bytes and 3 specials.
        sample_bytes: of longer texts only every second, fourth, … line is looked at, so that it takes seconds.

    Returns: the serialized model, for `TextProcessor.spm`.

    Raises:
        UnitxError: the text is too small or the vocabulary too large or too small for it.
    """
    lines = _sample_lines(texts, sample_bytes)
    if not any(line.strip() for line in lines):
        raise UnitxError("no text to train sentencepiece on; give some, or take the vocabulary 'bytes'")
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).split("] ")[-1].split(". Increase")[0].strip() or "the text is too small"
        raise UnitxError(
            f"sentencepiece cannot learn {vocab_size} ids from this text ({reason}); "
            "change vocab_size, give more text, or take the vocabulary 'bytes'"
        ) from error
    return model.getvalue()


def _sample_lines(texts: Iterable[str], room: int) -> list[str]:
    """Every line, or every 2nd, 4th, 8th, … so that they fit in `room` bytes."""
    kept: list[str] = []
    size, stride = 0, 1
    for i, line in enumerate(_lines(texts)):
        if i % stride:
            continue
        kept.append(line)
        size += len(line.encode(errors="replace"))
        if size > room:
            kept, stride = kept[::2], stride * 2
            size = sum(len(line.encode(errors="replace")) for line in kept)
    return kept


def _lines(texts: Iterable[str]) -> Iterator[str]:
    # The trainer skips sentences of more than 4,192 bytes and refuses NUL; 1,000 characters are at most 4,000 bytes.
    for text in texts:
        for line in text.replace("\0", "").splitlines():
            yield from (line[i : i + 1000] for i in range(0, len(line), 1000))
