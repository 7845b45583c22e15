"""The model that comes along: small, whole, described, and it knows what it was trained for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from small_data import colour_folder

import unitx
from unitx.cli import main
from unitx.demo import show
from unitx.model import shipped_models
from unitx.worlds.emoji import EmojiWorld

FOLDER = Path(str(files("unitx"))) / "models" / "senses"
OFFLINE = """
import socket
def refuse(*_, **__):
    raise AssertionError("something wanted the network")
socket.socket.connect = refuse
import unitx
z = unitx.Model.from_pretrained("senses").embed(["rocket", "Rakete", "pizza"])
assert z[0] @ z[1] > z[0] @ z[2]
"""


def test_it_is_small_and_in_half_precision() -> None:
    assert shipped_models() == ["senses"]
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 8_000_000
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        kinds = {str(weights.get_tensor(name).dtype) for name in weights.keys() if "num_batches" not in name}  # noqa: SIM118
    assert kinds == {"torch.float16"}


def test_its_card_says_how_it_was_made() -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    for said in (
        "unitx train senses",
        "--minutes",
        "tests/benchmarks/senses.py",
        "OpenMoji",
        "CC BY-SA 4.0",
        "espeak-ng",
    ):
        assert said in card, said
    assert not re.search(r"@[A-Z]+@", card)


def test_it_needs_no_network(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("language", ["de", "en", "ru"])
def test_it_knows_pictures_words_and_speech(language: str) -> None:
    """Of twenty concepts; what it reaches among all of them stands in its card."""
    world = EmojiWorld(concepts=20, languages=[language], part="test")
    shown = show(unitx.Model.from_pretrained("senses"), world)
    for asking, least in (("image", 0.7), ("audio", 0.35)):  # chance: 0.05
        nearest = (shown.vectors[asking] @ shown.vectors["text"].T).argmax(1)
        right = shown.concept_of["text"][nearest] == shown.concept_of[asking]
        assert right.mean() >= least, (asking, right.mean())


def test_it_is_a_start_for_fine_tuning(tmp_path: Path) -> None:
    pictures, out = colour_folder(tmp_path / "pictures"), tmp_path / "run"
    assert (
        main(["finetune", "senses", "image-classify", "--data", str(pictures), "--steps", "2", "--out", str(out)]) == 0
    )
    model = unitx.Model.from_pretrained(out)
    assert set(model.modalities) >= {"image", "text", "audio"}
    assert np.isfinite(model.embed(["rocket"])).all()
