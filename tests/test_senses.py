"""The model that comes along: small, whole, and of use without a network."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import unitx
from unitx.model import shipped_models
from unitx.worlds.emoji import HUNDRED, EmojiWorld

FOLDER = Path(str(files("unitx") / "models" / "senses"))


@pytest.fixture(scope="module")
def model() -> unitx.Model:
    return unitx.Model.from_pretrained("senses")


def test_it_comes_along_small_and_in_half_precision() -> None:
    assert shipped_models() == ["senses"]
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
    assert torch.float16 in kinds and torch.float32 not in kinds


def test_its_card_says_how_it_was_made_and_whose_pictures_it_saw() -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    for fact in ("unitx train senses", "CC BY-SA 4.0", "OpenMoji", "espeak-ng", "recall@1", "Apache-2.0"):
        assert fact in card, fact


def test_it_loads_without_a_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import unitx\n"
        "print(unitx.Model.from_pretrained('senses').embed(['cat face', 'gato']).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("(2, ")


def test_what_is_seen_read_and_heard_lies_close_together(model: unitx.Model) -> None:
    known = model.head("senses").info.labels
    assert len(known) > 1_000
    world = EmojiWorld(concepts=HUNDRED[::5], languages=("en", "de", "ru"), part="test")
    assert set(world.labels) <= set(known)
    rows = [world.row(8 * concept + view, np.random.default_rng(0)) for concept in range(20) for view in range(2)]
    pictures = model.embed([row["image"] for row in rows[::2]])
    speech = model.embed([row["audio"] for row in rows[1::2]])
    for language in world.languages:
        names = model.embed([of_emoji[language] for of_emoji in world.names.values()])
        for queries in (pictures, speech):
            assert ((queries @ names.T).argmax(1) == np.arange(20)).mean() >= 0.7


def test_fine_tuning_starts_from_it(tmp_path: Path) -> None:
    rows = [{"text": f"{word} {i}", "label": word} for i in range(12) for word in ("dog face", "red apple")]
    run = unitx.finetune("senses", "text-classify", data=rows, steps=4, out=tmp_path / "run", echo=False)
    assert set(run.model.tasks) == {"senses", "text-classify"}
