from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import yaml
from accelerate import Accelerator
from published_models import IMAGES, drawn, small_bert
from safetensors.torch import load_file, save_file
from small_data import TINY, WORDS, colour_folder, tone_folder
from small_models import CLASSES, PAIRS, batch_of, picture, small_model

import unitx.trainer as trainer_module
from unitx.distributed import gather_rows
from unitx.errors import UnitxError
from unitx.job import build_job
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe, from_dict, save_recipe, update
from unitx.sharding import sharding_of
from unitx.trainer import Run, Trainer
from unitx.training import finetune, train

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() == 1, reason="two processes want two devices: CUDA_VISIBLE_DEVICES= takes processors"
)

# What each of two processes holds: other numbers of rows, a task that one of them lacks, and a modality.
ROWS: list[list[tuple[str, dict[str, Any]]]] = [
    [("pairs", {"image": picture(i), "text": f"text {i % 3}"}) for i in range(4)],
    [("pairs", {"image": picture(9), "text": "text 2"}), ("kind", {"picture": picture(7), "kind": "dog"})],
    [("pairs", {"image": None, "text": f"text {i}"}) for i in range(3)],
    [("kind", {"picture": picture(i), "kind": "owl"}) for i in range(2)],
]
SHARES = [(0, 1), (1, 0), (2, 1), (0, 3)]


def small() -> Model:
    return small_model(PAIRS, CLASSES).train()


def step(share: tuple[int, ...], mine: list[tuple[str, dict[str, Any]]]) -> dict[str, torch.Tensor]:
    """The loss, the gradients and the running statistics of one step, for the share that this process holds."""
    model = small()
    everything = batch_of(model, [row for part in share for row in ROWS[part]])
    counts = {name: targets.count for name, targets in everything.targets.items()}
    loss, _ = model(batch_of(model, mine), counts)
    loss.backward()
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    assert not dist.is_initialized() or all(p.grad is not None for p in model.parameters())
    statistics = {name: b for name, b in model.named_buffers() if "running" in name}
    return {"loss": loss.detach()} | found | statistics


def gathered(rank: int) -> dict[str, torch.Tensor]:
    """Rows 0 to 2 lie in process 0, rows 3 to 7 in process 1."""
    x = torch.arange(24.0).view(8, 3)[(slice(0, 3), slice(3, 8))[rank]].requires_grad_()
    everything = gather_rows(x)
    ((everything * torch.arange(24.0).view(8, 3)).sum() * (rank + 1)).backward()
    empty = gather_rows(torch.zeros(2 * rank, 4))
    return {"rows": everything.detach(), "grad": x.grad, "ids": gather_rows(torch.arange(3 - rank)), "empty": empty}


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {f"gathered.{name}": value for name, value in gathered(rank).items()}
    for number, share in enumerate(SHARES):
        found |= {f"{number}.{name}": value for name, value in step(share, ROWS[share[rank]]).items()}
    save_file({name: value.contiguous() for name, value in found.items()}, Path(folder) / f"{rank}.safetensors")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (free_port(), str(folder)), nprocs=2)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_with_one_process_rows_come_back_as_they_are() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x) is x


def test_rows_of_all_processes_are_gathered_with_gradient(both: list[dict[str, torch.Tensor]]) -> None:
    whole = torch.arange(24.0).view(8, 3)
    for found, mine in zip(both, (slice(0, 3), slice(3, 8)), strict=True):
        assert torch.equal(found["gathered.rows"], whole)
        assert torch.equal(found["gathered.grad"], 3 * whole[mine])  # from both processes' losses: 1 + 2
        assert found["gathered.ids"].tolist() == [0, 1, 2, 0, 1]
        assert found["gathered.empty"].shape == (2, 4)


@pytest.mark.parametrize("number", range(len(SHARES)))
def test_two_processes_take_the_step_of_one(both: list[dict[str, torch.Tensor]], number: int) -> None:
    share = SHARES[number]
    alone = step(share, [row for part in share for row in ROWS[part]])
    assert alone["loss"] > 0.1
    for name, expected in alone.items():
        parts = [found[f"{number}.{name}"] for found in both]
        found = parts[0] if "running" in name else parts[0] + parts[1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert any(alone[name].abs().max() > 1e-3 for name in alone if name.startswith("tokenizers"))


def trained(rank: int, port: int, folder: str) -> None:
    """A run of a second by the clock, where one process sees time pass faster and half of the rows cannot be read."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    told = time.monotonic
    time.monotonic = lambda: (1 + rank) * told()
    # Each would choose another number format.
    trainer_module.choose_precision = lambda *_: (("fp32", "bf16")[rank], f"process {rank}")
    bad = Path(folder) / "bad.png"
    rows = [{"image": picture(i) if i % 2 else bad, "kind": ("cat", "dog")[i % 4 > 1]} for i in range(40)]
    recipe = Recipe(tasks={"kind": TaskRecipe("classify", reads="image", label="kind")}, data=rows, minutes=0.05)
    recipe = update(recipe, **{**TINY, "batch_tokens": 8, "evaluations": 1, "precision": "auto"})
    trainer = Trainer(build_job(recipe), Path(folder) / "run", echo=False)
    run = trainer.run()
    found = {name: value.contiguous() for name, value in trainer.model.state_dict().items()}
    progress = torch.tensor([trainer.progress.step, trainer.progress.seconds])
    save_file({"progress": progress, **found}, Path(folder) / f"trained{rank}.safetensors")
    assert run.metrics == json.loads((run.folder / "model/scores.json").read_text())
    assert trainer.job.resolved["precision"] == "fp32"
    further(rank, run.model, update(recipe, model={}, steps=2, out=f"{folder}/further"))
    dist.destroy_process_group()


def further(rank: int, model: Model, recipe: Recipe) -> None:
    """A model in memory is trained further: the first process alone writes the copy that all begin with."""
    save = Model.save_pretrained
    written: list[str] = []
    Model.save_pretrained = lambda self, to, *more: written.append(Path(to).name) or save(self, to, *more)
    run = finetune(model, recipe, echo=False)
    assert written[:1] == ([] if rank else ["base"])
    assert (run.folder / "base" / "config.json").is_file() and run.metrics


def test_two_processes_train_as_one_by_the_clock(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    torch.multiprocessing.spawn(trained, (free_port(), str(tmp_path)), nprocs=2)
    one, other = (load_file(tmp_path / f"trained{rank}.safetensors") for rank in range(2))
    assert one["progress"][0] >= 2
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "run/curves.png").is_file() and "bad.png" in (tmp_path / "run/skipped.txt").read_text()


def published(rank: int, port: int, folder: str) -> None:
    """A published vision transformer, and pictures on a published model of texts: heads that rest, new positions."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
                   "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}  # fmt: skip
    given = {"steps": 3, "evaluations": 1, "workers": 0, "precision": "fp32", "echo": False}
    new = {"tokenizers.image": {"patch": 8, "max_tokens": 4}}
    for base, options in (("vit", {}), ("bert", new)):
        run = finetune(
            f"{folder}/{base}", "image-classify", data=f"{folder}/data", out=f"{folder}/from-{base}", **given, **options
        )
        state = {name: value.contiguous() for name, value in run.model.state_dict().items()}
        save_file(state, Path(folder) / f"{base}{rank}.safetensors")
    dist.destroy_process_group()


def test_published_models_train_in_two_processes(tmp_path: Path) -> None:
    drawn(*IMAGES["vit, classes"]).save_pretrained(tmp_path / "vit")
    small_bert(tmp_path / "bert")
    colour_folder(tmp_path / "data")
    torch.multiprocessing.spawn(published, (free_port(), str(tmp_path)), nprocs=2)
    for base in ("vit", "bert"):
        one, other = (load_file(tmp_path / f"{base}{rank}.safetensors") for rank in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)


def every_kind(root: Path) -> Recipe:
    """Tasks of every kind, with pictures, texts and sounds; of sounds a step has one."""
    colour_folder(root / "photos", each=2)
    tone_folder(root / "tones", each=2, seconds=0.2)
    rows = [
        {"image": f"photos/{name}/{n}.png", "text": WORDS[name] if n else None, "name": name, "number": i + n / 2,
         "objects": [{"name": name, "box": [2, 2 + i, 8, 6]}] * n}
        for i, name in enumerate(WORDS)
        for n in range(2)
    ]  # fmt: skip
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    of = {
        "kind": ("classify", "text", "name"),
        "number": ("regress", "image", "number"),
        "find": ("detect", "image", "objects"),
        "name": ("caption", "image", "name"),
        "say": ("translate", "text", "name"),
        "go-on": ("next_token", "text", None),
        "fill": ("masked", "image,text", None),
        "pairs": ("align", "image,text", None),
        "pitch": ("classify", "audio", "label"),
    }
    tasks: dict[str, Any] = {
        n: {"kind": kind, "reads": reads, "label": label} for n, (kind, reads, label) in of.items()
    }
    tasks["pitch"] |= {"data": f"{root}/tones", "test": f"{root}/tones", "weight": 0.01}
    data = {"data": f"{root}/rows.jsonl", "test": f"{root}/rows.jsonl"}
    tree = {"tasks": tasks, "steps": 20, "evaluations": 1, "lr": 5e-4, **data}
    return update(from_dict(Recipe, tree, "recipe"), **TINY)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    save_recipe(folder / "recipe.yaml", replace(every_kind(folder), augment="light"), {})
    return train(folder / "recipe.yaml", out=str(folder / "run"), echo=False)


@pytest.mark.parametrize("sharded", [False, True])
def test_torchrun_gives_the_weights_of_one_process(tmp_path: Path, alone: Run, sharded: bool) -> None:
    """Also where the processes share the weights, as `accelerate launch --use_fsdp --fsdp_version 2` asks for."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    recipe = alone.folder.parent / "recipe.yaml"
    command = [sys.executable, *torchrun, "-m", "unitx", "train", str(recipe), "--out", str(tmp_path / "two")]
    given = {"OMP_NUM_THREADS": "1"} | ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if sharded else {})
    both = subprocess.run(command, env={**os.environ, **given}, stdout=subprocess.PIPE, text=True)
    assert both.returncode == 0 and both.stdout.count("kind/accuracy") == 1
    resolved = yaml.safe_load((tmp_path / "two/recipe.yaml").read_text())["resolved"]
    assert any("2 processes share the weights" in note for note in resolved["notes"]) == sharded
    assert resolved["rows_a_step"]["pitch"] == 1  # so that one of the two never hears anything in a step
    runs = (alone.folder, tmp_path / "two")
    for file in ("model", "training"):
        one, two = (load_file(run / f"checkpoints/step-20/{file}.safetensors") for run in runs)
        assert one.keys() == two.keys()
        for name in one.keys() - {"random.cpu"}:
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    lines = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in alone.history]
    for line, expected in zip(lines, alone.history, strict=True):
        found, wanted = ({**each.get("held_out", each), "seconds": 0} for each in (line, expected))
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_only_the_second_version_of_fsdp_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    assert sharding_of(accelerator) is None
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert sharding_of(accelerator) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UnitxError, match="--fsdp_version 2"):
        sharding_of(accelerator)
