"""`SentenceEncoder` against `SentenceTransformer`: the same calls, the same answers; and MTEB's tasks through it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from small_models import CLASSES, SPACE, picture, small_model
from test_sentence_transformers import DOCUMENTS, MINILM, PROMPTS, folder_of

import unitx
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.sentence_encoder import SentenceEncoder

TEXTS = ["A cat sits on a mat.", "x", "Taxes are due in April, as every year.", "a kitten lies on the rug"]


@pytest.fixture(scope="module")
def minilm() -> tuple[SentenceEncoder, SentenceTransformer]:
    return SentenceEncoder(MINILM, device="cpu"), SentenceTransformer(str(MINILM), device="cpu")


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceEncoder, SentenceTransformer]:
    """A model with prompts for queries and documents; its vectors have any length, and are compared by dot products."""
    folder = folder_of("bert", tmp_path_factory.mktemp("prompted") / "model", similarity_fn_name="dot")
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules[: modules.rindex(", {")] + "]")  # without Normalize
    return SentenceEncoder(folder, device="cpu"), SentenceTransformer(str(folder), device="cpu")


CALLS: list[dict[str, Any]] = [
    {},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"normalize_embeddings": True},
    {"truncate_dim": 20},
    {"truncate_dim": 20, "normalize_embeddings": True},
    {"batch_size": 1, "show_progress_bar": False, "device": "cpu"},
    {"prompt": "in other words: "},
]


@pytest.mark.parametrize("given", CALLS, ids=str)
@pytest.mark.parametrize(
    "inputs", [TEXTS, tuple(TEXTS), np.array(TEXTS), TEXTS[0]], ids=["list", "tuple", "array", "one"]
)
@pytest.mark.parametrize("which", ["minilm", "prompted"])
def test_encode_gives_what_sentence_transformers_gives(
    which: str, inputs: Any, given: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    ours, theirs = (model.encode(inputs, **given) for model in request.getfixturevalue(which))
    assert type(ours) is type(theirs)
    if isinstance(ours, list):
        ours, theirs = torch.stack(ours), torch.stack(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("given", [{}, {"prompt_name": "query"}, {"prompt": ""}, {"prompt": "so: "}], ids=str)
def test_prompts_are_put_before_queries_and_documents(
    method: str, given: dict[str, Any], prompted: tuple[SentenceEncoder, SentenceTransformer]
) -> None:
    ours, theirs = (getattr(model, method)(TEXTS, **given) for model in prompted)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    plain = prompted[0].encode(TEXTS)
    assert np.allclose(ours, plain, atol=1e-3) == (given == {"prompt": ""} or (method == "encode" and not given))


@pytest.mark.parametrize("which", ["minilm", "prompted"])
def test_similarities_are_those_of_the_model(which: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = request.getfixturevalue(which)
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert ours.max_seq_length == theirs.max_seq_length
    left, right = theirs.encode(TEXTS), theirs.encode(TEXTS[::-1])
    for a, b in ((left, right), (torch.from_numpy(left), list(right)), (left[0], right[1])):
        torch.testing.assert_close(ours.similarity(a, b), theirs.similarity(a, b), atol=1e-5, rtol=1e-5)
        found = ours.similarity_pairwise(a, b)
        torch.testing.assert_close(found.squeeze(), theirs.similarity_pairwise(a, b).squeeze(), atol=1e-5, rtol=1e-5)


def test_texts_are_texts_and_other_modalities_come_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(SPACE)
    encoder = unitx.SentenceEncoder(model)
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    items = ["a.png", {"image": picture(0)}, {"text": "a cat"}]
    expected = [model.embed(items[:1], "text"), model.embed([picture(0)]), model.embed(["a cat"], "text")]
    np.testing.assert_allclose(encoder.encode(items), np.concatenate(expected), atol=1e-6)
    assert encoder.encode(items[1]).shape == (model.head("space").embedding_dim,)
    assert encoder.encode([]).shape == (0, model.head("space").embedding_dim)


def test_a_model_without_an_embedding_head_gives_means() -> None:
    model = small_model(CLASSES)
    found = SentenceEncoder(model).encode(["a cat"])
    np.testing.assert_allclose(found, model.embed(["a cat"], "text", normalize=False))
    assert found.shape == (1, SentenceEncoder(model).get_sentence_embedding_dimension())


def test_what_cannot_be_encoded_is_said(prompted: tuple[SentenceEncoder, SentenceTransformer], tmp_path: Path) -> None:
    with pytest.raises(UnitxError, match="knows no prompt 'poem'; it knows: query, document; or give the words"):
        prompted[0].encode(TEXTS, "poem")
    with pytest.raises(UnitxError, match="batch_size is 0"):
        prompted[0].encode(TEXTS, batch_size=0)
    with pytest.raises(UnitxError, match="does not read 'video'"):
        prompted[0].encode([{"video": b""}])
    folder = folder_of("bert", tmp_path, similarity_fn_name="manhattan")
    with pytest.raises(UnitxError, match="compared by 'manhattan'; supported are cosine, dot"):
        SentenceEncoder(folder)
    pictures = Model(small_model().backbone.config, {"image": small_model().processors["image"]}, [])
    with pytest.raises(UnitxError, match="does not read 'text'"):
        SentenceEncoder(pictures)


WORDS = ["cat", "dog", "rain", "tax", "rose", "bread", "moon", "train"]
PAIRS = [(f"the {a} is here", f"here is a {b}", 5.0 - abs(i - j))
         for i, a in enumerate(WORDS) for j, b in enumerate(WORDS) if abs(i - j) < 4]  # fmt: skip


def metadata(kind: str, score: str, **given: Any) -> TaskMetadata:
    return TaskMetadata(
        name=f"Local{kind}", description="made here", dataset={"path": "local", "revision": "1"}, type=kind,
        category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"], main_score=score,
        date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None, dialect=None,
        sample_creation=None, bibtex_citation=None, **given,
    )  # fmt: skip


class LocalSTS(AbsTaskSTS):
    metadata = metadata("STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        columns = dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*PAIRS, strict=True)), strict=True))
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


class LocalRetrieval(AbsTaskRetrieval):
    metadata = metadata("Retrieval", "ndcg_at_10")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        ids = [str(i) for i in range(len(WORDS))]
        corpus = [f"all that is known of the {word}" for word in WORDS]
        self.dataset = {"default": {"test": {
            "queries": Dataset.from_dict({"id": ids, "text": [f"what is a {word}" for word in WORDS]}),
            "corpus": Dataset.from_dict({"id": ids, "text": corpus, "title": WORDS}),
            "relevant_docs": {i: {i: 1, str((int(i) + 1) % len(WORDS)): 1} for i in ids},
            "top_ranked": None,
        }}}  # fmt: skip
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    metadata = metadata("Classification", "accuracy")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        # Most rows are told by their word, so that no answer hangs on the last digits; every fourth is another's.
        def part(start: int) -> Dataset:
            told = [(i, word, n) for n in range(start, start + 12) for i, word in enumerate(WORDS[:3])]
            rows = [(f"{word} " * 6 + str(n), (i + (n % 4 == 0)) % 3) for i, word, n in told]
            return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})

        self.dataset = DatasetDict({"train": part(0), "test": part(12)})
        self.data_loaded = True


def score_of(model: Any, task: Any) -> float:
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results
    return result.scores["test"][0]["main_score"]


@pytest.mark.parametrize("task", [LocalSTS, LocalRetrieval, LocalClassification])
@pytest.mark.parametrize("which", ["minilm", "prompted"])
def test_mteb_scores_the_encoder_as_the_original(which: str, task: type, request: pytest.FixtureRequest) -> None:
    ours, theirs = (score_of(model, task()) for model in request.getfixturevalue(which))
    assert ours == pytest.approx(theirs, abs=1e-6) and 0 < ours < 1


def test_mteb_s_score_is_that_of_the_vectors(minilm: tuple[SentenceEncoder, SentenceTransformer]) -> None:
    left, right = (minilm[0].model.embed([pair[i] for pair in PAIRS], "text") for i in (0, 1))
    expected = spearmanr((left * right).sum(1), [score for _, _, score in PAIRS]).statistic
    assert score_of(minilm[0], LocalSTS()) == pytest.approx(expected, abs=1e-6)


def test_mteb_asks_for_prompts_by_task_and_kind_of_text(
    prompted: tuple[SentenceEncoder, SentenceTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = prompted[0]
    seen: list[str] = []
    embed = encoder.model.embed
    monkeypatch.setattr(
        encoder.model, "embed",
        lambda items, **given: (seen.extend(item["text"] for item in items), embed(items, **given))[1],
    )  # fmt: skip
    score_of(encoder, LocalRetrieval())
    queries = [text for text in seen if text.startswith(PROMPTS["query"])]
    documents = [text for text in seen if text.startswith(PROMPTS["document"])]
    assert queries and documents and len(queries) + len(documents) == len(seen)
    seen.clear()
    monkeypatch.setitem(encoder.prompts, "STS", "alike? ")
    score_of(encoder, LocalSTS())
    assert seen and all(text.startswith("alike? ") for text in seen)
    assert isinstance(encoder, mteb.EncoderProtocol)


def test_mteb_files_results_by_the_model() -> None:
    first, second = (SentenceEncoder(small_model(SPACE, seed=seed)).mteb_model_meta for seed in (0, 1))
    assert first.name != second.name and first.revision != second.revision
    assert first.modalities == ["image", "text"] and first.embed_dim == small_model(SPACE).head("space").embedding_dim


def test_mteb_is_not_imported_before_it_asks() -> None:
    code = "import sys, unitx; unitx.SentenceEncoder('senses').encode('a cat'); assert 'mteb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_mteb_s_batches_hold_pictures_too() -> None:
    encoder = SentenceEncoder(small_model(SPACE))
    pictures, given = [picture(i) for i in range(3)], {"hf_split": "test", "hf_subset": "default"}
    batches = [{"image": pictures[:2], "label": [0, 1]}, {"image": pictures[2:], "label": [0]}]
    found = encoder.encode(batches, task_metadata=LocalClassification.metadata, **given)
    np.testing.assert_allclose(found, encoder.model.embed(pictures), atol=1e-6)


def test_the_words_of_a_prompt_are_no_name(tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path / "model", prompts={"query": "Find this: ", "document": "query"})
    theirs, ours = SentenceTransformer(str(folder), device="cpu"), unitx.SentenceEncoder(folder)
    for given in ({"prompt": "query"}, {"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": ""}):
        np.testing.assert_allclose(ours.encode(DOCUMENTS, **given), theirs.encode(DOCUMENTS, **given), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document(DOCUMENTS), theirs.encode_document(DOCUMENTS), atol=1e-5)
