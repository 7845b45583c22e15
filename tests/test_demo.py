"""The demo, cut short: it works end to end; what it learns in four minutes stands in docs/results.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbclient import NotebookClient
from PIL import Image

from unitx.cli import main
from unitx.demo import Showcase, _tell_if_stopped, demo, recalls

NOTEBOOK = Path(__file__).parent.parent / "docs" / "demo.ipynb"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `unitx demo` has run for a few seconds; what it printed is in demo.txt."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "unitx", "demo", "--minutes", "0.1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "demo.txt").write_text(done.stdout)
    return folder


def test_it_names_what_it_leaves_and_leaves_it(home: Path) -> None:
    said = (home / "demo.txt").read_text()
    for name in ("image→name", "speech→name", "speech→image", "name→image", "name→speech", "chance"):
        assert name in said
    for picture in ("space.png", "search.png", "curves.png"):
        assert Image.open(home / "runs/demo" / picture).width > 500
    concepts = json.loads((home / "runs/demo/concepts.json").read_text())
    assert len(concepts) == 100
    assert concepts[0]["emoji"] == "🐱"
    assert len(list((home / "runs/demo/pictures").glob("*.png"))) == 100
    assert len(list((home / "runs/demo/speech").glob("*.wav"))) == 100


def test_the_commands_that_it_prints_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(home)
    commands = [line.strip() for line in (home / "demo.txt").read_text().splitlines() if line.startswith("  unitx ")]
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    assert capsys.readouterr().out.count(".png") >= 10


def test_a_second_time_it_shows_what_is_there(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(home)
    before = (home / "runs/demo/model/model.safetensors").read_bytes()
    table = demo()
    assert set(table) == {"image→name", "speech→name", "speech→image", "name→image", "name→speech", "image→speech"}
    assert "remove the folder to train anew" in capsys.readouterr().out
    assert (home / "runs/demo/model/model.safetensors").read_bytes() == before


def test_a_demo_that_was_stopped_says_how_it_goes_on(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(home / "runs/demo", folder)
    _tell_if_stopped(folder)
    assert not capsys.readouterr().out
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    written["given"]["minutes"] = 9
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    _tell_if_stopped(folder)
    assert re.search(rf"after \d+ of 540 seconds; .* unitx train --resume {folder}", capsys.readouterr().out)


def test_the_notebook_runs(home: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(home)}}).execute()


def test_recall_is_the_share_of_queries_whose_nearest_item_means_the_same() -> None:
    rng = np.random.default_rng(0)
    concept_of = {
        "image": np.array([0, 0, 1, 2]),
        "audio": np.array([0, 1, 1, 2]),
        "text": np.array([0, 0, 1, 1, 2, 2]),
    }
    vectors = {sense: rng.normal(size=(len(found), 5)) for sense, found in concept_of.items()}
    shown = Showcase(["a", "b", "c"], [], [], [], concept_of, vectors)
    right = 0
    for query, concept in zip(vectors["audio"], concept_of["audio"], strict=True):
        scores = {i: float(query @ vectors["image"][i]) for i in (0, 2, 3)}  # the first picture of each concept
        right += concept_of["image"][max(scores, key=scores.get)] == concept
    assert recalls(shown)["speech→image"] == right / 4
    perfect = {sense: np.eye(3)[found] for sense, found in concept_of.items()}
    assert set(recalls(Showcase(["a", "b", "c"], [], [], [], concept_of, perfect)).values()) == {1.0}
