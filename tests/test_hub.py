"""Hugging Face data sets, against `datasets` itself."""

from __future__ import annotations

import io
import pickle
import sys

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from unitx.data import check_columns, open_source
from unitx.errors import UnitxError
from unitx.hub import DatasetSource, load_hub

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
    with pytest.raises(UnitxError, match="IterableDataset cannot be read"):
        open_source(dataset.to_iterable_dataset())


def test_hub_names(dataset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or dataset)
    for name in ("cats", "somebody/cats-2.0", "somebody/cats:validation"):
        assert open_source(name).columns == dataset.column_names
    assert asked == [("cats", "train"), ("somebody/cats-2.0", "train"), ("somebody/cats", "validation")]


def test_a_name_that_cannot_be_loaded(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def fail(name, split):
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
