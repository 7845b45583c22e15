"""Training further: exactly what `tune` and `freeze` say changes, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_data import TINY, captioned, text_rows, tiny_run, write_csv

import unitx
from unitx.checkpoint import checkpoints
from unitx.errors import UnitxError
from unitx.lora import has_lora
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe

TEXTS = ["grass and moss", "a rose", "the sea"]
ALIGN = TaskRecipe("align", reads="text", label="label")
TOPIC = TaskRecipe("classify", reads="text", label="label")
COLOUR = TaskRecipe("classify", reads="image", label="label")
PAIRS = TaskRecipe("align", reads="image,text", label="label")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on texts alone, with a head for classes and one for embeddings."""
    tasks = {"topic": TOPIC, "meaning": ALIGN}
    return tiny_run(
        Recipe(tasks=tasks), tmp_path_factory.mktemp("base") / "run", data=text_rows(30), steps=6, evaluations=1
    ).folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return captioned(tmp_path_factory.mktemp("data") / "photos", each=6)


def further(base: Path | Model, tasks: dict[str, TaskRecipe], out: Path, **given: Any) -> unitx.Run:
    settings = {**TINY, "steps": 4, "evaluations": 1, "out": str(out), **given}
    model_settings = ("model.dim", "model.depth", "model.heads")
    return unitx.finetune(
        base, Recipe(tasks=tasks), echo=False, **{k: v for k, v in settings.items() if k not in model_settings}
    )


def changed(base: Path, run: unitx.Run) -> set[str]:
    """The parameters of the base that are others after the run; they must all still be there."""
    before = load_file(base / "model" / "model.safetensors")
    after = load_file(run.folder / "model" / "model.safetensors")
    assert set(before) <= set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


MATRICES = ("attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight")


@pytest.mark.parametrize("tune", ["all", "head", "norms", "lora"])
def test_exactly_what_tune_says_changes(tmp_path: Path, base: Path, tune: str):
    run = further(base, {"topic2": TOPIC}, tmp_path / "run", data=text_rows(30), tune=tune)
    found = changed(base, run)
    names = set(load_file(base / "model" / "model.safetensors"))
    backbone = {name for name in names if name.startswith("backbone.")}
    wanted = {
        "all": backbone | {name for name in names if name.startswith("tokenizers.")},
        "head": set(),
        "norms": {name for name in backbone if "norm" in name},
        "lora": {name for name in backbone if name.endswith(MATRICES)},
    }[tune]
    assert found == wanted
    after = load_file(run.folder / "model" / "model.safetensors")
    assert after["heads.topic2.head.weight"].abs().max() > 0  # it began at zero
    assert not has_lora(run.model.backbone)


def test_a_new_modality_on_a_model_of_texts(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    before = Model.from_pretrained(base, "cpu")
    made = {"data": rows, "tune": "head", "steps": 40, "lr": 1e-2}
    run = further(base, {"colour": COLOUR}, tmp_path / "run", **made)
    assert run.model.modalities == ["image", "text"] and run.model.tasks == ["topic", "meaning", "colour"]
    assert changed(base, run) == set()
    assert run.metrics["colour/accuracy"] > 0.6
    for name in ("embed", "predict_proba"):
        given = {"task": "topic"} if name == "predict_proba" else {"modality": "text"}
        assert np.array_equal(getattr(before, name)(TEXTS, **given), getattr(run.model, name)(TEXTS, **given))


@pytest.mark.parametrize("tune", ["lora", "head"])
def test_frozen_text_gives_what_it_gave(tmp_path: Path, base: Path, rows: list[dict[str, Any]], tune: str):
    before = Model.from_pretrained(base, "cpu")
    tasks = {"colour": COLOUR, "both": TaskRecipe("classify", reads="image,text", label="label")}
    run = further(base, tasks, tmp_path / "run", data=rows, tune=tune, freeze="text", steps=8, lr=1e-2)
    for model in (run.model, Model.from_pretrained(run.folder, "cpu")):
        assert np.array_equal(before.embed(TEXTS, "text"), model.embed(TEXTS, "text"))
        assert np.array_equal(before.predict_proba(TEXTS, "topic"), model.predict_proba(TEXTS, "topic"))
        for a, b in zip(before.hidden_states(TEXTS, "text"), model.hidden_states(TEXTS, "text"), strict=True):
            assert torch.equal(a, b)
    assert changed_up(run.model) == (tune == "lora")
    picture = [rows[0]["image"]]
    state = load_file(run.folder / "model" / "model.safetensors")
    assert run.model.embed(picture, "image").shape == (1, 32) and has_lora(run.model.backbone) == (tune == "lora")
    assert any(name.startswith("tokenizers.image") for name in state)


def changed_up(model: Model) -> bool:
    """Whether adapters learned anything."""
    return any(p.abs().max() > 0 for name, p in model.backbone.named_parameters() if name.endswith(".up"))


def test_an_old_head_of_a_frozen_modality_is_not_trained_anew(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    with pytest.raises(UnitxError, match=r"freeze text.*meaning"):
        further(base, {"meaning": PAIRS}, tmp_path / "run", data=rows, tune="lora", freeze="text")


def test_a_second_space_beside_a_frozen_one_is_refused(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    with pytest.raises(UnitxError, match=r"--freeze text: embeddings would come from the new task.*'meaning'"):
        further(base, {"other": PAIRS}, tmp_path / "run", data=rows, tune="lora", freeze="text")


@pytest.mark.parametrize("tune", ["all", "norms"])
def test_freezing_what_would_change_is_refused(tmp_path: Path, base: Path, rows: list[dict[str, Any]], tune: str):
    with pytest.raises(UnitxError, match="--tune lora") as error:
        further(base, {"colour": COLOUR}, tmp_path / "run", data=rows, tune=tune, freeze="text")
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("freeze", ["audio", "text,audio", "txet"])
def test_freezing_what_is_not_there_is_refused(tmp_path: Path, base: Path, freeze: str):
    with pytest.raises(UnitxError, match=r"reads text"):
        further(base, {"topic2": TOPIC}, tmp_path / "run", data=text_rows(9), tune="lora", freeze=freeze)


@pytest.mark.parametrize(("tune", "freeze"), [("all", ""), ("lora", ""), ("lora", "text"), ("norms", "")])
def test_going_on_equals_running_through(
    tmp_path: Path, base: Path, rows: list[dict[str, Any]], tune: str, freeze: str
):
    made = {
        "data": str(write_csv(tmp_path / "rows.csv", rows)),
        "tune": tune,
        "freeze": freeze,
        "checkpoint_every": 2,
        "layer_decay": 0.7,
    }
    whole = further(base, {"colour": COLOUR}, tmp_path / "whole", **made)
    half = tmp_path / "half"
    shutil.copytree(whole.folder, half)
    shutil.rmtree(half / "checkpoints/step-4")
    again = unitx.resume(half, echo=False)
    for part in ("model", "checkpoints/step-4"):
        a, b = (load_file(f / part / "model.safetensors") for f in (whole.folder, half))
        assert list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
    assert again.metrics == whole.metrics


def test_a_model_in_memory_stays_as_it_is_and_its_run_can_go_on(tmp_path: Path, base: Path):
    model = Model.from_pretrained(base, "cpu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = str(write_csv(tmp_path / "rows.csv", text_rows(20)))
    run = further(model, {"topic2": TOPIC}, tmp_path / "run", data=data, checkpoint_every=2)
    assert model.tasks == ["topic", "meaning"] and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first = load_file(run.folder / "checkpoints/step-4/model.safetensors")
    shutil.rmtree(run.folder / "checkpoints/step-4")
    unitx.resume(run.folder, echo=False)
    again = load_file(run.folder / "checkpoints/step-4/model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_layer_decay_moves_the_input_side_less(tmp_path: Path, base: Path):
    moved = {}
    for decay in (1.0, 0.1):
        made = {"data": text_rows(20), "layer_decay": decay, "steps": 2, "optimizer": "adamw", "weight_decay": 0.0}
        run = further(base, {"topic2": TOPIC}, tmp_path / str(decay), **made)
        before = load_file(base / "model" / "model.safetensors")
        after = load_file(run.folder / "checkpoints/step-2/model.safetensors")
        low, high = next(name for name in before if name.startswith("tokenizers.text")), "backbone.norm.weight"
        moved[decay] = [float((after[name] - before[name]).norm()) for name in (low, high)]
    # One block: the tokenizer stands one level below it, the last norm at the top.
    assert moved[0.1][0] == pytest.approx(0.1 * moved[1.0][0], rel=0.2)
    assert moved[0.1][1] == pytest.approx(moved[1.0][1], rel=0.2)


@pytest.mark.parametrize("second", ["lora", "head", "all"])
def test_a_model_with_adapters_trains_further(tmp_path: Path, base: Path, rows: list[dict[str, Any]], second: str):
    first = further(base, {"colour": COLOUR}, tmp_path / "one", data=rows, tune="lora", freeze="text")
    assert has_lora(first.model.backbone) and first.model.frozen == ["text"]
    freeze = "" if second == "all" else "text"
    run = further(first.folder, {"again": COLOUR}, tmp_path / "two", data=rows, tune=second, freeze=freeze)
    assert run.model.tasks == ["topic", "meaning", "colour", "again"]
    if freeze:
        before = Model.from_pretrained(base, "cpu")
        assert np.array_equal(before.embed(TEXTS, "text"), run.model.embed(TEXTS, "text"))
    Model.from_pretrained(run.folder, "cpu")


def test_adapters_that_one_modality_passes_cannot_freeze_it(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    first = further(base, {"colour": COLOUR}, tmp_path / "one", data=rows, tune="lora", freeze="text")
    with pytest.raises(UnitxError, match="adapters") as error:
        further(first.folder, {"again": COLOUR}, tmp_path / "two", data=rows, tune="lora", freeze="image")
    assert "\n" not in str(error.value)


def test_the_run_says_what_it_started_from(tmp_path: Path, base: Path):
    run = further(base, {"topic2": TOPIC}, tmp_path / "run", data=text_rows(12), steps=1)
    tree = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert tree["resolved"]["base"] == str(base) and checkpoints(run.folder / "checkpoints")


def test_a_base_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnitxError, match="nowhere") as error:
        further(tmp_path / "nowhere", {"topic2": TOPIC}, tmp_path / "run", data=text_rows(12))
    assert "\n" not in str(error.value)
