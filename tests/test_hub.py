"""Hugging Face data sets, against `datasets` itself."""

from __future__ import annotations

import io
import pickle
import sys
from collections import Counter
from itertools import chain

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image
from small_data import TINY

import unitx
from unitx.augment import Augment
from unitx.batches import Feed, Preparer, Steps, data_loader
from unitx.columns import check_columns
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.hub import DatasetSource, load_hub
from unitx.recipe import Recipe, TaskRecipe
from unitx.source import Subset, is_stream
from unitx.task import TaskInfo
from unitx.tokenizers.text import TextProcessor

RNG = np.random.default_rng(0)


@pytest.fixture
def dataset() -> datasets.Dataset:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "caption": datasets.Value("string"),
            "n": datasets.Value("int64"),
        }
    )
    pictures = [Image.new("RGB", (4, 4), (i * 20, 0, 0)) for i in range(10)]
    rows = {
        "image": pictures,
        "label": [i % 2 for i in range(9)] + [None],
        "caption": [f"c{i}" for i in range(9)] + [""],
        "n": list(range(10)),
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_rows_are_those_of_datasets(dataset):
    mixed = dataset.shuffle(seed=1).filter(lambda n: n != 3, input_columns="n")
    source = open_source(mixed, label="label")
    assert isinstance(source, DatasetSource) and source.reads == {"image": "image", "caption": "text"}
    assert len(source) == len(mixed) == 9 and source.columns == mixed.column_names
    for i, truth in enumerate(mixed):
        row = source.row(i, RNG)
        assert np.array_equal(Image.open(io.BytesIO(row["image"])), truth["image"])
        assert row["n"] == truth["n"] and row["caption"] == (truth["caption"] or None)
        assert row["label"] == (None if truth["label"] is None else ["cat", "dog"][truth["label"]])
    assert source.column("label") == [source.row(i, RNG)["label"] for i in range(9)]
    assert pickle.loads(pickle.dumps(source)).row(4, RNG) == source.row(4, RNG)


def test_sound_comes_undecoded(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8_000)
    file = str(tmp_path / "a.wav")
    source = open_source(datasets.Dataset.from_dict({"audio": [file]}).cast_column("audio", datasets.Audio()))
    assert source.reads == {"audio": "audio"} and str(source.row(0, RNG)["audio"]) == file


def test_a_dictionary_of_splits_is_refused(dataset):
    with pytest.raises(UnitxError, match=r"datasets\.Dataset, one split of it \(train, test\)"):
        open_source(datasets.DatasetDict(train=dataset, test=dataset))
    with pytest.raises(UnitxError, match="IterableDatasetDict cannot be read"):
        open_source(datasets.IterableDatasetDict(train=dataset.to_iterable_dataset()))


def test_hub_names(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, streaming: asked.append((name, split)) or dataset)
    for name in ("cats", "somebody/cats-2.0", "somebody/cats:validation"):
        assert open_source(name).columns == dataset.column_names
    assert asked == [("cats", "train"), ("somebody/cats-2.0", "train"), ("somebody/cats", "validation")]


def test_a_name_that_cannot_be_loaded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def fail(name, split, streaming):
        raise ConnectionError(f"couldn't reach {name}\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UnitxError, match=r"^'photos' is neither a path nor a data set of the hub .*reach photos\); give"
    ):
        open_source("photos")


def test_without_datasets_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnitxError, match=r"no file or folder cats; .*pip install 'unitx-toolkit\[hub\]'"):
        load_hub("cats")


def test_paths_read_as_text_and_missing_files_are_found(tmp_path):
    paths = datasets.Dataset.from_dict({"photo": [f"{tmp_path}/a{i}.jpg" for i in range(9)], "label": list("aba" * 3)})
    with pytest.raises(UnitxError, match=r"'photo' is read as text but holds paths .* --reads 'photo:image'"):
        check_columns(open_source(paths, {"photo": "text"}), {"photo": "text"})
    with pytest.raises(UnitxError, match=r"no file .*a0\.jpg; 9 of 9 files looked at are missing"):
        check_columns(open_source(paths, {"photo": "image"}), {"photo": "image"})


def stream_of(rows: int, shards: int, shuffled: bool = False) -> datasets.IterableDataset:
    data = {"text": [f"row {i}" for i in range(rows)], "label": [f"kind {i % 2}" for i in range(rows)]}
    stream = datasets.Dataset.from_dict(data).to_iterable_dataset(num_shards=shards)
    return stream.shuffle(seed=1, buffer_size=8) if shuffled else stream


def test_a_stream_has_the_rows_of_its_data_set(dataset):
    stream = open_source(dataset.to_iterable_dataset(num_shards=3), label="label")
    whole = open_source(dataset, label="label")
    assert is_stream(stream) and not is_stream(whole) and not is_stream(Subset(whole, np.arange(2)))
    assert stream.reads == whole.reads and stream.columns == whole.columns and len(stream) == len(whole) == 10
    for i in (0, 1, 7, 3, 9, 13):  # also back, and on into the second pass
        assert stream.row(i, RNG) == whole.row(i % 10, RNG)
    assert stream.column("label") == whole.column("label")
    again = pickle.loads(pickle.dumps(stream))
    assert again.row(4, RNG) == whole.row(4, RNG) and stream.row(5, RNG) == whole.row(5, RNG)


def test_the_seed_decides_the_order_of_a_stream(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream_of(200, 2))

    def order(seed: int) -> list[str]:
        source = open_source("stream:user/name", label="label", seed=seed)
        return [source.row(i, RNG)["text"] for i in range(10)]

    assert order(0) == order(0) != order(1)


def test_each_pass_over_a_shuffled_stream_has_another_order():
    source = open_source(stream_of(20, 1, shuffled=True), label="label")
    passes = [[source.row(20 * n + i, RNG)["text"] for i in range(20)] for n in (0, 1, 0)]
    assert passes[0] == passes[2] != passes[1] and sorted(passes[0]) == sorted(passes[1])
    assert source.column("text") == passes[0] != sorted(passes[0])


def test_a_stream_of_a_generator_knows_its_columns():
    made = datasets.IterableDataset.from_generator(lambda: ({"text": f"t{i}", "n": i} for i in range(70)))
    source = open_source(made)
    assert source.reads == {"text": "text"} and source.columns == ["text", "n"] and len(source) == 70
    assert source.row(69, RNG) == {"text": "t69", "n": 69} and source.row(70, RNG)["n"] == 0
    with pytest.raises(UnitxError, match="the stream holds no rows"):
        open_source(datasets.IterableDataset.from_generator(lambda: iter(())))


@pytest.mark.parametrize(("world", "shards"), [(2, 1), (2, 4), (3, 2), (3, 3)])
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_share_a_stream_without_loss_or_repetition(world, shards, workers):
    rows, taken = 23, 5
    steps = range(2 * rows // taken + 1)

    def seen(rank: int, world: int) -> list[list[str]]:
        source = open_source(stream_of(rows, shards, shuffled=True), label="label")
        info = TaskInfo("kind", "classify", source.reads, "label", ["kind 0", "kind 1"])
        text = TextProcessor(max_tokens=16)
        made = Steps(Preparer({"text": text}), [Feed(info, source, taken)], progress=1, augment=Augment("none"),
                     rank=rank, world_size=world)  # fmt: skip
        found = []
        for step in data_loader(made, steps, workers):
            (batch,) = step.batches
            ids = batch.values["text"].split(batch.counts["text"])
            found.append([text.vocab.decode(each.numpy()[1:-1]) for each in ids])
        return found

    alone, shares = seen(0, 1), [seen(rank, world) for rank in range(world)]
    together = [sorted(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert together == [sorted(step) for step in alone]
    everything = [*chain(*alone)]
    assert Counter(everything) == Counter({f"row {i}": 2 for i in range(rows)}) + Counter(everything[2 * rows :])
    assert all(len(step) in (taken // world, taken // world + 1) for share in shares for step in share)


def test_a_model_trains_on_a_stream(tmp_path, dataset):
    recipe = Recipe(tasks={"kind": TaskRecipe("classify")})
    given = {"data": stream_of(40, 2, shuffled=True), "label": "label", "reads": "text", "out": str(tmp_path / "run")}
    with pytest.raises(UnitxError, match=r"from a stream nothing is held out: .*--test"):
        unitx.train(recipe, echo=False, **TINY, **given)
    run = unitx.train(recipe, echo=False, test=stream_of(10, 1), steps=3, evaluations=1, **TINY, **given)
    assert 0 <= run.metrics["kind/accuracy"] <= 1
    assert unitx.evaluate(run.model, stream_of(12, 2)).rows == 12


def test_a_data_set_of_the_hub_is_streamed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **how: asked.append((name, how)) or stream_of(9, 3))
    source = open_source("stream:somebody/cats:validation", label="label")
    assert asked == [("somebody/cats", {"split": "validation", "streaming": True})]
    assert is_stream(source) and sorted(source.column("text")) == [f"row {i}" for i in range(9)]
