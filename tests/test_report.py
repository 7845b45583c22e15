"""The report of an evaluation: against what `predict_proba` says and counts by hand, and looked at as a picture."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support
from small_models import picture, small_model

import unitx
from unitx.config import BackboneConfig
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe
from unitx.report import Report, class_scores, draw_report, evaluate, worst_mistakes
from unitx.task import TaskInfo
from unitx.tokenizers.audio import AudioProcessor
from unitx.tokenizers.table import TableProcessor
from unitx.tokenizers.text import TextProcessor
from unitx.tokenizers.video import VideoProcessor

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


def write_pictures(folder: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = (np.array(colour) + rng.normal(0, 40, (16, 16, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> unitx.Run:
    """Three colours, learned in 20 steps."""
    folder = tmp_path_factory.mktemp("report")
    recipe = Recipe(tasks={"picture": TaskRecipe("classify", label="label", reads="image")})
    shape = {"model.dim": 32, "model.depth": 1, "model.heads": 2}
    tokenizers = {"image": {"patch": 8, "max_tokens": 4}}
    return unitx.train(
        recipe, data=str(write_pictures(folder / "train", 20, 0)), out=str(folder / "run"), steps=20, size="nano",
        tokenizers=tokenizers, augment="none", workers=0, evaluations=1, batch_tokens=128,
        precision="fp32", echo=False, **shape,
    )  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures a colour; the last two of the reds are green ones, and the last of the blues is a red one."""
    folder = write_pictures(tmp_path / "test", 10, 1)
    for wrong, right in (("red/08", "green/00"), ("red/09", "green/01"), ("blue/09", "red/00")):
        (folder / f"{wrong}.png").write_bytes((folder / f"{right}.png").read_bytes())
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_the_predictions(run: unitx.Run, photos: Path) -> None:
    report = evaluate(run.model, photos)
    files = sorted(photos.rglob("*.png"))
    probability = run.model.predict_proba(files)
    names = run.model.labels("picture")
    truth = [names.index(file.parent.name) for file in files]
    found = probability.argmax(1).tolist()
    confusion = [
        [sum(t == i and f == j for t, f in zip(truth, found, strict=True)) for j in range(3)] for i in range(3)
    ]
    assert report.rows == report.scored == 30 and report.confusion.tolist() == confusion
    assert confusion[2][1] >= 2 and confusion[0][2] >= 1  # the model has learned, and what is wrong is found
    assert report.scores["accuracy"] == pytest.approx(np.mean(np.array(truth) == found))
    for i, row in enumerate(report.classes):
        said, true = sum(confusion[j][i] for j in range(3)), sum(confusion[i])
        precision, recall = confusion[i][i] / said, confusion[i][i] / true
        assert row == pytest.approx(
            {"class": names[i], "precision": precision, "recall": recall, "support": true}
            | {"f1": 2 * precision * recall / (precision + recall)}
        )

    by_hand = [(p.max(), i) for i, p in enumerate(probability) if found[i] != truth[i]]
    assert 3 <= len(by_hand) <= 20
    source = open_source(photos)
    for mistake, (expected, place) in zip(report.mistakes, sorted(by_hand, reverse=True), strict=True):
        assert mistake.probability == pytest.approx(expected, abs=1e-5)
        assert source.row(mistake.row)["image"] == files[place]
        assert (mistake.truth, mistake.answer) == (files[place].parent.name, names[found[place]])


def test_files_hold_what_the_report_says(run: unitx.Run, photos: Path) -> None:
    report = evaluate(run.folder, photos)
    assert report.folder == run.folder / "evaluation"
    assert sorted(f.name for f in report.folder.iterdir()) == [
        "classes.csv", "confusion.csv", "report.png", "scores.json",
    ]  # fmt: skip
    classes = read_csv(report.folder / "classes.csv")
    assert [row["class"] for row in classes] == list(COLOURS)
    assert [float(row["recall"]) for row in classes] == [row["recall"] for row in report.classes]
    confusion = read_csv(report.folder / "confusion.csv")
    assert [[int(row[name]) for name in COLOURS] for row in confusion] == report.confusion.tolist()
    scores = json.loads((report.folder / "scores.json").read_text("utf-8"))
    assert scores["scores"] == report.scores and scores["rows"] == 30 and len(scores["mistakes"]) >= 3
    with Image.open(report.folder / "report.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 1650 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    assert "30 of 30 rows scored" in str(report) and "report.png" in str(report)


def test_a_model_in_memory_writes_nothing_unasked(
    run: unitx.Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert evaluate(run.model, photos).folder is None
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_not_scored_is_counted_and_named(run: unitx.Run, photos: Path) -> None:
    for name in ("teapot", "mug"):
        (photos / name).mkdir()
        for i in range(len(name)):
            Image.new("RGB", (16, 16)).save(photos / name / f"{i}.png")
    Image.new("RGB", (16, 16)).save(photos / "nowhere.png")
    (photos / "red" / "09.png").write_bytes(b"no picture")
    # Also where a whole batch is nothing but unreadable.
    for batch_tokens in (4, 10_000):
        report = evaluate(run.model, photos, batch_tokens=batch_tokens)
        assert (report.rows, report.scored, report.unlabelled) == (40, 29, 1)
        assert report.unknown_labels == {"teapot": 6, "mug": 3}
        assert len(report.skipped) == 1 and "red/09.png is not a picture" in report.skipped[0]
        assert report.confusion.sum() == 29
    assert "labels that the model does not know: 2: teapot (6), mug (3)" in str(report)
    assert "rows without a label: 1" in str(report) and "rows that could not be read: 1; the first: /" in str(report)


def test_columns_may_be_called_otherwise(run: unitx.Run, photos: Path) -> None:
    lines = [f"{file.relative_to(photos)},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (photos / "items.csv").write_text("photo,colour\n" + "\n".join(lines))
    report = evaluate(run.model, photos / "items.csv", reads={"photo": "image"}, label="colour")
    assert report.confusion.tolist() == evaluate(run.model, photos).confusion.tolist()
    # One class is enough to be tested on.
    one = evaluate(run.model, [{"image": str(photos / "red" / "00.png"), "label": "red"}] * 3)
    assert one.scored == 3 and [row["support"] for row in one.classes] == [0, 0, 3]
    with pytest.raises(UnitxError, match=r"items\.csv has no column 'image'"):
        evaluate(run.model, photos / "items.csv")
    with pytest.raises(UnitxError, match="'photo' cannot be read as audio: the model reads image"):
        evaluate(run.model, photos / "items.csv", reads={"photo": "audio"}, label="colour")
    with pytest.raises(UnitxError, match=r"knows none of the labels in 'photo' \(blue/00.png, .*it knows blue, green"):
        evaluate(run.model, photos / "items.csv", reads={"photo": "image"}, label="photo")
    with pytest.raises(UnitxError, match="the model has no task 'sound'"):
        evaluate(run.model, photos, "sound")


def test_nothing_readable_is_an_error(run: unitx.Run, photos: Path) -> None:
    for file in photos.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(UnitxError, match=r"none of 30 sampled rows can be used: .*is not a picture"):
        evaluate(run.model, photos)


@pytest.fixture
def text_model() -> Model:
    torch.manual_seed(0)
    infos = [
        TaskInfo("tags", "classify", {"text": "text"}, "tags", ["a", "b", "c", "d"], options={"multi_label": True}),
        TaskInfo("write", "next_token", {"text": "text"}),
        TaskInfo("pairs", "align", {"left": "text", "right": "text"}),
    ]
    model = Model(BackboneConfig(dim=16, depth=1, heads=2), {"text": TextProcessor(max_tokens=12)}, infos).eval()
    torch.nn.init.normal_(model.heads["tags"].head.weight, std=2)
    return model


def average_precision(scores: list[float], truth: list[bool]) -> float:
    """The mean over the true rows of the precision among all rows with at least their score."""
    true = [s for s, t in zip(scores, truth, strict=True) if t]
    above = [[t for s, t in zip(scores, truth, strict=True) if s >= score] for score in true]
    return sum(sum(found) / len(found) for found in above) / len(true)


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_rates_of_any_number_of_classes_that_may_hold_together(names: list[str]) -> None:
    rng = np.random.default_rng(0)
    truth, outputs = rng.random((50, len(names))) < 0.4, torch.tensor(rng.normal(size=(50, len(names))))
    head = SimpleNamespace(info=SimpleNamespace(labels=names), multi_label=True)
    classes, _ = class_scores(head, outputs, torch.tensor(truth).float())
    for i, row in enumerate(classes):
        expected = precision_recall_fscore_support(truth[:, i], outputs[:, i] > 0, average="binary")[:3]
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(expected)
        assert row["support"] == truth[:, i].sum()
        expected = average_precision(outputs[:, i].tolist(), truth[:, i].tolist())
        assert row["average_precision"] == pytest.approx(expected)


def test_rows_for_which_no_label_holds_can_be_scored(text_model: Model, tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "tags": []} for i in range(5)]
    with pytest.raises(UnitxError, match="'tags' is empty"):
        evaluate(text_model, [{"text": "x", "tags": None}], "tags")
    report = evaluate(text_model, rows, "tags", folder=tmp_path)
    assert report.scored == 5
    assert all(math.isnan(row["average_precision"]) for row in report.classes)
    assert (tmp_path / "report.png").is_file()


def test_of_several_tasks_the_one_whose_columns_the_data_have_is_meant() -> None:
    tone = TaskInfo("tone", "classify", {"text": "text"}, "tone", ["good", "bad"])
    kind = TaskInfo("kind", "classify", {"photo": "image"}, "kind", ["cat", "dog"])
    model = small_model(tone, kind)
    assert evaluate(model, [{"text": "a", "tone": "good"}]).task == "tone"
    assert evaluate(model, [{"photo": picture(0), "kind": "cat"}]).task == "kind"
    with pytest.raises(UnitxError, match="2 tasks of the model could be meant"):
        evaluate(model, [{"text": "a", "photo": picture(0), "tone": "good", "kind": "cat"}])


def test_twenty_mistakes_at_most_are_shown_the_surest_first() -> None:
    head = SimpleNamespace(info=SimpleNamespace(labels=["a", "b"]), multi_label=False)
    head.probabilities = lambda outputs: outputs.softmax(-1)
    outputs = torch.stack([torch.zeros(30), torch.arange(1.0, 31.0) / 10], dim=1)  # all say "b"
    mistakes = worst_mistakes(head, outputs, torch.tensor([[1.0, 0.0]]).repeat(30, 1), list(range(30)))
    assert [mistake.row for mistake in mistakes] == list(range(29, 9, -1))


def test_a_file_in_place_of_the_reports_folder_is_found_at_once(text_model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(UnitxError, match="file is a file; name a folder"):
        evaluate(text_model, "no-such-data.csv", "tags", folder=tmp_path / "file")


def test_only_the_files_of_the_report_are_named(text_model: Model, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    report = evaluate(text_model, [{"text": "x", "tags": ["a"]}] * 3, "tags", folder=tmp_path)
    assert str(report).splitlines()[-1] == f"written to {tmp_path}: scores.json, classes.csv, report.png"


def test_several_labels_a_row(text_model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"text": f"row {i}", "tags": [n for n in "abc" if rng.random() < 0.4]} for i in range(30)]
    rows[0]["tags"], rows[1]["tags"], rows[2]["tags"] = ["a", "odd"], ["odd"], []
    report = evaluate(text_model, rows, "tags", folder=tmp_path)
    probability = text_model.predict_proba([row["text"] for row in rows], "tags")
    assert report.unknown_labels == {"odd": 2} and report.scored == 29 and report.unlabelled == 0
    assert report.confusion is None and not (tmp_path / "confusion.csv").exists()
    kept = [i for i in range(30) if i != 1]
    for place, name in enumerate("abc"):
        truth = [name in rows[i]["tags"] for i in kept]
        expected = average_precision(probability[kept, place].tolist(), truth)
        assert report.classes[place]["average_precision"] == pytest.approx(expected, abs=1e-6)
        assert report.classes[place]["support"] == sum(truth)
    mean = np.mean([row["average_precision"] for row in report.classes[:3]])
    assert report.scores["average_precision"] == pytest.approx(mean)
    # Nobody has the last label: what is not defined is left empty.
    assert read_csv(tmp_path / "classes.csv")[3]["average_precision"] == ""
    assert report.mistakes[0].probability == pytest.approx(
        max(p for i in kept for p, name in zip(probability[i], "abcd", strict=True) if name not in rows[i]["tags"]),
        abs=1e-5,
    )
    assert all(mistake.answer not in rows[mistake.row]["tags"] for mistake in report.mistakes)
    truths = [", ".join(tag for tag in rows[m.row]["tags"] if tag != "odd") or "none" for m in report.mistakes]
    assert [mistake.truth for mistake in report.mistakes] == truths and "none" in truths
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_columns_that_the_data_lack_are_said() -> None:
    processor = TableProcessor(numbers=(("width", 0.0, 1.0), ("height", 0.0, 1.0)))
    info = TaskInfo("kind", "classify", {"*": "table"}, "kind", ["a", "b"], facts={"class_counts": [1, 1]})
    model = Model(BackboneConfig(dim=32, depth=1, heads=2), {"table": processor}, [info])
    report = evaluate(model, [{"Width": 1.0, "height": float(i), "kind": "ab"[i % 2]} for i in range(4)])
    assert any("has no width, which the model reads: they count as missing" in note for note in report.notes)


def test_other_tasks_have_scores_only(text_model: Model, tmp_path: Path) -> None:
    texts = [{"text": "a text that is longer than twelve"}, {"text": "short"}]
    # Files of an earlier evaluation do not stay beside those of this one.
    evaluate(text_model, [{**row, "tags": ["a"]} for row in texts], "tags", folder=tmp_path)
    written = evaluate(text_model, texts, "write", folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]
    assert written.scores["bits_per_byte"] > 0 and written.shortened == {"text": 1} and written.mistakes == []
    assert "text items longer than max_tokens, of which the beginning was used: 1" in str(written)
    pairs = [{"left": f"word {i}", "right": f"word {i}"} for i in range(5)]
    aligned = evaluate(text_model, pairs, "pairs")
    assert aligned.scores["recall@1"] == 1 and aligned.scored == 5 and aligned.classes == []


def test_sounds_and_texts_are_shown(tmp_path: Path, shown: list[Figure]) -> None:
    torch.manual_seed(0)
    processors = {"audio": AudioProcessor(max_tokens=4), "text": TextProcessor(max_tokens=12)}
    infos = [TaskInfo(m, "classify", {m: m}, "label", ["high", "low"]) for m in processors]
    model = Model(BackboneConfig(dim=16, depth=1, heads=2), processors, infos).eval()
    wave = np.sin(np.arange(8000) * 0.1)
    rows = [{"audio": (wave, 16_000), "text": "costs $5 and $6", "label": "low"} for _ in range(3)]
    for modality in processors:
        report = evaluate(model, rows, modality, folder=tmp_path)
        assert [(m.truth, m.answer, m.probability) for m in report.mistakes] == [("low", "high", 0.5)] * 3
    heard, read = shown
    spectrograms = [image.get_array() for axes in all_axes(heard)[2:] for image in axes.images]
    assert [s.shape for s in spectrograms if s.shape[0] == 64] == [(64, 51)] * 3
    assert sum(text.get_text() == r"costs \$5 and \$6" for text in read.drawn) == 3


def test_of_a_video_four_frames_are_shown(tmp_path: Path, shown: list[Figure]) -> None:
    torch.manual_seed(0)
    processors = {"video": VideoProcessor(max_tokens=16, patch=8)}
    infos = [TaskInfo("motion", "classify", {"video": "video"}, "label", ["high", "low"])]
    model = Model(BackboneConfig(dim=16, depth=1, heads=2), processors, infos).eval()
    levels = np.arange(0, 240, 30, dtype=np.uint8)
    clip = np.broadcast_to(levels[:, None, None, None], (8, 16, 16, 3))
    report = evaluate(model, [{"video": clip, "label": "low"}] * 3, folder=tmp_path)
    assert len(report.mistakes) == 3
    strips = [
        image.get_array() for axes in all_axes(shown[0])[2:] for image in axes.images if image.get_array().ndim == 3
    ]
    assert [strip.shape for strip in strips] == [(16, 4 * 16 + 3 * 2, 3)] * 3
    np.testing.assert_allclose(strips[0][0, [0, 18, 36, 54], 0], levels[[1, 3, 5, 7]] / 255, atol=1e-6)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that were saved; each has its drawn texts as `drawn`."""
    saved: list[Figure] = []
    draw = Text.draw

    def save(figure: Figure, path: Path) -> None:
        figure.drawn = []
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", lambda text, renderer: (figure.drawn.append(text), draw(text, renderer)))
            figure.canvas.draw()
        figure.drawn = [text for text in figure.drawn if text.get_visible() and text.get_text().strip()]
        saved.append(figure)

    monkeypatch.setattr(Figure, "savefig", save)
    yield saved


def all_axes(figure: Figure) -> list:
    return [axes for part in figure.subfigs for axes in part.axes]


def made_report(classes: int, multi: bool, folder: Path) -> Report:
    torch.manual_seed(0)
    kinds = ("cat", "$x^2$ for $", "a rather long name of a class", "two\nlines")
    names = [f"{kinds[i % 4]} {i}" for i in range(classes)]
    head = SimpleNamespace(info=SimpleNamespace(labels=names), multi_label=multi)
    head.probabilities = lambda outputs: outputs.sigmoid() if multi else outputs.softmax(-1)
    truth = torch.nn.functional.one_hot(torch.arange(classes).repeat(8), classes).float()
    outputs = 6 * truth * torch.rand(classes) + torch.randn(len(truth), classes)
    scores, confusion = class_scores(head, outputs, truth)
    mistakes = worst_mistakes(head, outputs, truth, list(range(len(truth))))
    made = Report("things", "classify", {"accuracy": 0.5}, len(truth), len(truth), {}, 0, [], {}, [], scores, confusion)
    made.mistakes, made.folder = mistakes, folder
    return made


THUMBNAILS = {
    "image": np.zeros((8, 12, 3)),
    "audio": np.zeros((30, 16)),
    "video": np.zeros((48, 198, 3)),
    "text": "It cost $5, then $6: the words of a text go on and on until there is no room left for any more of …",
}


@pytest.mark.parametrize(
    ("classes", "multi", "kind"),
    [(3, False, "text"), (100, False, "image"), (40, True, "text"), (8, False, "video")],
)
def test_no_text_lies_on_another(classes: int, multi: bool, kind: str, tmp_path: Path, shown: list[Figure]) -> None:
    report = made_report(classes, multi, tmp_path)
    draw_report(report, [(kind, THUMBNAILS[kind]) for _ in report.mistakes])
    (figure,) = shown
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.drawn]
    room = figure.bbox
    for name, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= room.x1 + 1 and box.y1 <= room.y1 + 1, name
    for (left, a), (right, b) in combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide < 1.5 or high < 1.5, f"{left!r} lies on {right!r}"
    said = [text for text, _ in boxes]
    assert len(report.mistakes) >= 3 and sum(" →\n" in text for text in said) == len(report.mistakes)
    first = report.mistakes[0]
    assert any(f"({first.probability:.2f})" in text for text in said)
    if multi:
        assert "average precision: the 30 worst of 40 classes" in said


def test_the_most_confused_classes_are_shown(tmp_path: Path, shown: list[Figure]) -> None:
    report = made_report(130, False, tmp_path)
    report.confusion = np.diag(np.full(130, 5))
    report.confusion[77, 99] = 9
    draw_report(report, [("text", "") for _ in report.mistakes])
    axes = all_axes(shown[0])[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    cell = names.index(r"\$x^2\$ for \$ 77"), names.index("two lines 99")
    assert axes.get_title() == "the 40 most confused of 130 classes"
    assert all_axes(shown[0])[1].get_title() == "precision and recall: the 30 worst of 130 classes"
    assert len(names) == 40 and axes.images[0].get_array()[cell] == pytest.approx(9 / 14)
