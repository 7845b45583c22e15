from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from small_models import CLASSES, PAIRS, SHAPE, SPACE, STORIES, batch_of, picture, shake, small_model, sound

import unitx
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import train_sentencepiece

ALL = (CLASSES, SPACE, STORIES)
ITEMS = ["a cat", picture(0), sound(0), {"image": picture(1), "text": "Felix"}]
PLUGIN = """
from dataclasses import dataclass
import numpy as np
from unitx import register_task, register_tokenizer
from unitx.tasks.classify import Classify
from unitx.tokenizer import Processor
from unitx.tokenizers.text import TextProcessor, TextTokenizer

@dataclass(frozen=True)
class DnaProcessor(TextProcessor):
    letters: tuple[str, ...] = ("a", "c", "g", "t")

@register_tokenizer("dna")
class Dna(TextTokenizer):
    Processor = DnaProcessor

@register_task("dna_classify")
class DnaClassify(Classify):
    pass
"""
MAKE = """
import sys
import unitx
from unitx.config import BackboneConfig
from unitx.model import Model
from unitx.registry import TOKENIZERS
from unitx.task import TaskInfo
unitx.import_plugin(sys.argv[1])
info = TaskInfo("kind", "dna_classify", {"text": "dna"}, "kind", ["a", "b"])
processor = TOKENIZERS.get("dna").Processor(letters=("x", "y"))
Model(BackboneConfig(dim=16, depth=1, heads=2), {"dna": processor}, [info]).save_pretrained(sys.argv[2])
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return small_model(*ALL).save_pretrained(tmp_path / "model")


def assert_equal(left: Model, right: Model) -> None:
    a, b = left.state_dict(), right.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert left.processors == right.processors and left.backbone.config == right.backbone.config
    assert [head.info for head in left.heads.values()] == [head.info for head in right.heads.values()]


def test_a_model_comes_back_exactly(saved: Path) -> None:
    model, loaded = small_model(*ALL), Model.from_pretrained(saved, "cpu")
    assert_equal(model, loaded)
    assert not loaded.training and {p.dtype for p in loaded.parameters()} == {torch.float32}
    np.testing.assert_array_equal(loaded.embed(ITEMS), model.embed(ITEMS))
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]
    again = loaded.save_pretrained(saved.parent / "again")
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in saved.iterdir())


def test_processors_come_back_with_their_bytes_and_tuples(tmp_path: Path) -> None:
    spm = train_sentencepiece(["once upon a time there was a tree"] * 5, 300)
    model = small_model(STORIES, vocabulary="sentencepiece", spm=spm)
    model.tokenizers["image"].processor = ImageProcessor(max_tokens=9, patch=4, mean=(0.1, 0.2, 0.3))
    folder = model.save_pretrained(tmp_path)
    assert (folder / "text.spm").read_bytes() == spm
    loaded = Model.from_pretrained(folder, "cpu")
    assert loaded.processors == model.processors and isinstance(loaded.processors["image"].mean, tuple)
    assert loaded.generate(["once"], temperature=0, max_tokens=5) == model.generate(
        ["once"], temperature=0, max_tokens=5
    )
    small_model().save_pretrained(folder)  # over it, one without a vocabulary of its own
    assert Model.from_pretrained(folder, "cpu").processors == small_model().processors


def test_half_precision_is_in_the_file_only(tmp_path: Path) -> None:
    model = small_model(*ALL)
    folder = model.save_pretrained(tmp_path, torch.float16)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}
    loaded = Model.from_pretrained(folder, "cpu")
    for name, value in model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], expected)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_runs_folder_is_its_models(saved: Path) -> None:
    assert_equal(Model.from_pretrained(saved.parent, "cpu"), Model.from_pretrained(str(saved), "cpu"))


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config = change(config) or config
        (folder / "config.json").write_text(json.dumps(config))

    return act


def cut_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another format": (edit(lambda c: c.update(format=99)), "config.json has format 99.*version"),
    "another format and fields": (
        edit(lambda c: {"format": 0, "body": {}}),
        "config.json has format 0.*version",
    ),
    "no format": (edit(lambda c: {k: v for k, v in c.items() if k != "format"}), "has format None"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no model's folder"),
    "half the weights": (cut_weights, "cannot be loaded"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "not JSON": (lambda f: (f / "config.json").write_text('{"format": 1,'), "config.json is not valid JSON"),
    "not UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not valid JSON"),
    "a list": (edit(lambda c: [c]), "not a unitx model's"),
    "another library's": (edit(lambda c: {"hidden_size": 8}), "not a unitx model's: it has no 'backbone'"),
    "no tasks": (edit(lambda c: {k: v for k, v in c.items() if k != "tasks"}), "it has no 'tasks'"),
    "another shape": (edit(lambda c: c["backbone"].update(dim=64)), "cannot be loaded.*size mismatch"),
    "an impossible shape": (edit(lambda c: c["backbone"].update(heads=5)), "cannot be loaded.*heads 5"),
    "an unknown shape": (edit(lambda c: c["backbone"].update(colour=5)), "cannot be loaded.*colour"),
    "an unknown option": (edit(lambda c: c["tokenizers"]["text"]["options"].update(max_token=5)), "'max_tokens'?"),
    "another vocabulary": (edit(lambda c: c["tasks"][0].update(labels=["a"])), "cannot be loaded.*size mismatch"),
    "an unknown task": (edit(lambda c: c["tasks"][0].update(kind="guess")), "no task called 'guess'"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_named_in_one_line(what: str, saved: Path) -> None:
    damage, says = DAMAGE[what]
    damage(saved)
    with pytest.raises(UnitxError, match=says) as error:
        Model.from_pretrained(saved, "cpu")
    assert str(saved) in str(error.value) or what == "an unknown task"
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_nothing_there_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("somebody/nothing", "nothing", str(tmp_path / "runs" / "none"), "not an id!"):
        with pytest.raises(UnitxError, match="there is no model") as error:
            Model.from_pretrained(name, cache_dir=tmp_path / "cache")
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(UnitxError, match="is no model's folder"):
        Model.from_pretrained(tmp_path)


def test_a_model_of_the_hub_loads_from_its_cache(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--somebody--senses"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(saved, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    loaded = Model.from_pretrained("somebody/senses", "cpu", cache_dir=tmp_path / "cache")
    assert_equal(loaded, small_model(*ALL))
    (repository / "snapshots" / commit / "config.json").unlink()
    with pytest.raises(UnitxError, match=r"lacks config.json"):
        Model.from_pretrained("somebody/senses", cache_dir=tmp_path / "cache")


def test_pushing_uploads_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Api:
        def __init__(self, token: str | None = None):
            calls.append(token)

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> None:
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
            assert_equal(Model.from_pretrained(folder_path, "cpu"), small_model(*ALL))
            calls.append((repo_id, sorted(os.listdir(folder_path))))
            return "https://huggingface.co/me/mine/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = small_model(*ALL).push_to_hub("me/mine", private=True, token="secret")
    assert address.endswith("/commit/1")
    assert calls == ["secret", ("me/mine", True, True), ("me/mine", ["config.json", "model.safetensors"])]


def test_a_plugin_must_be_imported_first(tmp_path: Path) -> None:
    file = tmp_path / "my_dna.py"
    file.write_text(PLUGIN)
    subprocess.run([sys.executable, "-c", MAKE, file, tmp_path / "model"], check=True)
    assert "import" not in (tmp_path / "model" / "config.json").read_text()
    with pytest.raises(UnitxError, match=r"'dna' lives in my_dna.py, which was not imported: pass --import my_dna.py"):
        Model.from_pretrained(tmp_path / "model")
    unitx.import_plugin(file)
    model = Model.from_pretrained(tmp_path / "model", "cpu")
    assert model.processors["dna"].letters == ("x", "y")
    assert model.embed(["acgt"], "dna").shape == (1, 16)
    assert len(model.predict(["acgt"], top=2)[0]) == 2


@pytest.mark.parametrize("frozen", [[], ["text"]])
def test_adapters_are_saved_and_loaded(frozen: list[str], tmp_path: Path) -> None:
    model = small_model(STORIES, CLASSES)
    before = model.embed(ITEMS)
    model.add_adapters(frozen)
    np.testing.assert_array_equal(model.embed(ITEMS), before)
    for name, p in model.backbone.named_parameters():
        if name.endswith(".lora_B"):
            torch.nn.init.normal_(p.data)
    changed = np.abs(model.embed(ITEMS) - before).max(1) > 1e-3
    assert changed.tolist() == ["text" not in frozen, True, True, True]
    loaded = Model.from_pretrained(model.save_pretrained(tmp_path), "cpu")
    assert loaded.frozen == frozen
    np.testing.assert_array_equal(loaded.embed(ITEMS), model.embed(ITEMS))
    assert loaded.generate(["a", "bcd"], temperature=0) == model.generate(["a", "bcd"], temperature=0)


def test_the_loss_is_the_weighted_sum_of_the_tasks_means() -> None:
    heavy = TaskInfo("heavy", "classify", {"text": "text"}, "kind", ["a", "b"], weight=2.5)
    model = small_model(CLASSES, heavy)
    rows = [("kind", {"picture": picture(i), "kind": "dog"}) for i in range(3)]
    batch = batch_of(model, [*rows, ("heavy", {"text": "x", "kind": "b"})])
    tokens = model.encode(batch)
    means = {}
    for name, head in model.heads.items():
        logits = head.outputs(tokens, batch.targets[name].rows)
        wanted = batch.targets[name].values.argmax(-1)
        means[name] = torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=0.1)
    loss, metrics = model(batch)
    torch.testing.assert_close(loss, means["kind"] + 2.5 * means["heavy"])
    torch.testing.assert_close(metrics["heavy/loss"], means["heavy"].detach())
    assert set(metrics) == {"kind/loss", "kind/accuracy", "heavy/loss", "heavy/accuracy"}
    assert not any(value.requires_grad for value in metrics.values())


def test_micro_batches_with_the_whole_counts_give_the_whole_gradient() -> None:
    model = small_model(CLASSES, STORIES)
    rows = [("kind", {"picture": picture(i), "kind": "dog"}) for i in range(5)]
    rows += [("stories", {"text": "text" * i}) for i in range(4)]
    whole = batch_of(model, rows)
    counts = {name: targets.count for name, targets in whole.targets.items()}

    def gradient(parts: list[Any]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            model(part, counts)[0].backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = gradient([whole])
    parts = [batch_of(model, rows[i:j]) for i, j in ((0, 1), (1, 7), (7, 9))]
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(gradient(parts), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(expected, gradient([parts[0], parts[2]]), atol=1e-3)


def test_half_an_item_each_is_no_less_than_a_whole_one() -> None:
    """With more processes than items, a task's share of the count is below one."""
    model = small_model(CLASSES)
    batch = batch_of(model, [("kind", {"picture": picture(0), "kind": "dog"})])
    torch.testing.assert_close(model(batch, {"kind": 0.5})[0], 2 * model(batch)[0])


def test_tasks_and_labels_are_found_by_name_or_where_there_is_one() -> None:
    model = small_model(CLASSES, SPACE)
    assert model.tasks == ["kind", "space"] and model.modalities == ["audio", "image", "text"]
    assert model.labels("space") == ["cat", "dog"] and model.labels() == ["cat", "dog", "owl"]
    assert model.only_task("embeds") == "space"
    for call, says in [
        (lambda: model.only_task(), r"2 tasks of the model could be meant; say which, task= \(kind, space\)"),
        (lambda: model.only_task("generates"), "has no task that generates; its tasks are: kind, space"),
        (lambda: model.head("kinds"), "has no task 'kinds'; it has: kind, space"),
        (lambda: small_model().only_task(), "has no task; its tasks are: none"),
        (lambda: small_model().labels(), "has no"),
    ]:
        with pytest.raises(UnitxError, match=says):
            call()


def test_names_that_a_model_cannot_hold_are_refused() -> None:
    for name in ("items", "a.b", ""):
        with pytest.raises(UnitxError, match=f"cannot be called '{name}'"):
            small_model(TaskInfo(name, "classify", {"text": "text"}, "kind", ["a"]))


def test_new_parts_leave_the_old_ones_as_they_were(tmp_path: Path) -> None:
    processors = small_model().processors
    model = Model(SHAPE, {"image": processors["image"], "text": processors["text"]}, [PAIRS, STORIES])
    shake(model.eval())
    before, text = model.embed(["a cat", picture(0)]), model.generate(["a"], temperature=0)
    model.add_tokenizer("audio", processors["audio"])
    model.add_task(TaskInfo("sounds", "classify", {"sound": "audio"}, "kind", ["a", "b"]))
    np.testing.assert_array_equal(model.embed(["a cat", picture(0)]), before)
    assert model.generate(["a"], temperature=0) == text
    loaded = Model.from_pretrained(model.save_pretrained(tmp_path), "cpu")
    assert_equal(loaded, model)
    np.testing.assert_array_equal(loaded.embed(["a cat", picture(0)]), before)


def test_a_folder_without_its_vocabulary_is_named(tmp_path: Path) -> None:
    spm = train_sentencepiece([f"one sentence and another, number {i}" for i in range(200)], 300)
    model = small_model(vocabulary="sentencepiece", spm=spm)
    folder = model.save_pretrained(tmp_path / "model")
    assert Model.from_pretrained(folder).processors == model.processors
    (folder / "text.spm").unlink()
    with pytest.raises(UnitxError, match=r"lacks text\.spm: copy the whole folder"):
        Model.from_pretrained(folder)
