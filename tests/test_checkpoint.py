"""Checkpoints: going on gives what an uninterrupted run gives, to the last bit, whatever stopped it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small_data import TINY, captioned, tiny_run, write_csv

import unitx
from unitx import checkpoint
from unitx.checkpoint import Progress, checkpoints, load_progress, load_training_state, optimizer_state, save_checkpoint
from unitx.config import BackboneConfig
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.optim import build_optimizers
from unitx.recipe import Recipe, TaskRecipe
from unitx.task import TaskInfo
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor

TASKS = {
    "colour": TaskRecipe("classify", reads="image", label="label"),
    "write": TaskRecipe("next_token", reads="text", weight=0.5),
    "align": TaskRecipe("align", reads="image,text"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    return str(write_csv(folder / "rows.csv", captioned(folder / "photos", each=6)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def lines(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says, without the times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def cut_short(folder: Path, out: Path, step: int) -> Path:
    """A copy of a run's folder as if the process had been killed some steps after checkpoint `step`."""
    shutil.copytree(folder, out)
    for path in checkpoints(out / "checkpoints"):
        if path.name != f"step-{step}":
            shutil.rmtree(path)
    return out


@pytest.mark.parametrize(
    ("workers", "given"), [(0, {"augment": "strong"}), (1, {"accumulate": 2, "optimizer": "adamw"})]
)
def test_going_on_equals_running_through(tmp_path: Path, data: str, workers: int, given: dict[str, Any]):
    made = {"data": data, "steps": 16, "checkpoint_every": 6, "evaluations": 4, "workers": workers, **given}
    whole = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "whole", **made)
    assert [path.name for path in checkpoints(whole.folder / "checkpoints")] == ["step-12", "step-16"]
    half = cut_short(whole.folder, tmp_path / "half", 12)
    again = unitx.resume(half, echo=False)
    for part in ("model", "checkpoints/step-16"):
        assert equal(weights(whole.folder / part), weights(half / part))
    state = [load_file(f / "checkpoints/step-16/training.safetensors") for f in (whole.folder, half)]
    assert equal(*state) and any(name.startswith("optimizer0.backbone.") for name in state[0])
    assert lines(half) == lines(whole.folder)  # no line is lost and none stands twice
    assert again.metrics == whole.metrics and load_progress(half / "checkpoints/step-16").step == 16


def test_going_on_keeps_random_numbers_in_step(tmp_path: Path, data: str):
    plugin = tmp_path / "noisy.py"
    plugin.write_text("""
import torch
from unitx.registry import register_task
from unitx.tasks.classify import Classify

@register_task("noisy")
class Noisy(Classify):
    def outputs(self, tokens, rows):
        means = tokens.mean().index_select(0, rows)
        return self.head(torch.nn.functional.dropout(means, 0.3, self.training)).float()
""")
    made = {"data": data, "steps": 10, "checkpoint_every": 4, "evaluations": 5, "plugins": [str(plugin)]}
    tasks = {"colour": TaskRecipe("noisy", reads="image", label="label")}
    whole = tiny_run(Recipe(tasks=tasks), tmp_path / "whole", **made)
    half = cut_short(whole.folder, tmp_path / "half", 8)
    unitx.resume(half, echo=False)
    assert equal(weights(whole.folder / "checkpoints/step-10"), weights(half / "checkpoints/step-10"))


@pytest.mark.parametrize("lost", ["a newline", "half a line", "half a letter", "all but half a line"])
def test_half_a_line_of_metrics_does_not_stop_a_run(tmp_path: Path, data: str, lost: str):
    made = {"data": data, "steps": 6, "checkpoint_every": 4, "evaluations": 1}
    whole = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "whole", **made)
    half = cut_short(whole.folder, tmp_path / "half", 4)
    metrics = half / "metrics.jsonl"
    written = metrics.read_bytes()  # as a full disk or a power cut leaves it
    left = {
        "a newline": written[:-1],
        "half a line": written[:-20],
        "half a letter": written[:-20] + "ö".encode()[:1],
        "all but half a line": written[:20],
    }
    metrics.write_bytes(left[lost])
    unitx.resume(half, echo=False)
    assert equal(weights(whole.folder / "model"), weights(half / "model"))
    steps = [line["step"] for line in lines(whole.folder)]
    assert [line["step"] for line in lines(half)] == [step for step in steps if step > 4 or lost[:3] != "all"]


def test_a_full_disk_is_one_line_and_leaves_whole_checkpoints(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    write = checkpoint._write_all

    def full(folder: Path, model: Any, states: Any, progress: Progress) -> None:
        if progress.step == 4:
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(folder, model, states, progress)

    monkeypatch.setattr(checkpoint, "_write_all", full)
    made = {"data": data, "steps": 6, "checkpoint_every": 2, "evaluations": 1}
    says = r"No space left.*make room there, then go on with: unitx train --resume"
    with pytest.raises(UnitxError, match=says) as error:
        tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "run", **made)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-2"]
    monkeypatch.undo()
    unitx.resume(tmp_path / "run", echo=False)
    whole = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "whole", **made)
    assert equal(weights(tmp_path / "run" / "model"), weights(whole.folder / "model"))


def test_a_run_of_before_losses_were_kept_goes_on(tmp_path: Path, data: str):
    made = {"data": data, "steps": 6, "checkpoint_every": 4, "evaluations": 3, "keep_best": "each"}
    whole = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "whole", **made)
    half = cut_short(whole.folder, tmp_path / "half", 4)
    state = half / "checkpoints/step-4" / checkpoint.STATE
    kept = json.loads(state.read_text("utf-8"))
    assert len(kept["progress"].pop("losses")) == 2
    state.write_text(json.dumps(kept), "utf-8")
    unitx.resume(half, echo=False)
    assert equal(weights(whole.folder / "checkpoints/step-6"), weights(half / "checkpoints/step-6"))


def test_what_may_not_be_written_is_one_line(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch):
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "_write_all", refused)
    with pytest.raises(UnitxError, match=r"\[Errno 13\] Permission denied\): train anew$"):
        tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "run", data=data, steps=1, evaluations=1)


def test_data_in_memory_are_given_again(tmp_path: Path, data: str):
    frame = pd.read_csv(data)
    made = {"data": frame, "tasks.write.test": frame[:6], "steps": 6, "checkpoint_every": 4, "evaluations": 1}
    whole = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "whole", **made)
    half = cut_short(whole.folder, tmp_path / "half", 4)
    given: dict[str, Any] = {"data": frame, "tasks.write.test": frame[:6]}
    for missing in given:
        with pytest.raises(
            UnitxError, match=rf"^{missing} was in memory \(DataFrame\).* unitx\.resume\(RUN, "
        ) as error:
            unitx.resume(half, echo=False, **{name: value for name, value in given.items() if name != missing})
        assert "\n" not in str(error.value)
    with pytest.raises(UnitxError, match=r"the data or the recipe of .*half changed"):
        unitx.resume(half, echo=False, **{**given, "data": frame[:-1]})
    with pytest.raises(UnitxError, match="half goes on as it was begun: test was not in memory"):
        unitx.resume(half, echo=False, **given, test=frame)
    unitx.resume(half, echo=False, **given)
    assert equal(weights(whole.folder / "checkpoints/step-6"), weights(half / "checkpoints/step-6"))


def test_no_pickle_in_a_run(tmp_path: Path, data: str):
    run = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "run", data=data, steps=2)
    kinds = {path.suffix for path in run.folder.rglob("*") if path.is_file()}
    assert kinds == {".yaml", ".json", ".jsonl", ".safetensors", ".png"}
    for path in run.folder.rglob("*.safetensors"):
        load_file(path)


SCRIPT = """
import sys, unitx
unitx.train("classify", data=sys.argv[1], out=sys.argv[2], reads="image", label="label", steps=1500,
            evaluations=1, **{settings})
print("done")
"""


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, data: str):
    script, run = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT.replace("{settings}", repr({**TINY, "batch_tokens": 16, "workers": 1})))
    process = subprocess.Popen(
        [sys.executable, str(script), data, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == "done\n" and "Traceback" not in err
    assert err.count("stopping after this step") == 1
    (saved,) = checkpoints(run / "checkpoints")
    step = load_progress(saved).step
    assert 0 < step < 1500
    assert f"stopped at step {step}; go on with: unitx train --resume {run}" in err.splitlines()[-1]
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("1500", str(step + 3)))
    again = unitx.resume(run, echo=False)
    assert checkpoints(run / "checkpoints")[-1].name == f"step-{step + 3}" and "classify/accuracy" in again.metrics


def test_a_run_stopped_before_its_first_line_can_go_on(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch):
    from unitx.trainer import Trainer

    begun = Trainer._step

    def interrupted(self: Trainer, batches: list) -> dict[str, float]:
        if self.progress.step == 1:
            signal.raise_signal(signal.SIGINT)
        return begun(self, batches)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    made = {"data": data, "steps": 6, "evaluations": 1}
    run = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "run", **made)
    assert [path.name for path in checkpoints(run.folder / "checkpoints")] == ["step-2"]
    assert run.metrics == {} and run.model.tasks == list(TASKS)
    monkeypatch.undo()
    again = unitx.resume(run.folder, echo=False)
    whole = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "whole", **made)
    assert equal(weights(run.folder / "model"), weights(whole.folder / "model")) and again.metrics == whole.metrics


def test_a_signal_while_processes_agree_is_not_lost(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch):
    from unitx.trainer import Trainer

    agree, tell = Trainer._of_processes, Trainer._tell_time

    def interrupted(self: Trainer, seconds: float) -> None:
        def agreed(self: Trainer, *mine: float) -> torch.Tensor:
            found = agree(self, *mine)
            if self.progress.step == 2:
                signal.raise_signal(signal.SIGINT)  # after this process has said what it wishes
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_of_processes", agreed)
            tell(self, seconds)

    monkeypatch.setattr(Trainer, "_tell_time", interrupted)
    run = tiny_run(Recipe(tasks=dict(TASKS)), tmp_path / "run", data=data, steps=6, evaluations=1)
    assert [path.name for path in checkpoints(run.folder / "checkpoints")] == ["step-3"]


def small_model() -> Model:
    torch.manual_seed(0)
    tasks = [TaskInfo("topic", "classify", {"text": "text"}, "label", ["a", "b"]),
             TaskInfo("other", "classify", {"image": "image"}, "label", ["a", "b"])]  # fmt: skip
    processors = {"image": ImageProcessor(max_tokens=4, patch=8), "text": TextProcessor(max_tokens=32)}
    return Model(BackboneConfig(dim=16, depth=1, heads=2), processors, tasks)


def states(model: Model, optimizers: list[torch.optim.Optimizer]) -> list[dict[str, torch.Tensor]]:
    return [optimizer_state(model, optimizer) for optimizer in optimizers]


def trained(kind: str = "muon", steps: int = 3) -> tuple[Model, list[torch.optim.Optimizer]]:
    """A model whose pictures and their head never got a gradient."""
    model = small_model()
    optimizers = build_optimizers(model, kind, 0.01, 0.1)
    for _ in range(steps):
        train_step(model, optimizers)
    return model, optimizers


def train_step(model: Model, optimizers: list[torch.optim.Optimizer]) -> None:
    for name, p in model.named_parameters():
        if not name.startswith(("tokenizers.image", "heads.other")):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_what_got_no_gradient_yet_does_not_stand_in_the_way(tmp_path: Path, kind: str):
    model, optimizers = trained(kind)
    saved = save_checkpoint(tmp_path, model, states(model, optimizers), Progress(step=3))
    loaded = Model.from_pretrained(saved, "cpu")
    fresh = build_optimizers(loaded, kind, 0.01, 0.1)
    load_training_state(saved, loaded, fresh)
    for _ in range(2):
        train_step(model, optimizers)
        train_step(loaded, fresh)
    assert equal(model.state_dict(), loaded.state_dict())
    # The first gradient of a part comes after going on: as if the part had been there without any.
    for m, o in ((model, optimizers), (loaded, fresh)):
        for p in m.parameters():
            p.grad = torch.ones_like(p)
        for optimizer in o:
            optimizer.step()
    assert equal(model.state_dict(), loaded.state_dict())


def test_saving_changes_nothing():
    model, optimizers = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for o in optimizers for name, value in optimizer_state(model, o).items()
             if isinstance(value, torch.Tensor)}  # fmt: skip
    held = [len(o.state) for o in optimizers]
    again = {name: value for o in optimizers for name, value in optimizer_state(model, o).items()
             if isinstance(value, torch.Tensor)}  # fmt: skip
    assert equal(before, model.state_dict()) and equal(state, again)
    assert held == [len(o.state) for o in optimizers]


def test_only_the_newest_two_are_kept(tmp_path: Path):
    model, optimizers = trained(steps=1)
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, model, states(model, optimizers), Progress(step=step))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-10", "step-100"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("at", ["save_file", "write_text", "rename"])
def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    model, optimizers = trained(steps=1)
    save_checkpoint(tmp_path, model, states(model, optimizers), Progress(step=1))

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if at == "save_file":
            import safetensors.torch

            patch.setattr(safetensors.torch, "save_file", killed)
        else:
            patch.setattr(Path, at, killed)
        save_checkpoint(tmp_path, model, states(model, optimizers), Progress(step=2))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-1"]
    load_training_state(checkpoints(tmp_path)[-1], *trained(steps=1))
    save_checkpoint(tmp_path, model, states(model, optimizers), Progress(step=3))  # clears what was half written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3"]


def test_a_copy_beside_the_checkpoints_is_none_of_them(tmp_path: Path):
    for name in ("step-20", "step-3", "step-100-copy", "step-"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-3", "step-20"]


def test_progress_comes_back(tmp_path: Path):
    model, optimizers = trained(steps=1)
    progress = Progress(step=4, seconds=1.25, best=0.5, items=40)
    assert load_progress(save_checkpoint(tmp_path, model, states(model, optimizers), progress)) == progress


def test_a_folder_that_is_no_checkpoint_says_so(tmp_path: Path):
    model, optimizers = trained(steps=1)
    saved = save_checkpoint(tmp_path / "run", model, states(model, optimizers), Progress(step=1))
    (saved / checkpoint.TENSORS).unlink()
    for folder in (saved, tmp_path / "nothing"):
        with pytest.raises(UnitxError, match=folder.name) as error:
            load_progress(folder)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("there", ["nothing", "no checkpoint"])
def test_going_on_with_what_is_no_run_says_so(tmp_path: Path, there: str):
    if there == "no checkpoint":
        (tmp_path / "recipe.yaml").write_text("format: 1\ngiven: {}\n")
    with pytest.raises(UnitxError, match=tmp_path.name):
        unitx.resume(tmp_path, echo=False)
