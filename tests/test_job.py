"""Whatever is wrong with a recipe or its data is one clear line, before training starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_data import TINY, captioned, colour_folder, text_rows, tone_folder, write_csv

from unitx.batches import Feed
from unitx.config import SIZES
from unitx.errors import UnitxError
from unitx.job import _identity, _items, build_job, named_data, weigh_by_size
from unitx.recipe import Recipe, TaskRecipe, load_recipe, update
from unitx.task import TaskInfo
from unitx.tokenizers.text import train_sentencepiece
from unitx.worlds.emoji import EmojiWorld


def recipe(task: TaskRecipe | str = "image-classify", **given: Any) -> Recipe:
    base = load_recipe(task) if isinstance(task, str) else Recipe(tasks={"mine": task})
    return update(base, **{**TINY, **given})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of data sets, whole ones and ones with something wrong."""
    root = tmp_path_factory.mktemp("data")
    rows = captioned(root / "photos", each=4)
    one_class = root / "one"
    one_class.mkdir()
    (root / "photos" / "red").rename(one_class / "red")
    colour_folder(root / "whole", each=4)
    (root / "empty").mkdir()
    (root / "nothing.csv").write_bytes(b"")
    (root / "latin.csv").write_bytes("text,label\ncafé,a\nthé,b\n".encode("latin-1"))
    broken = colour_folder(root / "broken", each=2)
    for file in broken.rglob("*.png"):
        file.write_bytes(file.read_bytes()[20:])
    flat = root / "flat"
    flat.mkdir()
    for i, file in enumerate((root / "whole").rglob("*.png")):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    return {
        "photos": str(root / "whole"),
        "one": str(one_class),
        "empty": str(root / "empty"),
        "flat": str(flat),
        "broken": str(broken),
        "missing": str(root / "photoz"),
        "nothing": str(root / "nothing.csv"),
        "latin": str(root / "latin.csv"),
        "gone": str(write_csv(root / "gone.csv", [row | {"image": row["image"] + "x.png"} for row in rows])),
        "csv": str(write_csv(root / "texts.csv", text_rows(12))),
        "sounds": str(tone_folder(root / "sounds", each=2)),
    }


CLASSIFY = TaskRecipe("classify", reads="text", label="label")
WRONG: list[tuple[str, TaskRecipe | str, dict[str, Any], list[str]]] = [
    ("no data", "image-classify", {}, ["image-classify", "--data"]),
    ("missing folder", "image-classify", {"data": "missing"}, ["photoz"]),
    ("empty folder", "image-classify", {"data": "empty"}, ["empty"]),
    ("empty file", CLASSIFY, {"data": "nothing"}, ["nothing.csv", "empty"]),
    ("not UTF-8", CLASSIFY, {"data": "latin"}, ["latin.csv", "UTF-8"]),
    ("one class", "image-classify", {"data": "one"}, ["one class", "red"]),
    ("no class folders", "image-classify", {"data": "flat"}, ["flat", "label"]),
    ("nothing readable", "image-classify", {"data": "broken"}, ["image-classify", ".png"]),
    ("files gone", TaskRecipe("classify", reads="image", label="label"), {"data": "gone"}, ["image", "x.png"]),
    ("a folder of sounds", "image-classify", {"data": "sounds"}, ["image", "audio"]),
    ("no label column", TaskRecipe("classify", reads="text", label="labl"), {"data": "csv"}, ["labl", "label"]),
    ("no such column", TaskRecipe("classify", reads="txt:text", label="label"), {"data": "csv"}, ["txt", "text"]),
    ("no label given", TaskRecipe("classify", reads="text"), {"data": "csv"}, ["mine", "label"]),
    ("unknown modality", TaskRecipe("classify", reads="text:smell", label="label"), {"data": "csv"}, ["smell", "text"]),
    ("unknown task", TaskRecipe("clasify", reads="text", label="label"), {"data": "csv"}, ["clasify", "classify"]),
    ("unknown option of a task", TaskRecipe("classify", reads="text", label="label", options={"lambda": 1}),
     {"data": "csv"}, ["lambda", "label_smoothing"]),
    ("unknown option of a modality", CLASSIFY, {"data": "csv", "tokenizers.text": {"max_token": 3}},
     ["text", "max_token", "max_tokens"]),
    ("option out of range", CLASSIFY, {"data": "csv", "tokenizers.text": {"max_tokens": 0}}, ["max_tokens"]),
    ("unknown vocabulary", CLASSIFY, {"data": "csv", "tokenizers.text": {"vocabulary": "words"}}, ["words", "bytes"]),
    ("pictures continued as text", TaskRecipe("next_token", reads="image"), {"data": "photos"}, ["mine", "image"]),
    ("one column aligned", TaskRecipe("align", reads="text"), {"data": "csv"}, ["mine", "text", "two"]),
    ("paths read as text", TaskRecipe("classify", reads="image:text", label="label"), {"data": "gone"}, ["image"]),
    ("no task", "image-classify", {"tasks": {}, "data": "photos"}, ["task"]),
    ("two lengths", "image-classify", {"data": "photos", "steps": 3, "epochs": 2}, ["steps", "epochs"]),
    ("no steps", "image-classify", {"data": "photos", "steps": 0}, ["steps", "0"]),
    ("a shape that does not fit", "image-classify", {"data": "photos", "model.heads": 5}, ["heads"]),
    ("unknown size", "image-classify", {"data": "photos", "size": "huge"}, ["huge", "nano"]),
    ("unknown optimizer", "image-classify", {"data": "photos", "optimizer": "sgd"}, ["sgd", "muon"]),
    ("no part to hold out", "image-classify", {"data": "photos", "holdout": 1.5}, ["1.5"]),
    ("a plugin that is not there", "image-classify", {"data": "photos", "plugins": ["no.py"]}, ["no.py"]),
    ("a test set that is not there", "image-classify", {"data": "photos", "test": "missing"}, ["photoz"]),
    ("a test set of another kind", CLASSIFY, {"data": "csv", "test": "photos"}, ["text"]),
]  # fmt: skip


@pytest.mark.parametrize(("task", "given", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_one_line_that_names_it(
    data: dict[str, str], task: TaskRecipe | str, given: dict[str, Any], words: list[str]
):
    given = {name: data.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(UnitxError) as error:
        build_job(recipe(task, **given))
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    assert all(word in said for word in words), said


def test_a_job_knows_its_data(data: dict[str, str]):
    job = build_job(recipe(data=data["photos"], holdout=0.25))
    (feed,), (held,) = job.feeds, job.held_out
    assert feed.info.labels == ["blue", "green", "red"] and feed.info.facts["class_counts"] == [3, 3, 3]
    assert len(feed.source) == 9 and len(held.source) == 3
    trained = {row for row in map(str, feed.source.column("image"))}
    assert trained.isdisjoint(map(str, held.source.column("image")))
    assert any("held out 3 of 12" in note for note in job.notes)
    assert job.resolved["lr"] == SIZES["tiny"].lr and job.resolved["batch_tokens"] == 128
    assert job.resolved["rows_a_step"] == {"image-classify": 32}


def test_what_is_given_wins_over_size(data: dict[str, str]):
    job = build_job(recipe(data=data["photos"], lr=0.5, batch_tokens=64, size="small"))
    assert job.resolved["lr"] == 0.5 and job.resolved["batch_tokens"] == 64
    assert job.model.backbone.config.dim == 32 and job.model.backbone.config.mlp_ratio == 4.0


def test_test_data_is_used_as_given(data: dict[str, str], tmp_path: Path):
    other = colour_folder(tmp_path / "other", each=2, seed=3)
    job = build_job(recipe(data=data["photos"], test=str(other)))
    assert len(job.feeds[0].source) == 12 and len(job.held_out[0].source) == 6


def test_tasks_on_one_table_hold_out_the_same_rows(data: dict[str, str]):
    tasks = {"topic": CLASSIFY, "again": TaskRecipe("classify", reads="text", label="label", weight=2.0)}
    job = build_job(update(Recipe(tasks=tasks), **{**TINY, "data": data["csv"]}))
    held = [set(feed.source.column("text")) for feed in job.held_out]
    assert held[0] == held[1] and job.feeds[1].info.weight == 2.0
    assert job.feeds[1].rows == pytest.approx(2 * job.feeds[0].rows, abs=1)


def test_settings_for_all_tasks_reach_those_that_know_them(data: dict[str, str]):
    tasks = {"topic": CLASSIFY, "write": TaskRecipe("next_token", reads="text"),
             "own": TaskRecipe("classify", reads="text", label="label", options={"label_smoothing": 0.3})}  # fmt: skip
    given = {"data": data["csv"], "label_smoothing": 0.2, "class_weights": "auto"}
    job = build_job(update(Recipe(tasks=tasks), **{**TINY, **given}))
    options = {name: head.info.options for name, head in job.model.heads.items()}
    assert options["topic"] == {"label_smoothing": 0.2, "class_weights": "auto"} and options["write"] == {}
    assert options["own"] == {"label_smoothing": 0.3, "class_weights": "auto"}


def test_lists_in_yaml_become_tuples(data: dict[str, str]):
    options = {"patch": 8, "max_tokens": 4, "mean": [0.1, 0.2, 0.3]}
    job = build_job(recipe(data=data["photos"], **{"tokenizers.image": options}))
    assert job.model.processors["image"].mean == (0.1, 0.2, 0.3)
    hash(job.model.processors["image"])


def test_tasks_on_the_same_data_share_its_split_and_read_their_own_columns(tmp_path: Path) -> None:
    rows = captioned(tmp_path, each=10)
    table = write_csv(tmp_path / "table.csv", rows)
    columns = list(rows[0])
    picture, caption = columns[0], columns[1]
    tasks = {
        "see": TaskRecipe("align", reads=f"{picture}:image,{caption}:text"),
        "write": TaskRecipe("next_token", reads=f"{caption}:text"),
    }
    job = build_job(update(Recipe(tasks=tasks, data=str(table), batch_tokens=128), **TINY))
    see, write = job.feeds
    assert see.source.indices.tolist() == write.source.indices.tolist()
    assert not set(see.source.indices) & set(job.held_out[1].source.indices)
    assert write.source.column(caption) == see.source.column(caption)


def test_a_trained_vocabulary_is_loaded_from_its_file(data: dict[str, str], tmp_path: Path):
    spm = train_sentencepiece([row["text"] for row in text_rows(60)], 300)
    (tmp_path / "my.model").write_bytes(spm)
    options = {"vocabulary": "sentencepiece", "max_tokens": 8}
    given = recipe(CLASSIFY, data=data["csv"], **{"tokenizers.text": {**options, "spm": str(tmp_path / "my.model")}})
    assert build_job(given).model.processors["text"].spm == spm
    missing = recipe(CLASSIFY, data=data["csv"], **{"tokenizers.text": {**options, "spm": "no.model"}})
    with pytest.raises(UnitxError, match=r"tokenizers\.text\.spm: no\.model cannot be read"):
        build_job(missing)


def test_nothing_held_out(data: dict[str, str]):
    job = build_job(recipe(CLASSIFY, data=data["csv"], holdout=0.0))
    assert len(job.feeds[0].source) == 12 and len(job.held_out[0].source) == 0
    assert any("nothing is held out" in note for note in job.notes)


def test_rows_to_evaluate_on_may_be_of_one_class(data: dict[str, str], tmp_path: Path):
    test = write_csv(tmp_path / "test.csv", [row for row in text_rows(30) if row["label"] == "red"])
    job = build_job(recipe(CLASSIFY, data=data["csv"], test=str(test)))
    assert job.feeds[0].info.labels == ["blue", "green", "red"] and len(job.held_out[0].source) == 10


MADE = {"world": "emoji", "concepts": 3, "languages": ["en"]}
ALIGN = TaskRecipe("align", reads={"image": "image", "text": "text"}, label="concept")


def test_no_task_learns_from_what_another_is_judged_on(data: dict[str, str], tmp_path: Path) -> None:
    """Also where one has test data of its own, comes first, or spells the path otherwise."""
    test = str(write_csv(tmp_path / "test.csv", text_rows(6)))
    folder = Path(data["csv"]).parent
    spelled = f"{folder}/../{folder.name}/texts.csv"
    tasks = {"own": replace(CLASSIFY, test=test), "other": replace(CLASSIFY, data=spelled)}
    job = build_job(update(Recipe(tasks=tasks), **{**TINY, "data": data["csv"]}))
    own, other = job.feeds
    assert len(own.source) == 11 and list(own.source.indices) == list(other.source.indices)
    assert len(job.held_out[0].source) == 6 and len(job.held_out[1].source) == 1


def test_texts_read_whole_and_in_pieces_hold_out_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(15):
            (tmp_path / name / f"{i}.txt").write_text(f"{name} {i} " * 1_500)
    tasks = {"topic": replace(CLASSIFY, reads=None), "write": TaskRecipe("next_token")}
    for order in (["topic", "write"], ["write", "topic"]):
        job = build_job(update(Recipe(tasks={n: tasks[n] for n in order}, data=str(tmp_path), reads="text"), **TINY))
        learned = [set(feed.source.column("file")) for feed in job.feeds]
        judged = [set(feed.source.column("file")) for feed in job.held_out]
        assert learned[0] == learned[1] and judged[0] == judged[1] and len(judged[0]) == 3
        assert not learned[0] & judged[0] and len({len(feed.source) for feed in job.feeds}) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("world:python", {"world": "python", "part": "train"}),
        ("world:emoji:test", {"part": "test", "world": "emoji"}),
        (MADE, dict(MADE)),
        (ROWS := {"text": ["a"], "label": ["b"]}, dict(ROWS)),
        (Path("texts.csv"), "./texts.csv"),
    ],
)
def test_the_same_data_are_known_by_any_name(one: Any, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text("text,label\na,b\n")
    assert _identity(one) == _identity(other) != _identity("world:digits")


def test_a_world_of_the_recipe_gives_its_options_to_tasks_on_it() -> None:
    whole = Recipe(
        data={"world": "emoji", "concepts": 3, "languages": ["en"]},
        tasks={
            "mine": TaskRecipe(data={"world": "emoji", "concepts": 5}),
            "same": TaskRecipe(),
            "other": TaskRecipe(data={"world": "digits"}, test="world:emoji"),
        },
    )
    data = {name: named_data(whole, task)[0] for name, task in whole.tasks.items()}
    assert data["mine"] == {"world": "emoji", "concepts": 5, "languages": ["en"]}
    assert data["same"] == whole.data and data["other"] == {"world": "digits"}
    assert named_data(replace(whole, data="world:emoji"), whole.tasks["mine"])[0] == whole.tasks["mine"].data
    test = replace(whole, test="world:emoji:test").tasks["mine"]
    assert named_data(replace(whole, test="world:emoji:test"), test)[1] == {**data["mine"], "part": "test"}
    assert named_data(replace(whole, test="world:digits"), test)[1] == "world:digits"


def test_test_data_that_a_task_learns_from_are_pointed_out(data: dict[str, str], tmp_path: Path) -> None:
    test = str(write_csv(tmp_path / "test.csv", text_rows(6)))
    job = build_job(recipe(CLASSIFY, data=data["csv"], test=data["csv"]))
    assert "task 'mine' is judged on what 'mine' learns from: that says nothing of new data" in job.notes
    tasks = {"own": replace(CLASSIFY, test=test), "other": replace(CLASSIFY, data=test)}
    job = build_job(update(Recipe(tasks=tasks), **{**TINY, "data": data["csv"]}))
    assert any(note.startswith("task 'own' is judged on what 'other' learns from") for note in job.notes)
    assert not any("learns from" in note for note in build_job(recipe(CLASSIFY, data=data["csv"], test=test)).notes)


def test_rows_without_an_answer_count_nowhere() -> None:
    """Neither in the steps of a task nor in its weight, so any seed and number of processes learns as many."""
    rows = [{"text": f"text {i}", "kind": "ab"[i % 2], "rare": "cd"[i % 2] if i % 20 < 2 else None} for i in range(400)]
    tasks = {name: TaskRecipe("classify", reads="text", label=name) for name in ("kind", "rare")}
    for seed in range(4):
        job = build_job(update(Recipe(tasks=tasks, data=rows, seed=seed, temperature=1.0), **TINY))
        kind, rare = job.feeds
        assert None not in rare.source.column("rare") and None not in job.held_out[1].source.column("rare")
        assert len(rare.source) + len(job.held_out[1].source) == 40 and len(kind.source) == 360
        assert rare.info.weight / kind.info.weight == pytest.approx(len(rare.source) / 360)


def test_a_column_is_read_as_something() -> None:
    rows = [{"review": row["text"], "label": row["label"]} for row in text_rows(12)]
    with pytest.raises(UnitxError, match="--reads review: say as what the column is read, such as review:text"):
        build_job(recipe(replace(CLASSIFY, reads="review"), data=rows))


def test_answers_are_not_read() -> None:
    with pytest.raises(UnitxError, match="task 'mine' reads 'label', which holds the answers: leave it out of --reads"):
        build_job(recipe(replace(CLASSIFY, reads="text,label:text"), data=text_rows(12)))


def test_what_is_not_judged_is_said(tmp_path: Path) -> None:
    rows, odd = text_rows(12), [{**row, "label": "Odd"} for row in text_rows(3)]
    job = build_job(recipe(CLASSIFY, data=rows, test=[*text_rows(6), *odd]))
    assert "task 'mine' is not judged on 3 rows: training has no Odd" in job.notes
    few = [{**row, "rare": "yes" if i == 4 else None} for i, row in enumerate(text_rows(12))]
    job = build_job(recipe(TaskRecipe("transcribe", reads="text", label="rare"), data=few))
    assert "task 'mine': no row that is held out has an answer, so nothing judges it" in job.notes


def test_no_task_learns_from_what_another_is_judged_by(data: dict[str, str], tmp_path: Path) -> None:
    photos = sorted(Path(data["photos"]).rglob("*.png"))
    rows = [{"photo": str(photos[i % len(photos)]), "title": f"title {i}"} for i in range(5 * len(photos))]
    words = TaskRecipe("next_token", reads="title:text")
    pictures = TaskRecipe("masked", reads="photo:image")
    job = build_job(update(Recipe(tasks={"words": words, "pictures": pictures}, data=rows), **TINY))
    learned = {row for feed in job.feeds for row in feed.source.column("photo")}
    assert learned.isdisjoint(job.held_out[1].source.column("photo"))
    # Other data that name the same files.
    tasks = {"kind": TaskRecipe("classify", reads="image", label="label", data=data["photos"]),
             "pictures": replace(pictures, data=rows)}  # fmt: skip
    job = build_job(update(Recipe(tasks=tasks), **TINY))
    held = {str(Path(data["photos"]) / file) for file in job.held_out[0].source.column("image")}
    learned = set(job.feeds[1].source.column("photo"))
    assert held and learned and learned.isdisjoint(held)
    assert any("leaves out" in note and "that 'kind' is judged by" in note for note in job.notes)


def test_a_tokenizer_sees_the_data_of_all_tasks_in_turn() -> None:
    first = [{"text": f"a{i}", "label": "ab"[i % 2]} for i in range(40)]
    second = [{"text": f"b{i}", "label": "ab"[i % 2]} for i in range(10)]
    tasks = {name: replace(CLASSIFY, data=rows) for name, rows in (("one", first), ("two", second))}
    job = build_job(update(Recipe(tasks=tasks), **TINY))
    items = [*_items(job.feeds, "text", 0)]
    held = sum(len(feed.source) for feed in job.held_out)
    assert len(items) == 50 - held and {item[0] for item in items[:2]} == {"a", "b"} == {i[0] for i in items[8:10]}


def test_columns_that_a_tables_tokenizer_has_not_learned_are_said() -> None:
    def rows(*columns: str) -> list[dict[str, Any]]:
        return [{**dict.fromkeys(columns, float(i)), "label": "ab"[i % 2]} for i in range(12)]

    task = TaskRecipe("classify", reads="*:table", label="label")
    base = build_job(recipe(task, data=rows("age", "weight"))).model
    job = build_job(recipe(task, data=rows("age", "dose")), base)
    assert "task 'mine': the table's tokenizer has not learned dose" in job.notes


def test_data_of_the_hub_are_known_by_either_spelling() -> None:
    assert _identity("user/name") == _identity("user/name:train") != _identity("user/name:test")
    assert _identity("stream:user/name") == _identity("stream:user/name:train") != _identity("user/name")


def test_made_data_judge_by_their_other_parts() -> None:
    def parts(**given: Any) -> tuple[str, str]:
        job = build_job(recipe(ALIGN, data=MADE, batch_tokens=64, **given))
        return job.feeds[0].source.part, job.held_out[0].source.part

    assert parts() == ("train", "validation")
    assert parts(test=MADE) == ("train", "test")
    assert parts(test={**MADE, "part": "validation"}) == ("train", "validation")
    with pytest.raises(UnitxError, match="3 emoji: the validation part is there to judge by"):
        build_job(recipe(ALIGN, data={**MADE, "part": "validation"}))


def test_made_data_are_prepared_once_for_all_tasks() -> None:
    tasks = {"one": ALIGN, "two": replace(ALIGN, test=MADE)}
    job = build_job(update(Recipe(tasks=tasks, data=MADE), **{**TINY, "batch_tokens": 64}))
    assert job.feeds[0].source is job.feeds[1].source
    assert [feed.source.part for feed in job.held_out] == ["validation", "test"]


def test_pictures_and_sounds_of_one_folder_are_split_apart(tmp_path: Path) -> None:
    colour_folder(tmp_path / "both", each=4)
    for file in tone_folder(tmp_path / "tones", each=2).rglob("*.wav"):
        target = tmp_path / "both" / file.parent.name / file.name
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
    tasks = {m: TaskRecipe("classify", reads=m, label="label") for m in ("image", "audio")}
    job = build_job(update(Recipe(tasks=tasks, data=str(tmp_path / "both"), holdout=0.3), **TINY))
    assert all(len(feed.source) and len(held.source) for feed, held in zip(job.feeds, job.held_out, strict=True))


def test_made_data_are_made_after_all_that_can_be_wrong_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmojiWorld, "prepare", lambda self: pytest.fail("drawn and spoken for nothing"))
    wrong: list[tuple[TaskRecipe, dict[str, Any]]] = [
        (ALIGN, {"tokenizers.image": {"patches": 8}}),
        (replace(ALIGN, options={"temprature": 1}), {}),
        (replace(ALIGN, reads={"image": "imag"}), {}),
    ]
    for task, given in wrong:
        with pytest.raises(UnitxError):
            build_job(recipe(task, data=MADE, **given))


@pytest.mark.parametrize(("temperature", "shares"), [(1.0, (0.1, 0.9)), (2.0, (0.25, 0.75)), (1e9, (0.5, 0.5))])
def test_weights_grow_with_the_rows_by_the_temperature(temperature: float, shares: tuple[float, float]) -> None:
    feeds = [Feed(TaskInfo(str(n), "classify", {}, weight=3.0), list(range(n))) for n in (10, 90)]
    weigh_by_size(feeds, temperature)
    weights = [feed.info.weight for feed in feeds]
    assert sum(weights) == pytest.approx(6.0)  # as without
    assert [weight / sum(weights) for weight in weights] == pytest.approx(shares)


def test_a_temperature_shares_a_step_by_the_rows() -> None:
    tasks = {f"of {n}": TaskRecipe("classify", text_rows(n), reads="text", label="label") for n in (30, 270)}
    given = {**TINY, "batch_tokens": 4096, "tokenizers.text": {"max_tokens": 16}}
    alike = build_job(update(Recipe(tasks=tasks), **given)).feeds
    shared = build_job(update(Recipe(tasks=tasks), **given, temperature=2.0)).feeds
    assert alike[0].rows == alike[1].rows
    assert shared[1].rows / shared[0].rows == pytest.approx(3.0, rel=0.05)
    assert shared[1].info.weight / shared[0].info.weight == pytest.approx(3.0)
