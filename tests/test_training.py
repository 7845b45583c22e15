"""The loop: it learns, its parts agree with each other, and its folder tells what happened."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_data import TINY, captioned, colour_folder, text_rows, tiny_run, tone_folder, write_csv

import unitx
from unitx.batches import Tally
from unitx.checkpoint import checkpoints
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.optim import Muon
from unitx.recipe import Recipe, TaskRecipe
from unitx.trainer import Trainer


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(colour_folder(tmp_path_factory.mktemp("data") / "photos"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("rows")
    return str(write_csv(folder / "rows.csv", captioned(folder / "photos", each=6)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: str) -> unitx.Run:
    return tiny_run("image-classify", tmp_path_factory.mktemp("runs") / "colours", data=photos, steps=30, evaluations=3)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(left: Path, right: Path) -> bool:
    a, b = weights(left), weights(right)
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_an_easy_problem_is_learned(run: unitx.Run):
    losses = [line["loss"] for line in run.history if "loss" in line]
    assert len(losses) == 3 and losses[-1] < 0.7 < losses[0] + 0.2
    assert run.metrics["image-classify/accuracy"] > 0.9
    assert not run.model.training and run.model.labels() == ["blue", "green", "red"]


def test_the_folder_is_complete(run: unitx.Run, photos: str):
    names = {path.name for path in run.folder.iterdir()}
    assert names == {"recipe.yaml", "model", "checkpoints", "metrics.jsonl", "curves.png"}
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert lines == run.history
    assert [line["step"] for line in lines if "held_out" in line] == [10, 20, 30]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30]
    tree = yaml.safe_load((run.folder / "recipe.yaml").read_text("utf-8"))
    assert set(tree) == {"format", "given", "resolved"} and tree["given"]["data"] == photos
    assert tree["resolved"]["labels"] == {"image-classify": 3} and tree["resolved"]["precision"] == "fp32"
    assert tree["resolved"]["parameters"] == sum(p.numel() for p in run.model.parameters())


def test_the_recipe_of_a_run_repeats_it(tmp_path: Path, run: unitx.Run):
    again = unitx.train(run.folder / "recipe.yaml", out=str(tmp_path / "again"), echo=False)
    assert equal(run.folder / "model", again.folder / "model") and again.metrics == run.metrics
    other = unitx.train(run.folder, out=str(tmp_path / "other"), seed=1, echo=False)
    assert not equal(run.folder / "model", other.folder / "model")


def test_the_model_in_the_folder_is_the_one_given_back(run: unitx.Run):
    loaded = Model.from_pretrained(run.folder, "cpu").state_dict()
    assert all(torch.equal(value.cpu(), loaded[name]) for name, value in run.model.state_dict().items())
    assert json.loads((run.folder / "model" / "scores.json").read_text("utf-8")) == run.metrics


def test_the_best_model_is_kept(tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch):
    told = iter([0.5, float("nan"), 0.9, 0.2, 0.8])
    kept: dict[float, dict[str, torch.Tensor]] = {}

    def score(model: Model, *_: Any) -> tuple[dict[str, float], Tally]:
        value = next(told)
        kept[value] = {name: p.detach().cpu().clone() for name, p in model.state_dict().items()}
        return {"accuracy": value}, Tally()

    monkeypatch.setattr("unitx.trainer.score", score)
    run = tiny_run("image-classify", tmp_path / "run", data=photos, steps=5, evaluations=5)
    assert run.metrics == {"image-classify/accuracy": 0.9}
    assert all(torch.equal(kept[0.9][name], value) for name, value in weights(run.folder / "model").items())
    assert not torch.equal(kept[0.9]["heads.image-classify.head.weight"], kept[0.8]["heads.image-classify.head.weight"])


def test_a_first_score_that_is_no_number_is_beaten_by_any(tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch):
    told = iter([float("nan"), 0.4, 0.3])
    monkeypatch.setattr("unitx.trainer.score", lambda *_: ({"accuracy": next(told)}, Tally()))
    run = tiny_run("image-classify", tmp_path / "run", data=photos, steps=3, evaluations=3)
    assert run.metrics == {"image-classify/accuracy": 0.4}


def test_lower_is_better_where_a_task_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr("unitx.trainer.score", lambda *_: ({"bits_per_byte": next(told)}, Tally()))
    data = [{"text": row["text"]} for row in text_rows(12)]
    recipe = Recipe(tasks={"write": TaskRecipe("next_token", reads="text")})
    run = tiny_run(recipe, tmp_path / "run", data=data, steps=3, evaluations=3)
    assert run.metrics == {"write/bits_per_byte": 2.0}


@pytest.mark.parametrize("keep_best", ["mean", "each"])
def test_between_scores_that_are_equal_the_loss_decides(
    tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch, keep_best: str
):
    told = iter([(0.5, 0.9), (0.75, float("nan")), (0.75, 0.5), (0.75, 0.8), (0.5, 0.1)])
    monkeypatch.setattr(
        "unitx.trainer.score", lambda *_: (dict(zip(["accuracy", "loss"], next(told), strict=True)), Tally())
    )
    run = tiny_run("image-classify", tmp_path / "run", data=photos, steps=5, evaluations=5, keep_best=keep_best)
    assert run.metrics == {"image-classify/accuracy": 0.75, "image-classify/loss": 0.5}
    if keep_best == "each":
        assert json.loads((run.folder / "best/image-classify/scores.json").read_text()) == run.metrics


@pytest.mark.parametrize("keep_best", ["mean", "each"])
def test_the_best_of_each_task_is_kept_where_asked_for(
    tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch, keep_best: str
):
    told = {"colour": iter([0.5, 0.9, 0.7, 0.8]), "write": iter([3.0, 2.5, 1.0, 2.9])}
    names = {"colour": "accuracy", "write": "bits_per_byte"}
    monkeypatch.setattr(
        "unitx.trainer.score", lambda *a: ({names[a[2].info.name]: next(told[a[2].info.name])}, Tally())
    )
    run = tiny_run(Recipe(tasks=dict(TWO)), tmp_path / "run", data=rows, steps=4, evaluations=4, keep_best=keep_best)
    # The third has both at the upper half of their ranges: (0.7 - 0.9) / 0.4 + (2.5 - 1.0) / 2.0 is more than nothing.
    assert run.metrics == {"colour/accuracy": 0.7, "write/bits_per_byte": 1.0}
    if keep_best == "mean":
        assert not (run.folder / "best").exists()
        return
    best = {task: json.loads((run.folder / "best" / task / "scores.json").read_text()) for task in TWO}
    assert best["colour"] == {"colour/accuracy": 0.9, "write/bits_per_byte": 2.5} and best["write"] == run.metrics
    assert equal(run.folder / "best" / "write", run.folder / "model")
    assert not equal(run.folder / "best" / "colour", run.folder / "model")
    assert Model.from_pretrained(run.folder / "best" / "colour", "cpu").tasks == ["colour", "write"]


def test_uncertainty_is_learned_and_goes_on_after_a_stop(tmp_path: Path, rows: str):
    given = {"data": rows, "loss_weighting": "uncertainty", "lr": 1e-2, "evaluations": 1}
    run = tiny_run(Recipe(tasks=dict(TWO)), tmp_path / "run", steps=20, checkpoint_every=10, **given)
    learned = {task: run.model.head(task).log_variance.item() for task in TWO}
    assert all(abs(value) > 1e-3 for value in learned.values())
    line = next(line for line in run.history if line["step"] == 10)
    parts = [
        TWO[task].weight
        * (line[f"{task}/loss"] * math.exp(-line[f"{task}/log_variance"]) + line[f"{task}/log_variance"] / 2)
        for task in TWO
    ]
    assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)
    shutil.rmtree(run.folder / "checkpoints/step-20")
    again = unitx.resume(run.folder, echo=False)
    assert {task: again.model.head(task).log_variance.item() for task in TWO} == learned
    further = unitx.finetune(
        run.folder, Recipe(tasks=dict(TWO)), data=rows, steps=1, out=str(tmp_path / "further"), echo=False,
        evaluations=1, precision="fp32", workers=0, lr=1e-9,
    )  # fmt: skip
    before, after = weights(run.folder / "model"), weights(further.folder / "model")
    head = "heads.colour.head.weight"
    assert torch.allclose(before[head], after[head], atol=1e-6) and "heads.colour.log_variance" not in after


TWO = {
    "colour": TaskRecipe("classify", reads="image", label="label"),
    "write": TaskRecipe("next_token", reads="text", weight=2.0),
}


def test_micro_batches_give_the_same_weights(tmp_path: Path, rows: str):
    runs = [
        tiny_run(Recipe(tasks=dict(TWO)), tmp_path / f"{n}", data=rows, steps=6, accumulate=n, evaluations=1)
        for n in (1, 4)
    ]
    left, right = (weights(run.folder / "checkpoints/step-6") for run in runs)
    assert all(torch.allclose(left[name], right[name], atol=1e-5) for name in left)
    a, b = (next(line for line in run.history if "loss" in line) for run in runs)
    assert set(a) == set(b) and all(a[k] == pytest.approx(b[k], rel=1e-4) for k in a if k != "seconds")


def test_the_loss_is_the_weighted_sum_of_the_tasks(tmp_path: Path, rows: str):
    run = tiny_run(Recipe(tasks=dict(TWO)), tmp_path / "run", data=rows, steps=4, accumulate=3, evaluations=1)
    line = next(line for line in run.history if "loss" in line)
    assert line["loss"] == pytest.approx(line["colour/loss"] + 2.0 * line["write/loss"], rel=1e-5)


def test_one_step_moves_the_weights_as_a_plain_loop_does(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch):
    """One step of the whole loop against gradients computed by hand, sequence by sequence."""
    seen: dict[str, Any] = {}
    begun = Trainer._step

    def watched(self: Trainer, batches: list) -> dict[str, float]:
        seen.update(batches=batches, before={n: p.detach().cpu().clone() for n, p in self.model.named_parameters()})
        return begun(self, batches)

    monkeypatch.setattr(Trainer, "_step", watched)
    made = {"optimizer": "adamw", "weight_decay": 0.0, "warmup": 0.0, "clip": 1e9, "lr": 1e-3}
    run = tiny_run(Recipe(tasks=dict(TWO)), tmp_path / "run", data=rows, steps=1, accumulate=3, **made)
    model = Model.from_pretrained(run.folder / "checkpoints/step-1", "cpu").train()
    model.load_state_dict(seen["before"], strict=False)
    counts = {name: sum(b.targets[name].count for b in seen["batches"] if name in b.targets) for name in TWO}
    for batch in seen["batches"]:
        tokens = model.encode(batch)
        sums = {name: model.heads[name].loss(tokens, targets).sum for name, targets in batch.targets.items()}
        sum(total * TWO[name].weight / counts[name] for name, total in sums.items()).backward()
    after = weights(run.folder / "checkpoints/step-1")
    checked = 0
    for name, p in model.named_parameters():
        if p.grad is None or not (p.grad.abs() > 1e-6).any():
            continue
        moved = after[name] - seen["before"][name]
        sure = p.grad.abs() > 1e-4  # AdamW's first step is lr times the gradient's sign
        assert torch.allclose(moved[sure], -1e-3 * p.grad[sure].sign(), atol=2e-6)
        checked += int(sure.sum())
    assert checked > 500


def test_a_run_that_goes_on_says_from_where(tmp_path: Path, photos: str, capfd: pytest.CaptureFixture[str]):
    given = {"data": photos, "steps": 4, "evaluations": 2, "out": str(tmp_path / "run"), **TINY}
    run = unitx.train("image-classify", **given)
    said = capfd.readouterr().err
    assert "few to learn from nothing" in said and "goes on" not in said
    assert "a step takes rows of image-classify more than once: fewer --batch-tokens" not in said
    shutil.rmtree(run.folder / "checkpoints" / "step-4")
    for expected in ("goes on from step 2, 50% of the run", "the run has come to its end with step 4"):
        unitx.resume(run.folder)
        said = capfd.readouterr().err
        assert expected in said and "few to learn from nothing" not in said


def test_a_step_longer_than_the_data_is_told(tmp_path: Path, photos: str, capfd: pytest.CaptureFixture[str]):
    given = {"data": photos, "steps": 1, "out": str(tmp_path / "run"), **TINY, "batch_tokens": 20_000}
    unitx.train("image-classify", **given)
    assert "a step takes rows of image-classify more than once: fewer --batch-tokens" in capfd.readouterr().err


def test_length_in_epochs_covers_the_larger_task(tmp_path: Path, photos: str):
    tasks = {"colour": TaskRecipe("classify", photos, reads="image", label="label"),
             "topic": TaskRecipe("classify", text_rows(20), reads="text", label="label")}  # fmt: skip
    run = tiny_run(Recipe(tasks=tasks), tmp_path / "run", epochs=2, evaluations=1)
    taken = yaml.safe_load((run.folder / "recipe.yaml").read_text())["resolved"]["rows_a_step"]
    needed = max(-(-2 * 32 // taken["colour"]), -(-2 * 18 // taken["topic"]))
    (saved,) = checkpoints(run.folder / "checkpoints")
    assert abs(int(saved.name.removeprefix("step-")) - needed) <= 1


def test_length_in_minutes_ends_in_time_and_a_finished_run_does_not_go_on(tmp_path: Path, photos: str):
    run = tiny_run("image-classify", tmp_path / "run", data=photos, minutes=0.02, evaluations=2)
    state = json.loads((checkpoints(run.folder / "checkpoints")[-1] / "training.json").read_text())["progress"]
    assert state["step"] >= 2 and 1.2 <= state["seconds"] < 6
    assert 1 <= sum("held_out" in line for line in run.history) <= 2
    before = {p: p.read_bytes() for p in (run.folder / "checkpoints").rglob("*") if p.is_file()}
    again = unitx.resume(run.folder, echo=False)
    assert {p: p.read_bytes() for p in (run.folder / "checkpoints").rglob("*") if p.is_file()} == before
    assert again.metrics == run.metrics and again.history == run.history


def test_several_tasks_and_modalities_at_once(tmp_path: Path, photos: str):
    sounds = tone_folder(tmp_path / "sounds")
    tasks = {
        "colour": TaskRecipe("classify", photos, reads="image", label="label"),
        "pitch": TaskRecipe("classify", str(sounds), reads="audio", label="label", weight=0.5),
        "write": TaskRecipe("next_token", text_rows(20), reads="text"),
    }
    run = tiny_run(Recipe(tasks=tasks), tmp_path / "run", steps=10, evaluations=1, batch_tokens=256)
    assert run.model.modalities == ["audio", "image", "text"] and run.model.tasks == list(tasks)
    assert {name.split("/")[0] for name in run.metrics} == set(tasks)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_each_number_format_trains_and_keeps_float32_weights(tmp_path: Path, photos: str, precision: str):
    run = tiny_run("image-classify", tmp_path / "run", data=photos, steps=2, precision=precision)
    resolved = yaml.safe_load((run.folder / "recipe.yaml").read_text())["resolved"]
    assert resolved["precision"] == precision or precision == "auto"
    assert all(value.dtype == torch.float32 for value in weights(run.folder / "model").values())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch):
    begun = Model.forward

    def broken(self: Model, *args: Any) -> Any:
        loss, metrics = begun(self, *args)
        return loss * float("nan"), metrics

    monkeypatch.setattr(Model, "forward", broken)
    with pytest.raises(UnitxError, match="--lr") as error:
        tiny_run("image-classify", tmp_path / "run", data=photos, steps=3)
    assert "\n" not in str(error.value) and "step" in str(error.value)


def test_a_folder_that_holds_a_run_is_not_written_over(run: unitx.Run, photos: str):
    before = (run.folder / "recipe.yaml").read_bytes()
    with pytest.raises(UnitxError, match=r"already holds a run.*--resume"):
        tiny_run("image-classify", run.folder, data=photos, steps=1)
    assert (run.folder / "recipe.yaml").read_bytes() == before


def test_a_model_saved_by_hand_is_not_written_over(tmp_path: Path, run: unitx.Run, photos: str):
    run.model.save_pretrained(tmp_path / "mine/model")
    with pytest.raises(UnitxError, match="mine already holds a run: name another folder with --out"):
        tiny_run("image-classify", tmp_path / "mine", data=photos, steps=1)


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_file_in_the_way_is_found_before_the_data_are_opened(tmp_path: Path, out: str):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UnitxError, match="file is a file; name a folder"):
        tiny_run("image-classify", tmp_path / out, data="no-such-folder")


def test_a_place_that_cannot_be_written_is_found_before_the_data_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UnitxError, match="nothing can be written into"):
        tiny_run("image-classify", tmp_path / "new/run", data="no-such-folder")


def test_a_tilde_is_the_home(tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tiny_run("image-classify", "~/runs/mine", data=photos, steps=2, evaluations=1)
    assert (tmp_path / "runs/mine/recipe.yaml").is_file() and not Path("~").exists()
    assert unitx.resume("~/runs/mine", echo=False).folder == run.folder
    unitx.evaluate("~/runs/mine", photos, folder="~/report")
    assert (tmp_path / "report/scores.json").is_file()


def test_out_that_is_a_file(tmp_path: Path, photos: str):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UnitxError, match="is a file"):
        tiny_run("image-classify", tmp_path / "file", data=photos, steps=1)


@pytest.mark.parametrize("tracker", ["tensorboard", "no-such-tracker"])
def test_a_tracker_writes_or_says_what_is_missing(tmp_path: Path, photos: str, tracker: str):
    if tracker == "tensorboard" and importlib.util.find_spec("tensorboard"):
        run = tiny_run("image-classify", tmp_path / "run", data=photos, steps=2, tracker=tracker)
        assert list(run.folder.rglob("events.out.*"))
        return
    with pytest.raises(UnitxError, match=tracker) as error:
        tiny_run("image-classify", tmp_path / "run", data=photos, steps=2, tracker=tracker)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    with pytest.raises(UnitxError, match="tracker"):  # before the data are opened
        tiny_run("image-classify", tmp_path / "run", data="no-such-folder", steps=2, tracker="no-such-tracker")


def test_a_run_draws_itself(run: unitx.Run):
    html = run._repr_html_()
    assert html.count("<table>") == 1 and "image-classify/accuracy" in html and "data:image/png;base64,iVBOR" in html


@pytest.mark.parametrize("echo", [True, False])
def test_the_interface_prints_nothing_on_stdout(
    tmp_path: Path, photos: str, echo: bool, capfd: pytest.CaptureFixture[str]
):
    unitx.train("image-classify", data=photos, out=str(tmp_path / "run"), steps=2, echo=echo, **TINY)
    out, err = capfd.readouterr()
    assert out == "" and ("held out" in err) == echo
    if echo:
        assert "few to learn from nothing" in err and "unitx finetune" in err


def test_a_notebook_cell_and_another_thread_can_train(tmp_path: Path, photos: str):
    cell = f"import unitx\nrun = unitx.train('image-classify', data={photos!r}, out=out, steps=1, echo=False, **given)"
    space: dict[str, Any] = {"__name__": "__main__", "out": str(tmp_path / "one"), "given": TINY}
    exec(compile(cell, "<cell>", "exec"), space)
    assert space["run"].metrics
    failed: list[BaseException] = []

    def work() -> None:
        try:
            exec(compile(cell, "<cell>", "exec"), {"out": str(tmp_path / "two"), "given": TINY})
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed and (tmp_path / "two" / "model").is_dir()


def test_a_sentencepiece_vocabulary_is_trained_and_kept(tmp_path: Path):
    data = [{"text": row["text"]} for row in text_rows(60)]
    recipe = Recipe(tasks={"write": TaskRecipe("next_token", reads="text")})
    options = {"vocabulary": "sentencepiece", "vocabulary_size": 300, "max_tokens": 32}
    run = tiny_run(recipe, tmp_path / "run", data=data, steps=2, **{"tokenizers.text": options})
    processor = run.model.processors["text"]
    ids = processor.prepare("the sea and the sky").values
    assert len(ids) < 15 < len("the sea and the sky") and processor.vocab.decode(ids[1:-1]) == "the sea and the sky"
    kept = run.folder / "model" / "text.spm"
    assert kept.read_bytes() == processor.spm and (run.folder / "checkpoints/step-2/text.spm").is_file()
    assert "spm" not in (run.folder / "recipe.yaml").read_text()
    assert unitx.resume(run.folder, echo=False, data=data).model.processors == run.model.processors


PLUGIN = """
from dataclasses import dataclass
import numpy as np
import torch
from torch import nn
from unitx.errors import BadItem
from unitx.registry import register_task, register_tokenizer
from unitx.tasks.classify import Classify
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces, line_positions


@dataclass(frozen=True)
class DnaProcessor(Processor):
    def read(self, item):
        if set(item) - set("ACGT"):
            raise BadItem(f"{item} is no DNA; write A, C, G and T")
        return item

    def features(self, raw):
        return np.array(["ACGT".index(c) for c in raw])

    def cut(self, features, rng=None):
        return Pieces(features[: self.max_tokens], line_positions(min(len(features), self.max_tokens)))


@register_tokenizer("gene")
class Dna(Tokenizer):
    Processor = DnaProcessor

    def __init__(self, processor, dim):
        super().__init__(processor, dim)
        self.table = nn.Embedding(4, dim)

    def forward(self, values, counts):
        return self.table(values)


@register_task("doubled")
class Doubled(Classify):
    def loss(self, tokens, targets):
        found = super().loss(tokens, targets)
        return found._replace(sum=2 * found.sum)
"""


def test_a_modality_and_a_task_of_ones_own(tmp_path: Path):
    plugin = tmp_path / "my_gene.py"
    plugin.write_text(PLUGIN)
    data = [{"gene": "AC" * 4 + "A" * (i % 5 + 1), "kind": "a"} for i in range(10)]
    data += [{"gene": "GT" * 4 + "G" * (i % 5 + 1), "kind": "g"} for i in range(10)]
    test, data = data[::3], [*data, {"gene": "XYZ", "kind": "g"}]
    recipe = Recipe(tasks={"kind": TaskRecipe("doubled", reads="gene:gene", label="kind")})
    made = {"data": data, "test": test, "steps": 12, "plugins": [str(plugin)], "workers": 2, "evaluations": 1}
    run = tiny_run(recipe, tmp_path / "run", **made)
    assert run.metrics["kind/accuracy"] == 1.0
    assert (run.folder / "skipped.txt").read_text() == "XYZ is no DNA; write A, C, G and T\n"
    config = json.loads((run.folder / "model" / "config.json").read_text())
    assert config["tokenizers"]["gene"]["file"] == "my_gene.py" and config["tasks"][0]["file"] == "my_gene.py"


def test_bad_items_are_reported_at_the_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    data = captioned(tmp_path / "photos", each=8)
    broken = [row["image"] for row in data[::6]]
    for file in broken:
        Path(file).write_bytes(b"\x89PNG broken")
    recipe = Recipe(tasks={"colour": TaskRecipe("classify", reads="image", label="label")})
    run = unitx.train(recipe, data=data, out=str(tmp_path / "run"), epochs=2, evaluations=1, **TINY)
    _, err = capfd.readouterr()
    lines = (run.folder / "skipped.txt").read_text().splitlines()
    assert lines and all(any(file in line for file in broken) for line in lines) and len(set(lines)) == len(lines)
    assert f"{len(lines)} items could not be read" in err
    progress = json.loads((checkpoints(run.folder / "checkpoints")[-1] / "training.json").read_text())["progress"]
    assert progress["items"] > 30


def test_a_long_gradient_is_clipped(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch):
    norms: list[float] = []
    begun = Muon.step

    def seen(self: Muon, *args: Any) -> None:
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"])))
        begun(self, *args)

    monkeypatch.setattr(Muon, "step", seen)
    for clip in (1e9, 1e-3):
        tiny_run("text-classify", tmp_path / str(clip), data=rows, steps=3, clip=clip)
    free, clipped = norms[:3], norms[3:]
    assert max(free) > 0.01 and max(clipped) <= 1e-3


def test_the_advice_for_few_rows_can_be_typed(tmp_path: Path, photos: str, capfd: pytest.CaptureFixture[str]):
    made = {"reads": "image", "label": "label", **TINY}
    file = tmp_path / "mine.yaml"
    file.write_text("tasks:\n  kinds: {kind: classify}\n")
    unitx.train(file, data=photos, test=photos, out=str(tmp_path / "run"), steps=1, **made)
    said = capfd.readouterr().err
    assert re.search(rf"with the same flags from a trained backbone: unitx finetune \S+ {file} …", said)


@pytest.mark.parametrize("kind", ["classify", "next_token"])
def test_what_was_shortened_is_said(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rows = [{"text": "a long story " * 9, "label": "long"}, {"text": "short", "label": "short"}] * 10
    settings = {**TINY, "data": rows, "test": rows, "reads": "text", "label": "label", "steps": 4, "evaluations": 1}
    recipe = Recipe(tasks={"kinds": TaskRecipe(kind)})
    unitx.train(recipe, out=str(tmp_path / "run"), **settings)
    said = capfd.readouterr().err
    assert re.search(r"text: \d+ times \((4|5)\d%\) an item longer than max_tokens gave a random part", said)
    # A classifier is judged by all of an item, as it predicts.
    by_beginning = "text: 10 held-out items longer than max_tokens were judged by their beginning" in said
    assert by_beginning == (kind == "next_token")
