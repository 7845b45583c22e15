"""Vocabularies: UTF-8 bytes, a trained sentencepiece model, and what published models come with."""

from __future__ import annotations

import re
import string
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import sentencepiece

from unitx.errors import UnitxError

NONE = -1  # no such id
SPACE = "\u2581"  # the sign that sentencepiece writes for a space in its pieces


def _extents(text: str, lengths: np.ndarray) -> np.ndarray:
    """Where tokens that stand for so many bytes (n,) of a text's UTF-8 begin and end, in characters (n, 2): a part of a
    character stands where that does."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    character = np.cumsum((data & 0xC0) != 0x80) - 1  # all but the first byte of one begin with the bits 10
    ends = np.cumsum(lengths)
    return np.stack([character[ends - lengths], character[ends - 1] + 1], axis=1)


class ByteVocabulary:
    """The 256 bytes of UTF-8, then begin and end of text."""

    size, bos, eos = 258, 256, 257
    byte_lengths = np.array([1] * 256 + [0, 0])

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def extents(self, text: str) -> np.ndarray:
        """(n, 2): the characters at which each id of `encode` begins and ends."""
        return _extents(text, np.ones(len(text.encode()), dtype=np.int64))

    def decode(self, ids: np.ndarray) -> str:
        return ids.astype(np.uint8).tobytes().decode(errors="replace")


class SentencePieceVocabulary:
    """A trained sentencepiece model (Kudo and Richardson 2018).

    Raises:
        UnitxError: the bytes are not such a model, or it lacks a begin or an end of text that texts get.
    """

    has_begin: ClassVar[bool] = True

    def __init__(self, spm: bytes):
        try:
            self.model = model = sentencepiece.SentencePieceProcessor(model_proto=spm)
            self.size, self.bos, self.eos = model.vocab_size(), model.bos_id(), model.eos_id()
        except RuntimeError as error:
            raise UnitxError("these bytes are not a sentencepiece model; give the contents of a .model file") from error
        if not self.size or self.eos < 0 or (self.has_begin and self.bos < 0):
            raise UnitxError("the sentencepiece model has no <s> or no </s>; train it with bos_id and eos_id")
        self.byte_lengths = np.array([self._byte_length(i) for i in range(self.size)])
        self.space_sign = [model.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]

    def _byte_length(self, i: int) -> int:
        if self.model.is_control(i) or self.model.is_unknown(i) or self.model.is_unused(i):
            return 0
        return 1 if self.model.is_byte(i) else len(self.model.id_to_piece(i).replace(SPACE, " ").encode())

    def encode(self, text: str) -> np.ndarray:
        # A space sign in the text itself would come back as a space: it is spelled in bytes.
        first, *rest = text.split(SPACE)
        ids = self.model.encode(first)
        for part in rest:
            ids += self.space_sign + self.model.encode(part)
        return np.array(ids, dtype=np.int64)

    def extents(self, text: str) -> np.ndarray:
        """(n, 2): the characters at which each id of `encode` begins and ends.

        Raises:
            UnitxError: the model rewrites texts, so that nobody knows.
        """
        lengths = self.byte_lengths[self.encode(text)]
        if lengths.sum() != len(text.encode()):
            raise UnitxError(
                "the sentencepiece model rewrites texts and so does not know where its tokens stand in them: take one "
                "that unitx trained"
            )
        return _extents(text, lengths)

    def decode(self, ids: np.ndarray) -> str:
        return self.model.decode(ids.tolist())


class HuggingFaceVocabulary:
    """A published model's tokenizer.json, read by the library that such files are for.

    Raises:
        UnitxError: the bytes are not such a file.
    """

    def __init__(self, json: bytes):
        from tokenizers import Tokenizer as Fast

        try:
            self.fast = Fast.from_str(json.decode())
        except Exception as error:  # the library raises plain ones
            raise UnitxError(f"tokenizer.json cannot be read: {' '.join(str(error).split())}") from error
        self.fast.no_truncation()
        self.fast.no_padding()
        whole = self.fast.encode("a")
        inside = [i for i, special in enumerate(whole.special_tokens_mask) if not special]
        first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
        self.begin, self.end = whole.ids[:first], whole.ids[last:]
        self.size = self.fast.get_vocab_size()
        self.highest = max(self.fast.get_vocab().values(), default=0)
        self.bos, self.eos = (self.begin or [NONE])[0], (self.end or [NONE])[-1]

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        added = self.fast.get_added_tokens_decoder()
        kind = type(self.fast.decoder).__name__
        return np.array([self._byte_length(i, added.get(i), kind) for i in range(self.size)])

    def _byte_length(self, i: int, added: Any, decoder: str) -> int:
        if added is not None:
            return 0 if added.special else len(added.content.encode())
        piece = self.fast.id_to_token(i) or ""
        if decoder == "ByteLevel":  # which writes a byte as one character
            return len(piece)
        if re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return 1
        piece = piece.removeprefix("##") if decoder == "WordPiece" else piece
        return len(piece.replace(SPACE, " ").encode())

    def id_of(self, token: str) -> int:
        """The id of a token by name; NONE where there is no such token."""
        found = self.fast.token_to_id(token)
        return NONE if found is None else found

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.fast.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def encode_whole(self, text: str) -> np.ndarray:
        """With begin and end, as the file's template puts them."""
        (found,) = self.fast.encode_batch_fast([text])  # lets go of Python's lock, as `encode` does not
        return np.array(found.ids, dtype=np.int64)

    def extents(self, text: str) -> np.ndarray:
        """(n, 2): the characters at which each id of `encode_whole` begins and ends; equal for begin and end."""
        return np.array(self.fast.encode(text).offsets, dtype=np.int64).reshape(-1, 2)

    def decode(self, ids: np.ndarray) -> str:
        return self.fast.decode(ids.tolist())


class SiglipVocabulary(SentencePieceVocabulary):
    """SigLIP's spiece.model: texts in lower case and without ASCII punctuation, an end and no begin (Zhai et al. 2023).

    Raises:
        UnitxError: the bytes are not such a model.
    """

    has_begin = False
    begin: ClassVar[list[int]] = []

    def __init__(self, spm: bytes):
        super().__init__(spm)
        self.end, self.bos, self.highest = [self.eos], NONE, self.size - 1

    def id_of(self, token: str) -> int:
        """The id of a token by name."""
        return self.model.piece_to_id(token)

    def encode(self, text: str) -> np.ndarray:
        text = text.replace(SPACE, " ").lower().translate(str.maketrans("", "", string.punctuation))
        return np.array(self.model.encode(" ".join(text.split())), dtype=np.int64)

    def encode_whole(self, text: str) -> np.ndarray:
        """With the end."""
        return np.append(self.encode(text), self.eos)


PublishedVocabulary = HuggingFaceVocabulary | SiglipVocabulary
Vocabulary = ByteVocabulary | SentencePieceVocabulary | PublishedVocabulary


@lru_cache(maxsize=8)
def load_vocabulary(kind: str, spm: bytes, json: bytes) -> Vocabulary:
    """The vocabulary of a kind, by the bytes that it is made from.

    Raises:
        UnitxError: there are none, or they are no such model.
    """
    if kind == "bytes":
        return ByteVocabulary()
    if kind == "huggingface":
        return HuggingFaceVocabulary(json)
    if kind == "siglip":
        return SiglipVocabulary(spm)
    if kind == "ids":
        raise UnitxError(
            "the model came without a tokenizer.json and takes ids only, 1-D integer tensors; transformers writes one: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    if not spm:
        raise UnitxError(
            "the sentencepiece vocabulary is not trained yet; fill `spm` by train_sentencepiece(texts, size)"
        )
    return SentencePieceVocabulary(spm)
