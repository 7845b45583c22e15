"""The vocabularies of published towers of text; others are tested as texts in test_text.py and test_published.py."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import transformers as hf
from published_models import CORPUS, READING, TEXTS, clip_tokenizer, drawn, seeing

from unitx.errors import UnitxError
from unitx.model import Model
from unitx.vocabulary import SiglipVocabulary


def siglip_model(**given: int) -> bytes:
    model = BytesIO()
    lines = [text.replace("\0", "").lower() for text in CORPUS]
    options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 300, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, minloglevel=2, **options | given
    )
    return model.getvalue()


def test_siglips_texts_become_the_originals_ids(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(siglip_model())
    original = hf.SiglipTokenizer(str(tmp_path / "spiece.model"))
    shape = READING | {"vocab_size": 300, "projection_size": 36, "max_position_embeddings": 64}
    model = drawn(lambda: hf.SiglipModel(hf.SiglipConfig(text_config=shape, vision_config=seeing())))
    model.save_pretrained(tmp_path / "model")
    original.save_pretrained(tmp_path / "model")
    ours = Model.from_pretrained(tmp_path / "model", "cpu")
    wanted = original(TEXTS, padding="max_length", max_length=64, truncation=True, return_tensors="pt")["input_ids"]
    for text, ids in zip(TEXTS, wanted, strict=True):
        assert ours.processors["text"].features(text).tolist() == ids.tolist()
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(model.text_model(wanted).pooler_output)
    np.testing.assert_allclose(ours.embed(TEXTS, "text"), theirs, atol=1e-5)


def test_clips_texts_become_the_originals_ids(tmp_path: Path) -> None:
    original = clip_tokenizer()
    shape = READING | {"vocab_size": len(original), "eos_token_id": original.eos_token_id}
    model = drawn(lambda: hf.CLIPModel(hf.CLIPConfig(text_config=shape, vision_config=seeing(), projection_dim=20)))
    model.save_pretrained(tmp_path)
    original.save_pretrained(tmp_path)
    ours = Model.from_pretrained(tmp_path, "cpu")
    for text in TEXTS:
        assert ours.processors["text"].features(text).tolist() == original(text)["input_ids"]
    given = original(TEXTS, padding=True, truncation=True, max_length=60, return_tensors="pt")
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(model.get_text_features(**given).pooler_output)
    np.testing.assert_allclose(ours.embed(TEXTS, "text"), theirs, atol=1e-5)


def test_a_model_without_an_end_is_refused() -> None:
    with pytest.raises(UnitxError, match="has no <s> or no </s>"):
        SiglipVocabulary(siglip_model(eos_id=-1))
    with pytest.raises(UnitxError, match="not a sentencepiece model"):
        SiglipVocabulary(b"broken")
