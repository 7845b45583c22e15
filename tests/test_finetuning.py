"""Training further: exactly what `tune` and `freeze` say changes, to the last bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from published_models import TOWERS, byte_level, drawn, seeing, small_bert
from safetensors.torch import load_file
from small_data import RATE, TINY, WORDS, captioned, colour_folder, text_rows, tiny_run, write_csv

import unitx
from unitx.checkpoint import checkpoints
from unitx.config import SIZES
from unitx.errors import UnitxError
from unitx.identity import model_identity
from unitx.lora import has_lora
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe
from unitx.report import evaluate

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
    after = {name.replace(".base.", "."): value for name, value in after.items()}  # below an adapter
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


def test_a_tokenizer_that_no_task_reads_stays_as_it_is(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    """Not even weight decay moves it."""
    run = further(base, {"colour": COLOUR}, tmp_path / "run", data=rows, tune="all", weight_decay=0.5)
    found = changed(base, run)
    assert found and not [name for name in found if name.startswith("tokenizers.")]


def test_a_new_modality_on_a_model_of_texts(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    before = Model.from_pretrained(base)
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
    before = Model.from_pretrained(base)
    tasks = {"colour": COLOUR, "both": TaskRecipe("classify", reads="image,text", label="label")}
    run = further(base, tasks, tmp_path / "run", data=rows, tune=tune, freeze="text", steps=8, lr=1e-2)
    for model in (run.model, Model.from_pretrained(run.folder)):
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
    return any(p.abs().max() > 0 for name, p in model.backbone.named_parameters() if name.endswith(".lora_B"))


def test_an_old_head_of_a_frozen_modality_is_not_trained_anew(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    with pytest.raises(UnitxError, match=r"--freeze text: the model's task 'topic' would change"):
        further(base, {"topic": COLOUR}, tmp_path / "run", data=rows, tune="lora", freeze="text")


PITCHES = {"blue": 200.0, "green": 900.0, "red": 3_000.0}


def tones(each: int, seed: int) -> list[dict[str, Any]]:
    """Rows {"text", "audio", "label"}: each colour has its words and its pitch; no two sounds alike."""
    rng, time = np.random.default_rng(seed), np.arange(4_800) / RATE
    waves = {name: 2 * np.pi * (pitch * time + rng.random((each, 1))) for name, pitch in PITCHES.items()}
    return [
        {"text": WORDS[name], "audio": ((rng.uniform(0.2, 0.9) * np.sin(wave)).astype(np.float32), RATE), "label": name}
        for name in PITCHES
        for wave in waves[name]
    ]


@pytest.fixture(scope="module")
def seen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pictures and words that recur beside them."""
    return [{**row, "text": WORDS[row["label"]]} for row in rows]


@pytest.fixture(scope="module")
def spaces(seen: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that aligned pictures and words, by what stands in one row or by concepts."""
    found = {}
    for name, label in (("pairs", None), ("concepts", "label")):
        tasks = {"senses": TaskRecipe("align", reads="image,text", label=label), "colour": COLOUR}
        out = tmp_path_factory.mktemp("spaces") / name
        found[name] = tiny_run(Recipe(tasks=tasks), out, data=seen, steps=120, evaluations=1, lr=1e-2).folder
    return found


def nearest_colours(model: Model, items: list[Any], gallery: list[dict[str, Any]]) -> list[str]:
    """For each item the label of the nearest picture."""
    cosines = model.embed(items) @ model.embed([row["image"] for row in gallery]).T
    return [gallery[i]["label"] for i in cosines.argmax(1)]


HEARD = {"tune": "head", "freeze": "image,text", "steps": 120, "lr": 1e-2}


@pytest.mark.parametrize(
    ("space", "reads", "label", "tune"),
    [
        ("pairs", "text,audio", None, "head"),
        ("pairs", "text,audio", None, "lora"),
        ("concepts", "text,audio", None, "head"),
        ("concepts", "text,audio", "label", "lora"),
        ("concepts", "audio", "label", "head"),
    ],
)
def test_a_new_modality_learns_the_frozen_space(
    tmp_path: Path, spaces: dict[str, Path], seen: list, space: str, reads: str, label: str | None, tune: str
):
    before = Model.from_pretrained(spaces[space])
    concepts = before.labels("senses")
    # Under a name of the recipe's own, as the recipe `align` comes.
    tasks = {"align": TaskRecipe("align", reads=reads, label=label)}
    run = further(spaces[space], tasks, tmp_path / "run", data=tones(12, 0), **{**HEARD, "tune": tune})
    assert run.model.tasks == ["senses", "colour"] and run.model.modalities == ["audio", "image", "text"]
    assert changed(spaces[space], run) == set()  # backbone, projection, proxies, norms and what they have seen
    items: list[Any] = [*(row["image"] for row in seen), *WORDS.values()]
    assert np.array_equal(before.embed(items), run.model.embed(items))
    assert model_identity(before).items() <= model_identity(run.model).items()  # an index of the old one stays good
    if concepts:
        assert run.model.labels("senses") == concepts
        assert np.array_equal(before.predict_proba(items, "senses"), run.model.predict_proba(items, "senses"))
    if reads != "audio":
        assert run.metrics["senses/recall@1"] > 0.7  # by chance a third
    # Sounds never stood beside pictures.
    heard = tones(4, 1)
    found = nearest_colours(run.model, [row["audio"] for row in heard], seen)
    assert np.mean([name == row["label"] for name, row in zip(found, heard, strict=True)]) > 0.7
    old = {"reads": {"image": "image", "text": "text"}, "label": "label" if concepts else None}
    left, right = (evaluate(model, seen, "senses", **old).scores for model in (before, run.model))
    of_ten = set() if concepts else {"recall@10"}  # among the rows, more than ten; of concepts there are three
    assert left == right and set(left) == {"recall@1", "image→text", "text→image"} | of_ten


def test_a_frozen_space_takes_one_modality_after_the_other(tmp_path: Path, base: Path, seen: list[dict[str, Any]]):
    tasks = {"other": TaskRecipe("align", reads="image,text")}
    one = further(base, tasks, tmp_path / "one", data=seen, **{**HEARD, "freeze": "text"})
    tasks = {"meaning": TaskRecipe("align", reads="text,audio")}
    two = further(one.folder, tasks, tmp_path / "two", data=tones(6, 0), **HEARD)
    assert two.model.tasks == ["topic", "meaning"] and changed(base, two) == changed(one.folder, two) == set()


def test_going_on_in_a_frozen_space_equals_running_through(tmp_path: Path, spaces: dict[str, Path]):
    rows, tasks = tones(6, 0), {"align": TaskRecipe("align", reads="text,audio")}
    made = {**HEARD, "tune": "lora", "steps": 4, "checkpoint_every": 2}
    whole = further(spaces["concepts"], tasks, tmp_path / "whole", data=rows, **made)
    first = load_file(whole.folder / "checkpoints/step-4/model.safetensors")
    shutil.rmtree(whole.folder / "checkpoints/step-4")
    unitx.resume(whole.folder, echo=False, data=rows)
    again = load_file(whole.folder / "checkpoints/step-4/model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


NOT_IN_SPACE: list[tuple[dict[str, TaskRecipe], dict[str, Any], str]] = [
    (
        {"align": TaskRecipe("align", reads="image,text")},
        {"freeze": "text"},
        r"task 'senses' reads image, whose embeddings would change",
    ),
    ({"align": TaskRecipe("align", reads="image,text")}, {}, r"task 'senses' reads what is frozen only"),
    ({"align": TaskRecipe("align", reads="sound:audio,audio")}, {}, r"task 'senses' reads nothing that is frozen"),
    ({"align": TaskRecipe("align", reads="text,audio", options={"dim": 8})}, {}, r"'senses' .* another form"),
    ({"colour": TaskRecipe("align", reads="text,audio")}, {}, r"'colour' would change; give yours another name"),
    ({name: TaskRecipe("align", reads="text,audio") for name in ("a", "b")}, {}, r"two tasks would go on as 'senses'"),
]


@pytest.mark.parametrize(("tasks", "given", "says"), NOT_IN_SPACE, ids=[says for _, _, says in NOT_IN_SPACE])
def test_what_cannot_go_on_in_a_frozen_space_is_named(
    tmp_path: Path, spaces: dict[str, Path], seen: list, tasks: dict[str, TaskRecipe], given: dict, says: str
):
    rows = [{**row, **heard, "sound": heard["audio"]} for row, heard in zip(seen, tones(6, 0), strict=True)]
    with pytest.raises(UnitxError, match=says) as error:
        further(spaces["pairs"], tasks, tmp_path / "run", data=rows, **{**HEARD, **given})
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("pairs", r"'senses' stays as it is, and has no concepts: leave out --label"),
        ("concepts", r"'senses' goes on with the concepts .* 'label' names others \(violet\): leave --label out"),
    ],
)
def test_a_frozen_space_learns_no_new_concepts(tmp_path: Path, spaces: dict[str, Path], space: str, says: str):
    rows = [{**row, "label": row["label"].replace("blue", "violet")} for row in tones(4, 0)]
    tasks = {"align": TaskRecipe("align", reads="text,audio", label="label")}
    with pytest.raises(UnitxError, match=says) as error:
        further(spaces[space], tasks, tmp_path / "run", data=rows, **HEARD)
    assert "\n" not in str(error.value)


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


def test_several_new_tasks_are_added_at_once(tmp_path: Path, base: Path, rows: list[dict[str, Any]]):
    rows = [{**row, "number": i, "seen": [{"name": row["label"], "box": [0, 0, 8, 8]}]} for i, row in enumerate(rows)]
    tasks = {
        "colour": COLOUR,
        "count": TaskRecipe("regress", reads="image", label="number"),
        "find": TaskRecipe("detect", reads="image", label="seen"),
        "caption": TaskRecipe("caption", reads="image", label="label"),
        "fill": TaskRecipe("masked", reads="text"),
        "topic": TOPIC,  # which the model has, and goes on
    }
    run = further(base, tasks, tmp_path / "run", data=rows, steps=4, batch_tokens=512, evaluations=2)
    assert set(run.model.tasks) == {"topic", "meaning", *tasks} and run.model.modalities == ["image", "text"]
    assert {name.split("/")[0] for name in run.metrics} == set(tasks)
    lines = [line for line in run.history if "loss" in line]
    assert all(f"{task}/loss" in line for line in lines for task in tasks)
    before, after = load_file(base / "model/model.safetensors"), load_file(run.folder / "model/model.safetensors")
    begun = "heads.topic.head.weight"
    assert 0 < (before[begun] - after[begun]).abs().max() < 0.1  # it did not begin anew, at zero
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("heads.meaning.") and "norms" not in n)
    assert after["heads.find.boxes.weight"].abs().max() > 0  # as it began


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
        before = Model.from_pretrained(base)
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


def test_what_a_trained_model_keeps_is_said(tmp_path: Path, base: Path):
    text = Model.from_pretrained(base).processors["text"]
    for name, size, length in (("run", "large", text.max_tokens + 1), ("same", "nano", text.max_tokens)):
        options = {"text": {"vocabulary": text.vocabulary, "max_tokens": length}}
        given = {"data": text_rows(12), "steps": 1, "size": size, "tokenizers": options}
        run = further(base, {"topic2": TOPIC}, tmp_path / name, **given)
        recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text())
        kept = [note for note in recipe["resolved"]["notes"] if "keeps" in note]
        assert recipe.get("size", "nano") == "nano"
        assert kept == ([] if name == "same" else [
            "the model keeps its own text tokenizer: max_tokens of the recipe is not used",
            "the model keeps its size: large is for new ones",
        ])  # fmt: skip
    with pytest.raises(UnitxError, match="size is 'gigantic'; it can be nano"):
        further(base, {"topic2": TOPIC}, tmp_path / "none", data=text_rows(12), size="gigantic")


def test_a_base_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnitxError, match="nowhere") as error:
        further(tmp_path / "nowhere", {"topic2": TOPIC}, tmp_path / "run", data=text_rows(12))
    assert "\n" not in str(error.value)


def test_a_head_for_other_labels_begins_anew(tmp_path: Path, base: Path):
    rows = [row | {"label": row["label"].upper()} for row in text_rows(12)]
    run = further(base, {"topic": TOPIC}, tmp_path / "run", data=rows, tune="head", steps=1)
    assert run.model.labels("topic") == ["BLUE", "GREEN", "RED"]
    notes = yaml.safe_load((run.folder / "recipe.yaml").read_text())["resolved"]["notes"]
    assert "the model's task 'topic' had other labels or another form: its head begins anew" in notes
    same = further(base, {"topic": TOPIC}, tmp_path / "same", data=text_rows(12), tune="head", steps=1, lr=1e-9)
    before, after = (load_file(f / "model/model.safetensors")["heads.topic.head.weight"] for f in (base, same.folder))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("tune", "share"), [("all", 0.3), ("head", 1.0), ("lora", 1.0)])
def test_a_trained_backbone_moves_at_a_lower_rate(tmp_path: Path, base: Path, tune: str, share: float):
    run = further(base, {"topic2": TOPIC}, tmp_path / "run", data=text_rows(12), tune=tune, steps=1)
    resolved = yaml.safe_load((run.folder / "recipe.yaml").read_text())["resolved"]
    assert resolved["lr"] == pytest.approx(share * SIZES["nano"].lr)


def test_the_recipe_of_a_run_that_fine_tuned_asks_for_its_base(tmp_path: Path, base: Path):
    file = further(base, {"topic2": TOPIC}, tmp_path / "run", data=text_rows(12), steps=1).folder / "recipe.yaml"
    for named in (file, file.parent):
        with pytest.raises(UnitxError, match=f"fine-tuned {base}: unitx finetune {base} {named}"):
            unitx.train(named, out=str(tmp_path / "other"), echo=False)


def _on_texts(
    folder: Path, modality: str, rows: Any, test: Any, batch_tokens: int, tokenizer: dict[str, int]
) -> unitx.Run:
    """A published model of texts learns to tell classes of another modality."""
    small_bert(folder / "base")
    return unitx.finetune(
        folder / "base", f"{modality}-classify", data=rows, test=test, out=str(folder / "run"), steps=60, evaluations=1,
        lr=3e-3, batch_tokens=batch_tokens, precision="fp32", workers=0, echo=False, augment="none",
        **{f"tokenizers.{modality}": tokenizer},
    )  # fmt: skip


def _corners(count: int, seed: int) -> list[dict[str, Any]]:
    """Pictures with a white patch on the left or on the right, at any height: only its place tells which."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        row, column = 8 * int(rng.integers(4)), 24 * (i % 2)
        pixels[row : row + 8, column : column + 8] = 255
        rows.append({"image": pixels, "label": "right" if i % 2 else "left"})
    return rows


def test_a_new_modality_has_positions_where_the_backbone_has_no_rotary(tmp_path: Path):
    run = _on_texts(tmp_path, "image", _corners(200, 0), _corners(60, 1), 512, {"patch": 8, "max_tokens": 16})
    assert run.model.processors["image"].positions.grid == (4, 4)
    assert run.metrics["image-classify/accuracy"] > 0.95


def _tones(count: int, seed: int) -> list[dict[str, Any]]:
    """A low and a high tone with silence around each: every patch is the same in either order."""
    rng = np.random.default_rng(seed)
    rows, turns = [], np.arange(2_560) * 2 * np.pi / 16_000
    for i in range(count):
        wave = rng.uniform(-1e-4, 1e-4, 12_800)
        for hertz, place in zip((500, 3_000), (2, 6) if i % 2 else (6, 2), strict=True):
            wave[1_280 * place :][:2_560] += rng.uniform(0.2, 0.8) * np.sin(hertz * turns)
        rows.append({"audio": (wave.astype(np.float32), 16_000), "label": "up" if i % 2 else "down"})
    return rows


def test_a_new_tokenizer_of_sound_has_them_too(tmp_path: Path):
    tokenizer = {"mels": 16, "max_tokens": 24, "patch_mels": 8}
    run = _on_texts(tmp_path, "audio", _tones(100, 0), _tones(40, 1), 256, tokenizer)
    assert run.model.processors["audio"].positions.grid == (12, 2)
    assert run.metrics["audio-classify/accuracy"] > 0.95


def test_a_published_vision_transformer_learns_ones_own_classes(tmp_path: Path):
    drawn(hf.ViTForImageClassification, hf.ViTConfig(**seeing(num_labels=5))).save_pretrained(tmp_path / "base")
    given = {"data": str(colour_folder(tmp_path / "data")), "workers": 0, "echo": False, "precision": "fp32"}
    run = unitx.finetune(
        tmp_path / "base", "image-classify", out=str(tmp_path / "run"), steps=20, evaluations=1, lr=3e-3, **given
    )
    assert run.metrics["image-classify/accuracy"] > 0.8
    again = unitx.Model.from_pretrained(run.folder, "cpu")
    assert again.labels("image-classify") == ["blue", "green", "red"]
    assert again.head("image-classify").options.pooling.kind == "first"  # as its own head was


def test_a_new_classifier_on_a_decoder_asks_the_last_token(tmp_path: Path, rows: list[dict[str, Any]]):
    config = hf.GPT2Config(vocab_size=400, n_positions=60, n_embd=32, n_layer=1, n_head=2)
    drawn(hf.GPT2LMHeadModel, config).save_pretrained(tmp_path / "base")
    byte_level().save_pretrained(tmp_path / "base")
    run = unitx.finetune(
        tmp_path / "base", "text-classify", data=rows, reads="text", out=str(tmp_path / "run"), steps=2, evaluations=1,
        workers=0, echo=False, precision="fp32",
    )  # fmt: skip
    assert run.model.head("text-classify").options.pooling.kind == "last"
    numbers = [{"text": row["text"], "length": len(row["text"])} for row in rows]
    run = unitx.finetune(
        tmp_path / "base", "regress", data=numbers, reads="text", label="length", out=str(tmp_path / "numbers"),
        steps=2, evaluations=1, workers=0, echo=False, precision="fp32",
    )  # fmt: skip
    assert run.model.head("regress").options.pooling.kind == "last"


def test_towers_are_trained_one_by_one(tmp_path: Path):
    drawn(TOWERS["clip"]).save_pretrained(tmp_path / "base")
    towers = unitx.Model.from_pretrained(tmp_path / "base", "cpu")
    folder = towers.save_pretrained(tmp_path / "ours")
    given = {"data": str(colour_folder(tmp_path / "data")), "workers": 0, "echo": False, "precision": "fp32"}
    with pytest.raises(UnitxError, match="is a matter of one tower"):
        unitx.finetune(folder, "image-classify", out=str(tmp_path / "no"), steps=1, **given)
    run = unitx.finetune(folder / "image", "image-classify", out=str(tmp_path / "run"), steps=3, **given)
    assert run.model.tasks == ["pooled", "image-classify"]


def _sweeps(count: int, seed: int) -> list[dict[str, Any]]:
    """Clips of a bar that moves to the left or to the right; played backwards, one is the other."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        clip = rng.integers(0, 60, (4, 16, 32, 3), dtype=np.uint8)
        for time, column in enumerate((0, 8, 16, 24) if i % 2 else (24, 16, 8, 0)):
            clip[time, :, column : column + 8] = 255
        rows.append({"video": clip, "label": "right" if i % 2 else "left"})
    return rows


def test_a_new_tokenizer_of_video_has_them_too(tmp_path: Path):
    tokenizer = {"patch": 8, "frames": 4, "tubelet": 1, "max_tokens": 32}
    run = _on_texts(tmp_path, "video", _sweeps(100, 0), _sweeps(40, 1), 512, tokenizer)
    assert run.model.processors["video"].positions.grid == (4, 3, 3)
    assert run.metrics["video-classify/accuracy"] > 0.95
    again = unitx.Model.from_pretrained(run.folder)
    clip = _sweeps(1, 2)[0]["video"]
    np.testing.assert_array_equal(again.embed([clip]), run.model.embed([clip]))


def test_a_head_of_several_labels_goes_on_as_one(tmp_path: Path):
    labels = {0: "blue", 1: "green", 2: "red"}
    config = hf.ViTConfig(**seeing(problem_type="multi_label_classification", id2label=labels))
    drawn(hf.ViTForImageClassification, config).save_pretrained(tmp_path / "base")
    given = {"data": str(colour_folder(tmp_path / "data")), "workers": 0, "echo": False, "precision": "fp32"}
    run = unitx.finetune(
        tmp_path / "base", "image-classify", out=str(tmp_path / "run"), steps=1, evaluations=1, **given
    )
    assert run.model.head("image-classify").options.multi_label


def test_the_data_of_a_head_of_several_labels_are_read_so_too(tmp_path: Path):
    """Finetuned further without a word of it: a list of none is an answer, "a|b" are two labels."""
    rng = np.random.default_rng(0)
    rows = [{"text": f"text {i}", "tags": sorted(rng.choice(["a", "b", "c"], i % 3, replace=False))} for i in range(60)]
    given = {"reads": "text", "label": "tags", "steps": 1, "evaluations": 1, "workers": 0, "echo": False}
    options = {"tasks.text-classify.options.multi_label": True}
    run = unitx.train("text-classify", data=rows, out=str(tmp_path / "base"), **given, **options)
    parted = [{**row, "tags": "|".join(row["tags"])} for row in rows]
    for number, data in enumerate([rows, [row for row in parted if row["tags"]]]):
        out = tmp_path / f"more{number}"
        more = unitx.finetune(run.folder, "text-classify", data=data, out=str(out), **given)
        assert more.model.labels() == ["a", "b", "c"]
        said = yaml.safe_load((out / "recipe.yaml").read_text())["resolved"]
        assert said["rows"]["text-classify"] == len(data) - len(data) // 10
        assert not [note for note in said["notes"] if "left out" in note or "not judged" in note]
