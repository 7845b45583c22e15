from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from small_models import CLASSES, PAIRS, SPACE, STORIES, picture, small_model, sound

from unitx import cli, training
from unitx.errors import UnitxError
from unitx.recipe import CHOICES, Recipe, load_recipe, shipped
from unitx.task import TaskInfo

VERBS = ["demo", "recipes", "train", "finetune", "evaluate", "predict", "generate", "embed", "search", "convert"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Records what would be trained instead of training."""
    calls: list[tuple[Any, ...]] = []
    run = training.Run(Path("runs/x"), None, {"kind/accuracy": 0.75}, [])  # type: ignore[arg-type]
    monkeypatch.setattr(training, "train", lambda recipe, **given: calls.append(("train", recipe, given)) or run)
    monkeypatch.setattr(training, "resume", lambda folder: calls.append(("resume", folder)) or run)
    monkeypatch.setattr(training, "finetune", lambda m, r, **given: calls.append(("finetune", m, r, given)) or run)
    return calls


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a mistake gives."""
    assert cli.main(argv) == cli.USER_MISTAKE
    shown = capsys.readouterr()
    assert not shown.out and shown.err.startswith("unitx: error: ") and shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize("argv", [["--help"], *([verb, "--help"] for verb in VERBS), ["recipes"]])
def test_help_names_what_there_is(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if argv == ["recipes"]:
        assert cli.main(argv) == 0
    else:
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 0
    shown = capsys.readouterr().out
    names = {1: VERBS if argv == ["--help"] else list(shipped())}.get(len(argv), ["usage: unitx", argv[0]])
    assert all(name in shown for name in names)


def test_help_and_mistakes_come_without_torch() -> None:
    code = (
        "import sys\nfrom unitx.cli import main\n"
        "for argv in (['train', '--help'], ['recipes'], ['train', '--size', 'huge'], ['predict'], ['train']):\n"
        "    try: main(argv)\n"
        "    except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_field_of_a_recipe_is_a_flag(trained: list) -> None:
    nested = {"tasks": "--tasks.kind.weight", "tokenizers": "--tokenizers.image.patch", "model": "--model.depth"}
    special = nested | {"plugins": "--import"}
    for field in dataclasses.fields(Recipe):
        if field.name == "about":
            continue
        flag = special.get(field.name, "--" + field.name.replace("_", "-"))
        value = next((v for v in CHOICES.get(field.name, ()) if v), "3")
        for argv in (["train", "align", flag, value], ["train", "align", f"{flag}={value}"]):
            assert cli.main(argv) == 0
            _, recipe, given = trained.pop()
            assert recipe == "align" and len(given) == 1
            assert str(next(iter(given.values()))) in (value, f"['{value}']"), given


def test_values_are_read_as_they_are_meant(trained: list) -> None:
    argv = ["train", "senses", "--data", '{"world": "emoji", "concepts": 10}', "--lr", "1e-3", "--steps=20"]
    argv += ["--label", "2024", "--out", "on", "--reads", "a:image,b:text", "--seed", "-1", "--minutes", "0.5"]
    argv += ["--import", "a.py", "--import", "b.py", "--size", "tiny"]
    argv += ["--tasks.senses.options.temperature=.2", "--tokenizers.image", "{patch: 4}", "--tasks.senses.label", "no"]
    assert cli.main(argv) == 0
    assert trained == [("train", "senses", {
        "data": {"world": "emoji", "concepts": 10}, "lr": 1e-3, "steps": 20, "label": "2024", "out": "on",
        "reads": "a:image,b:text", "seed": -1, "minutes": 0.5, "plugins": ["a.py", "b.py"], "size": "tiny",
        "tasks.senses.options.temperature": 0.2, "tokenizers.image": {"patch": 4}, "tasks.senses.label": "no",
    })]  # fmt: skip


def test_finetune_and_resume_take_their_arguments(trained: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", "runs/a", "classify", "--tune", "lora", "--freeze", "text,image"]) == 0
    assert cli.main(["train", "--resume", "runs/a"]) == 0
    assert trained == [
        ("finetune", "runs/a", "classify", {"tune": "lora", "freeze": "text,image"}),
        ("resume", "runs/a"),
    ]
    assert "kind/accuracy" in (shown := capsys.readouterr().out) and "0.7500" in shown and "runs/x" in shown


MISTAKES = [
    ([], "VERB"),
    (["trian"], "invalid choice: 'trian'"),
    (["train"], "say which recipe to train, or --resume RUN; there are: align,"),
    (["train", "--resume"], "--resume: expected one argument"),
    (["train", "align", "--resume", "runs/a"], "takes no other argument"),
    (["train", "--resume", "runs/a", "--steps", "3"], "takes no other argument"),
    (["train", "--resume", "runs/a", "--model.depth", "3"], "takes no other argument"),
    (["train", "align", "--size", "huge"], "argument --size: invalid choice: 'huge'"),
    (["train", "align", "--stesp", "3"], "takes no --stesp; did you mean --steps?"),
    (["train", "align", "--step", "3"], "takes no --step; did you mean --steps?"),
    (["generate", "runs/a", "x", "--beams", "3"], "takes no --beams; see unitx generate --help"),
    (["train", "align", "--model.depth"], "--model.depth needs a value"),
    (["train", "align", "--data", "{world"], "--data {world"),
    (["finetune", "runs/a"], "the following arguments are required: recipe"),
    (["predict", "runs/a"], "name files or texts, or a table with --data TABLE"),
    (["predict", "runs/a", "x", "--data", "y.csv"], "name files or texts, or a table with --data TABLE"),
    (["predict", "runs/a", "x", "--top", "many"], "argument --top: invalid int value: 'many'"),
    (["predict", "runs/a", "x", "--model.depth", "3"], "unitx predict takes no --model.depth"),
    (["predict", "runs/a", "x", "--tsak", "y"], "unitx predict takes no --tsak; did you mean --task?"),
    (["predict", "runs/a", "x", "--volume", "9"], "unitx predict takes no --volume; see unitx predict --help"),
    (["embed", "runs/a", "x"], "required: -o/--out"),
]


@pytest.mark.parametrize("argv, says", MISTAKES, ids=[" ".join(argv) or "nothing" for argv, _ in MISTAKES])
def test_a_mistake_gives_one_line(argv: list[str], says: str, trained: list, capsys: pytest.CaptureFixture) -> None:
    assert says in error_of(capsys, *argv) and not trained


UNSOUND = [
    (["train", "aling", "--data", "x"], "there is no recipe 'aling'"),
    (["train", "align", "--steps", "many"], "steps is 'many'; it must be a whole number"),
    (["train", "align", "--lr", "0"], "lr is 0.0"),
    (["train", "align", "--seed", "-1"], "workers, seed and weight_decay must be at least 0"),
    (["train", "align", "--tasks.aling.weight", "2"], "has no task 'aling'; it has: align"),
    (["train", "align"], "task 'align' has no data: give a folder or a file with --data"),
    (["train", "align", "--data", "no-such-folder/"], "no-such-folder"),
    (["train", "align", "--data", "x", "--import", "no-such.py"], "--import no-such.py: there is no such file"),
    (["train", "--resume", "no-such-run"], "no-such-run holds no run"),
    (["finetune", "no-such-run/", "align", "--data", "x"], "there is no model 'no-such-run/'"),
    (["predict", "no-such-run/", "x"], "there is no model 'no-such-run/'"),
    (["search", "no-such-run/", "photos.parquet", "x"], "there is no file photos.parquet; make one with: unitx embed"),
    (["search", "no-such-run/", ".", "x"], ". is no file of embeddings; make one with: unitx embed MODEL . -o "),
    (["search", "no-such-run/", "photos/", "x"], "photos/; make one with: unitx embed MODEL FOLDER -o photos.parquet"),
]


@pytest.mark.parametrize("argv, says", UNSOUND, ids=[" ".join(argv) for argv, _ in UNSOUND])
def test_what_cannot_be_done_gives_one_line(
    argv: list[str], says: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in error_of(capsys, *argv)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_and_a_closed_pipe_are_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupt)
    assert cli.main(["train", "align"]) == 130
    assert capsys.readouterr().err == "unitx: interrupted\n"
    pipe = f"{sys.executable} -m unitx recipes | head -c 1"
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True)
    assert done.stderr == "" and len(done.stdout) == 1


def test_predict_prints_a_line_an_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_model(CLASSES, STORIES).save_pretrained(tmp_path / "model")
    picture(0).save(tmp_path / "a.png")
    files = [str(tmp_path / "a.png"), str(tmp_path / "none.png")]
    with pytest.warns(UserWarning, match="1 of 2"):
        assert cli.main(["predict", str(folder), *files, "--top", "2"]) == 0
    (answers,) = small_model(CLASSES).predict([files[0]], top=2)
    expected = "\t".join(f"{answer.label} {answer.score:.3f}" for answer in answers)
    assert capsys.readouterr().out == f"{files[0]}\t{expected}\n{files[1]}\tcould not be read\n"


BOTH = TaskInfo("both", "classify", {"title": "text", "photo": "image"}, "kind", ["a, b", "c"])


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(row[name] or "" for name in row) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines, ""]))
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("top", [1, 3])
def test_predict_writes_a_row_for_each_row_of_a_table(
    suffix: str, top: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_model(BOTH, CLASSES).save_pretrained(tmp_path / "model")
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
    photos, titles = ["0.png", None, "none.png", None, "1.png"], ["a", "b", "c", None, None]
    rows = [{"photo": p, "more": "x", "title": t} for p, t in zip(photos, titles, strict=True)]
    table = write_table(tmp_path / f"items{suffix}", rows)
    with pytest.warns(UserWarning, match=r"2 of 5 items could not be read; the first: .*none\.png"):
        assert cli.main(["predict", str(folder), "--data", table, "--task", "both", "--top", str(top)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "there is no file" in shown.err  # said before the work too
    header, *lines = csv.reader(shown.out.splitlines())
    names = ["label", "score", "label 2", "score 2", "label 3", "score 3"]
    assert header == ["row", "title", "photo", *names[: 2 * top]]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "5"]
    items = [{"photo": picture(0), "title": "a"}, {"title": "b"}, None, None, {"photo": picture(1)}]
    # What was read stands beside the answers, as it was written.
    assert [line[1:3] for line in lines] == [[t or "", p or ""] for t, p in zip(titles, photos, strict=True)]
    for item, (_, _, _, *cells) in zip(items, lines, strict=True):
        answers = small_model(BOTH, CLASSES).predict([item], "both", top=top)[0] if item else []
        expected = [cell for answer in answers for cell in (answer.label, f"{answer.score:.3f}")]
        assert cells == expected + [""] * (2 * top - len(expected))


def test_predict_reads_the_texts_of_a_folder_whole_and_names_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = TaskInfo("topic", "classify", {"text": "text"}, "label", ["a", "b"])
    folder = small_model(topics).save_pretrained(tmp_path / "model")
    for name in ("long", "short"):
        (tmp_path / "texts" / "sub").mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / "sub" / f"{name}.txt").write_text(f"{name} words\n" * (1_000 if name == "long" else 1))
    assert cli.main(["predict", str(folder), "--data", str(tmp_path / "texts")]) == 0
    header, *lines = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["row", "file", "label", "score"]
    assert [line[:2] for line in lines] == [["1", "sub/long.txt"], ["2", "sub/short.txt"]]


def test_predict_shows_what_was_written_whatever_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_model(BOTH).save_pretrained(tmp_path / "model")
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
    rows = [{"title": 5, "photo": ["0.png", "1.png"], "file": "x"}]
    assert cli.main(["predict", str(folder), "--data", write_table(tmp_path / "items.jsonl", rows)]) == 0
    header, line = csv.reader(capsys.readouterr().out.splitlines())
    assert header[:3] == ["row", "title", "photo"] and line[:3] == ["1", "5", "0.png|1.png"]


def test_predict_on_made_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = TaskInfo("seen", "classify", {"image": "image"}, "concept", ["cat", "dog"])
    folder = small_model(seen).save_pretrained(tmp_path / "model")
    world = "{world: emoji, concepts: 2, part: test}"
    with pytest.warns(UserWarning, match="could not be read"):  # the rows that are heard or read
        assert cli.main(["predict", str(folder), "--data", world]) == 0
    header, *lines = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["row", "label", "score"] and sum(bool(line[1]) for line in lines) == 8


def test_a_file_that_is_not_there_gets_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topics = TaskInfo("topic", "classify", {"text": "text"}, "label", ["a", "b"])
    folder = small_model(topics).save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="3 of 4 items could not be read; the first: there is no file review.txt"):
        assert cli.main(["predict", str(folder), "review.txt", "cat.jpg", "a.WAV", "see cat.jpg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("could not be read") for line in lines] == [True, True, True, False]


def test_predict_needs_the_columns_of_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_model(BOTH).save_pretrained(tmp_path / "model")
    table = write_table(tmp_path / "items.csv", [{"photos": "0.png", "title": "a"}])
    assert "has no column 'photo' (--reads photo:…); it has: photos, title" in error_of(
        capsys, "predict", str(folder), "--data", table
    )


def test_generate_prints_prompt_and_continuation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_model(CLASSES, STORIES).save_pretrained(tmp_path / "model")
    argv = ["generate", str(folder), "--max-tokens", "5", "--temperature", "0", "Once", "--", "--a.b"]
    assert cli.main(argv) == 0
    said = small_model(CLASSES, STORIES).generate(["Once", "--a.b"], max_tokens=5, temperature=0)
    assert capsys.readouterr().out == f"Once{said[0]}\n--a.b{said[1]}\n"


def test_help_answers_in_half_a_second() -> None:
    took = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "unitx", "--help"], check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.5


def test_a_folder_that_is_not_there_is_not_embedded_as_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_model(STORIES).save_pretrained(tmp_path / "model")
    says = error_of(capsys, "embed", str(folder), f"{tmp_path}/photoz/", "-o", str(tmp_path / "x.parquet"))
    assert f"there is no folder {tmp_path}/photoz/" in says and not (tmp_path / "x.parquet").exists()


def test_a_long_text_is_embedded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_model(PAIRS).save_pretrained(tmp_path / "model")
    assert cli.main(["embed", str(folder), "a long story " * 99, "-o", str(tmp_path / "all.parquet")]) == 0
    assert "1 embeddings in" in capsys.readouterr().out


def test_a_name_with_spaces_of_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small_model(PAIRS).save_pretrained(tmp_path / "model")
    assert cli.main(["embed", str(folder), "my cat.jpg", "a cat", "-o", str(tmp_path / "all.parquet")]) == 0
    assert capsys.readouterr().err == "unitx: there is no file 'my cat.jpg': it is taken for a text\n"


def test_embeddings_that_cannot_be_written_are_found_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_model(PAIRS).save_pretrained(tmp_path / "model")
    (tmp_path / "file").write_text("here")
    out = str(tmp_path / "file" / "all.parquet")
    assert f"{out}: {tmp_path / 'file'} is a file; name a folder" in error_of(
        capsys, "embed", str(folder), "a cat", "-o", out
    )


def test_a_model_of_ones_own_parts_is_used_with_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "my_task.py"
    plugin.write_text(
        "from unitx.registry import register_task\n"
        "from unitx.tasks.classify import Classify\n"
        "@register_task('my-kind')\n"
        "class MyKind(Classify):\n"
        "    pass\n"
    )
    make = (
        "import sys, unitx; unitx.import_plugin(sys.argv[1])\n"
        "from small_models import small_model; from unitx.task import TaskInfo\n"
        "small_model(TaskInfo('kind', 'my-kind', {'text': 'text'}, 'kind', ['a', 'b'])).save_pretrained(sys.argv[2])"
    )
    folder = tmp_path / "model"
    subprocess.run([sys.executable, "-c", make, plugin, folder], check=True, cwd=Path(__file__).parent)
    assert "'my-kind' lives in my_task.py, which was not imported: pass --import my_task.py" in error_of(
        capsys, "predict", str(folder), "some words"
    )
    assert cli.main(["predict", str(folder), "some words", "--import", str(plugin)]) == 0
    assert capsys.readouterr().out.startswith("some words\t")


def test_boxes_are_printed_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = TaskInfo("find", "detect", {"image": "image"}, "objects", ["cat", "dog"], options={"threshold": 0.0})
    folder = small_model(info).save_pretrained(tmp_path / "model")
    files = [str(tmp_path / f"{i}.png") for i in range(2)]
    for i, file in enumerate(files):
        picture(i).save(file)
    out = tmp_path / "drawn"
    assert cli.main(["predict", str(folder), *files, "--top", "2", "--draw", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = small_model(info).predict(files, top=2)
    for line, file, answers in zip(lines, files, found, strict=True):
        sides = [[round(100 * side) for side in answer.box] for answer in answers]
        boxes = [f"{left}–{right} % across, {top}–{bottom} % down" for left, top, right, bottom in sides]
        said = [f"{a.label} {a.score:.3f} [{box}]" for a, box in zip(answers, boxes, strict=True)]
        assert line == "\t".join([file, *said])
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png"]
    table = write_table(tmp_path / "table.csv", [{"image": Path(file).name} for file in files])
    assert cli.main(["predict", str(folder), "--data", table, "--top", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["label"] for row in rows] == [answers[0].label for answers in found]
    assert rows[0]["box"] == " ".join(f"{side:.4f}" for side in found[0][0].box)


def test_spans_are_printed_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = TaskInfo("tag", "tag", {"text": "text", "audio": "audio"}, "spans", ["cat", "dog"])
    model = small_model(info)
    folder, wave = str(model.save_pretrained(tmp_path / "model")), str(tmp_path / "a.wav")
    soundfile.write(wave, sound(0, 0.5)[0], 16_000)
    text, nothing, out = "a cat and a dog", " ", tmp_path / "drawn"
    assert cli.main(["predict", folder, text, wave, nothing, "--task", "tag", "--draw", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = small_model(info).predict([text, wave, nothing])
    said = [f"{s.label} {s.score:.3f} [{s.start}–{s.end} {text[s.start : s.end]!r}]" for s in found[0]]
    heard = [f"{s.label} {s.score:.3f} [{s.start:.2f}–{s.end:.2f} s]" for s in found[1]]
    assert lines == ["\t".join([text, *said]), "\t".join([wave, *heard]), " \tnothing"] and said and heard
    assert {"1.png", "a.png"} <= {path.name for path in out.iterdir()} <= {"1.png", "a.png", "3.png"}
    (tmp_path / "bad.wav").write_bytes(b"no sound")  # one that cannot be read does not keep others from being drawn
    odd, again = ["~5 cats came", "a cat " * 100, str(tmp_path / "bad.wav"), wave], tmp_path / "again"
    with pytest.warns(UserWarning, match="bad.wav"):
        assert cli.main(["predict", folder, *odd, "--task", "tag", "--draw", str(again)]) == 0
    assert {path.name for path in again.iterdir()} == {"1.png", "2.png", "a.png"}
    capsys.readouterr()
    table = write_table(tmp_path / "table.jsonl", [{"text": text, "audio": None}, {"text": None, "audio": "a.wav"}])
    assert cli.main(["predict", folder, "--data", table]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["text"] for row in rows] == [text, ""] and rows[0]["answer text"] == found[0][0].text
    for row, (first, *_) in zip(rows, found[:2], strict=True):
        cells = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in first[:4]]
        assert [row[name] for name in ("label", "score", "start", "end")] == cells
    plain = TaskInfo("kind", "classify", {"image": "image"}, "kind", ["a", "b"])
    picture(0).save(tmp_path / "0.png")
    classifier = str(small_model(plain).save_pretrained(tmp_path / "classifier"))
    (tmp_path / "other").mkdir()
    picture(1).save(tmp_path / "other" / "0.png")
    finder = small_model(TaskInfo("find", "detect", {"image": "image"}, "objects", ["a"]))
    found_in = str(finder.save_pretrained(tmp_path / "finder"))
    same = [str(tmp_path / "0.png"), str(tmp_path / "other" / "0.png"), str(tmp_path / "bad.wav")]
    with pytest.warns(UserWarning, match="bad.wav"):
        assert cli.main(["predict", found_in, *same, "--draw", str(tmp_path / "drawn-0")]) == 0
    assert {path.name for path in (tmp_path / "drawn-0").iterdir()} == {"1-0.png", "2-0.png"}
    assert capsys.readouterr().out.splitlines()[2] == f"{same[2]}\tcould not be read"
    assert cli.main(["predict", found_in, same[0], "--draw", str(tmp_path / "new" / "a.png")]) == 0
    assert (tmp_path / "new" / "a.png").is_file() and capsys.readouterr()
    says = error_of(capsys, "predict", found_in, same[0], "--draw", str(tmp_path / "a.xyz"))
    assert "names no picture: end it with .png" in says
    error_of(capsys, "predict", found_in, *same[:2], "--draw", same[0])  # a file, where a folder is to be
    says = error_of(capsys, "predict", classifier, str(tmp_path / "0.png"), "--draw", str(out))
    assert "what task 'kind' (classify) says cannot be drawn" in says


def test_a_file_is_read_to_be_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(small_model(STORIES).save_pretrained(tmp_path / "model"))
    (tmp_path / "a.txt").write_text("once")
    for prompt, begins in (("once", "once"), (str(tmp_path / "a.txt"), f"{tmp_path / 'a.txt'}\t")):
        assert cli.main(["generate", folder, prompt, "--max-tokens", "5", "--temperature", "0"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(begins)
        assert text.removeprefix(begins).rstrip("\n") == small_model(STORIES).generate(
            ["once"], max_tokens=5, temperature=0
        )[0].rstrip("\n")
    assert "there is no file b.txt" in error_of(capsys, "generate", folder, "b.txt")


def test_a_recipe_is_printed_as_a_start_for_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "everything"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out, "utf-8")
    assert load_recipe(tmp_path / "mine.yaml") == load_recipe("everything")
    assert "did you mean 'everything'" in error_of(capsys, "recipes", "everithing")
    assert "there is no recipe" in error_of(capsys, "recipes", str(tmp_path / "mine.yaml"))


def test_a_model_behind_a_recipe_is_told_apart(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    says = error_of(capsys, "finetune", "image-classify", str(tmp_path))
    assert f"name the model first: unitx finetune {tmp_path} image-classify" in says and not trained
    assert cli.main(["finetune", "senses", str(tmp_path)]) == 0  # a model comes along under the recipe's name
    assert trained == [("finetune", "senses", str(tmp_path), {})]


def test_what_holds_several_items_is_for_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TaskInfo("tone", "classify", {"text": "text"}, "tone", ["good", "bad"])
    reader, seer = (str(small_model(info).save_pretrained(tmp_path / info.name)) for info in (texts, CLASSES))
    table, folder = write_table(tmp_path / "table.csv", [{"text": "a"}]), tmp_path / "dogs"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for model, several in ((reader, table), (reader, "./dogs"), (seer, str(folder)), (seer, "dogs")):
        assert f"name it with --data {several}" in error_of(capsys, "predict", model, several)
    assert cli.main(["predict", reader, "dogs"]) == 0  # a text as any other


def test_columns_of_other_names_are_read_as_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = TaskInfo("kind", "classify", {"text": "text"}, "kind", ["a", "b"])
    folder = str(small_model(info).save_pretrained(tmp_path / "model"))
    table = write_table(tmp_path / "table.csv", [{"review": "good", "label": "x"}])
    assert "--reads" in error_of(capsys, "predict", folder, "--data", table)
    assert cli.main(["predict", folder, "--data", table, "--reads", "review:text"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "row,review,label,score"
    says = error_of(capsys, "predict", folder, "--data", table, "--reads", "review:video")
    assert "'review' cannot be read as video: the model reads audio, image, text" in says


def test_the_task_is_chosen_by_what_is_to_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = TaskInfo("kind", "classify", {"image": "image"}, "kind", ["cat", "dog"])
    mood = TaskInfo("mood", "classify", {"text": "text"}, "mood", ["good", "bad"])
    folder = str(small_model(kind, mood).save_pretrained(tmp_path / "model"))
    picture(0).save(tmp_path / "a.png")
    table = write_table(tmp_path / "table.csv", [{"photo": "a.png", "text": "it shows a cat"}])
    for reads, labels in (("photo:image", kind.labels), ("text:text", mood.labels)):
        assert cli.main(["predict", folder, "--data", table, "--reads", reads]) == 0
        (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
        assert row["label"] in labels


def test_answers_do_not_hide_columns_of_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reads = {"row": "text", "label": "text"}
    info = TaskInfo("kind", "classify", reads, "kind", ["a", "b"])
    folder = str(small_model(info).save_pretrained(tmp_path / "model"))
    table = write_table(tmp_path / "table.csv", [{"row": "one", "label": "two"}])
    assert cli.main(["predict", folder, "--data", table]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["row number"], row["row"], row["label"]) == ("1", "one", "two") and row["answer label"] in ("a", "b")


def test_what_is_not_there_is_no_text_where_it_looks_like_a_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(small_model(SPACE).save_pretrained(tmp_path / "model"))
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    said = {"phots": "is photos meant?", "./phots": "is photos meant?", "a/b": "no file or folder a/b"}
    for item, hint in said.items():
        says = error_of(capsys, "embed", folder, item, "-o", "all.parquet")
        assert hint in says and "--modality text" in says
    assert cli.main(["embed", folder, "phots", "cats/dogs", "-o", "all.parquet", "--modality", "text"]) == 0
    assert cli.main(["embed", folder, "cat", "either / or", "word " * 70 + "and/or", "-o", "all.parquet"]) == 0
    capsys.readouterr()
    assert "name it all.parquet" in error_of(capsys, "embed", folder, "cat", "-o", "all.csv")


def test_of_several_tasks_the_one_for_the_item_is_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = TaskInfo("tone", "classify", {"text": "text"}, "tone", ["good", "bad"])
    pictures = TaskInfo("kind", "classify", {"image": "image"}, "kind", ["cat", "dog"])
    folder = str(small_model(texts, pictures).save_pretrained(tmp_path / "model"))
    picture(0).save(tmp_path / "a.png")
    for item, labels in (("nice", texts.labels), (str(tmp_path / "a.png"), pictures.labels)):
        assert cli.main(["predict", folder, item]) == 0
        assert capsys.readouterr().out.split("\t")[1].split()[0] in labels
    ask = TaskInfo("ask", "classify", {"image": "image", "question": "text"}, "to", ["yes", "no"])
    folder = str(small_model(ask, pictures).save_pretrained(tmp_path / "asking"))
    for cells, labels in ([], pictures.labels), (["--with", "question=is it?"], ask.labels):
        assert cli.main(["predict", folder, str(tmp_path / "a.png"), *cells]) == 0
        assert capsys.readouterr().out.split("\t")[1].split()[0] in labels
    both = small_model(texts, replace(texts, name="other"))
    with pytest.raises(UnitxError, match="2 tasks of the model could be meant"):
        both.predict(["nice"])


def test_times_are_no_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    says = error_of(capsys, "train", "image-classify", "--data", "photos", "--minutes", "1:30")
    assert "minutes" in says and "1:30" in says


def test_cells_stand_beside_each_item(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"longest": 4, "languages": ["es", "fr"]}
    info = TaskInfo("say", "translate", {"language": "text", "text": "text"}, "to", facts=facts)
    folder = str(small_model(info).save_pretrained(tmp_path / "model"))
    assert cli.main(["predict", folder, "cat", "--with", "language=fr"]) == 0
    (answers,) = small_model(info).predict([{"language": "fr", "text": "cat"}])
    assert capsys.readouterr().out == f"cat\t{answers[0].label} {answers[0].score:.3f}\n"
    with pytest.warns(UserWarning, match="the model does not write 'de'"):
        assert cli.main(["predict", folder, "cat", "--with", "language=de"]) == cli.USER_MISTAKE
    assert capsys.readouterr().out == "cat\tcould not be read\n"
    assert "write COLUMN=TEXT" in error_of(capsys, "predict", folder, "cat", "--with", "fr")
    says = error_of(capsys, "predict", folder, "cat", "--with", "langage=fr")
    assert "--with langage: task 'say' reads language, text" in says
    says = error_of(capsys, "predict", folder, "cat", "--with", "language=fr", "--with", "text=dog")
    assert "cannot tell what 'cat' is, none of its columns" in says
    with pytest.warns(UserWarning, match=r"nope\.png: there is no such file"):  # nor a text
        two = small_model(TaskInfo("ask", "answer", {"image": "image", "question": "text"}, "to", facts={"longest": 4}))
        asking = str(two.save_pretrained(tmp_path / "asking"))
        assert cli.main(["predict", asking, "nope.png", "--with", "question=what?"]) == cli.USER_MISTAKE
    assert capsys.readouterr().out == "nope.png\tcould not be read\n"
    assert "reads several columns" in error_of(capsys, "predict", folder, "cat")
