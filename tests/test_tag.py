"""Tags: tokens and spans against plain loops, parts and windows of long items, scores, and what is refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from small_models import picture, small_model, sound

import unitx
from unitx.augment import Augment
from unitx.batches import Feed, Preparer, Tally, read_examples
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tasks.tag import NOWHERE, Marked, Span, Tag, labels_of_tokens, spans_of_tokens
from unitx.tokenizers.text import TextProcessor

INFO = TaskInfo("tag", "tag", {"text": "text", "audio": "audio"}, "spans", ["place", "who"])
NONE = 2
TEXT = "Zoë met 李雷 in New York 🗽 and Rome."
SPANS = [{"label": "who", "start": 0, "end": 3}, [8, 10, "who"], {"label": "place", "start": 14, "end": 22}]


def told(model: Model, item: Any) -> list[Span]:
    return model.predict([item], "tag")[0]


def one_hot(labels: list[int]) -> np.ndarray:
    return np.eye(NONE + 1)[labels]


def extents_of(text: str, **options: Any) -> np.ndarray:
    processor = TextProcessor(**{"max_tokens": 500, **options})
    return processor.extents(text, [processor.prepare(text)])[0]


@st.composite
def marked_texts(draw: Any) -> tuple[str, list[tuple[int, int, int]]]:
    """A text, and spans of it of which no two of one label touch or have only space between them."""
    word = st.text("ab é李\n🗽\u0301", min_size=1, max_size=5).filter(str.strip)
    words = draw(st.lists(word, min_size=1, max_size=8))
    text, spans, last = "", [], NONE
    for word in words:
        label = draw(st.integers(0, NONE))
        if label not in (NONE, last):
            begin = len(text) + len(word) - len(word.lstrip())
            spans.append((label, begin, begin + len(word.strip())))
        last = label if label != last else NONE
        text += word
    return text, spans


@settings(max_examples=150, deadline=None)
@given(marked_texts())
def test_spans_become_labels_of_tokens_and_spans_again(marked: tuple[str, list[tuple[int, int, int]]]) -> None:
    text, spans = marked
    extents = extents_of(text)
    labels = labels_of_tokens(spans, extents, NONE)
    for (begin, end), label in zip(extents.tolist(), labels.tolist(), strict=True):
        mine = [number for number, a, b in spans if a <= begin < b]
        assert label == (NOWHERE if begin == end else mine[0] if mine else NONE)
    found = [(label, a, b) for label, _, a, b in spans_of_tokens(one_hot(labels.tolist()), extents, text)]
    assert found == spans


@pytest.mark.parametrize("seed", range(5))
def test_a_token_has_the_label_of_the_span_that_covers_half_of_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(0, 10, 12))
    spans = [(int(rng.integers(2)), *edges[i : i + 2].tolist()) for i in range(0, 12, 2)]
    extents = np.stack([np.arange(0, 10, 0.5), np.arange(0.5, 10.5, 0.5)], 1)
    expected = []
    for begin, end in extents:
        covered = [max(0.0, min(b, end) - max(a, begin)) for _, a, b in spans]
        best = int(np.argmax(covered))
        expected.append(best if covered[best] >= 0.25 else None)
    labels = [NONE if best is None else spans[best][0] for best in expected]
    for number, (label, a, b) in enumerate(spans):
        if number not in expected:  # too short for half of any
            overlaps = [max(0.0, min(b, end) - max(a, begin)) for begin, end in extents]
            labels[int(np.argmax(overlaps))] = label
    assert labels_of_tokens(spans, extents, NONE).tolist() == labels


def test_what_stands_at_one_place_speaks_with_one_voice() -> None:
    extents = np.array([[0.0, 0.0], [0, 0.1], [0, 0.1], [0.1, 0.2], [0.1, 0.2]])  # a class token, two bands
    p = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.3, 0, 0.7], [0.4, 0.6, 0], [0.5, 0.1, 0.4]])
    ((label, score, begin, end),) = spans_of_tokens(p, extents, None)
    assert (label, begin, end) == (0, 0.0, 0.2) and score == pytest.approx((0.6 + 0.45) / 2)
    assert list(spans_of_tokens(p[:1], extents[:1], "")) == []
    assert labels_of_tokens([(1, 0.02, 0.05)], extents, NONE).tolist() == [NOWHERE, 1, 1, NONE, NONE]


def test_a_row_gives_its_spans_in_order_and_without_space() -> None:
    row = {"text": TEXT, "spans": [*SPANS[::-1], {"label": "place", "start": 24, "end": len(TEXT)}]}
    (example,) = Tag.examples(INFO, {**row, "spans": [*SPANS[::-1]]})
    assert example.target.spans == [(1, 0, 3), (1, 8, 10), (0, 14, 22)] and example.target.text == TEXT
    (again,) = Tag.examples(INFO, {**row, "spans": json.dumps(SPANS)})  # as a cell of CSV holds it
    assert again.target.spans == example.target.spans
    (spaced,) = Tag.examples(INFO, {"text": TEXT, "spans": [[3, 8, "who"]]})
    assert TEXT[slice(*spaced.target.spans[0][1:])] == "met"
    assert Tag.examples(INFO, {"text": None, "spans": SPANS}) == [] == Tag.examples(INFO, {"text": TEXT, "spans": None})
    assert len(Tag.examples(INFO, {"text": TEXT, "spans": []})) == 1


@pytest.mark.parametrize(("spans", "says"), [
    ([[0, 99, "who"]], f"who from 0 to 99 is empty or outside the item of {len(TEXT)} characters"),
    ([[3, 3, "who"]], "is empty or outside"),
    ([[-1, 3, "who"]], "is empty or outside"),
    ([[0.5, 3, "who"]], "give start and end .exclusive. in characters"),
    ([[0, float("nan"), "who"]], "is empty or outside"),
    ([[0, 5, "who"], [4, 8, "place"]], "who from 0 to 5 and place from 4 to 8 overlap"),
    ([[0, 3, "when"]], "no label 'when'; it has place, who"),
    ([[0, 3]], "give a list of spans"),
    ([{"start": 0, "end": 3}], "give a list of spans"),
    ([[0, 3, None]], "give a list of spans"),
    ("who", "give a list of spans"),
    (3, "give a list of spans"),
])  # fmt: skip
def test_bad_spans_are_named(spans: Any, says: str) -> None:
    with pytest.raises(BadItem, match=says):
        Tag.examples(INFO, {"text": TEXT, "spans": spans})


def test_spans_of_a_sound_are_in_seconds(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, sound(0, 0.5)[0], 16_000)
    for item in (file, sound(0, 0.5)):
        (example,) = Tag.examples(INFO, {"audio": item, "spans": [[0.1, 0.3, "who"], [0.1 + 0.2, 0.51, "who"]]})
        assert len(example.target.spans) == 2  # a sum is not exact, and ends are rounded
        with pytest.raises(BadItem, match=r"from 100 to 300 is empty or outside the item of 0.5 seconds"):
            Tag.examples(INFO, {"audio": item, "spans": [[100, 300, "who"]]})
    with pytest.raises(BadItem, match="fill one of the columns"):
        Tag.examples(INFO, {"text": TEXT, "audio": file, "spans": []})


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(UnitxError, match="tags text and sound and cannot read picture:image"):
        small_model(TaskInfo("tag", "tag", {"picture": "image"}, "spans", ["a"]))
    with pytest.raises(UnitxError, match="'spans' has no span"):
        Tag.fit(INFO, open_source([{"text": TEXT, "spans": []}], INFO.reads))
    with pytest.raises(UnitxError, match="name the column"):
        Tag.fit(TaskInfo("tag", "tag", {"text": "text"}), open_source([{"text": TEXT}], {"text": "text"}))
    with pytest.raises(UnitxError, match=r"give a list of spans.*and so 2 of 2 cells"):
        Tag.fit(INFO, open_source([{"text": TEXT, "spans": "who"}] * 2, INFO.reads))


def test_labels_follow_the_part_that_was_cut() -> None:
    preparer = Preparer(small_model(INFO).processors)  # 12 tokens of a text, 0.64 s of a sound
    wave = np.random.default_rng(0).normal(size=32_000).astype(np.float32), 16_000
    rows = [{"text": TEXT, "audio": None, "spans": SPANS}, {"audio": wave, "spans": [[0.503, 0.897, "who"]]}]
    seen = set()
    for row in rows:
        feed = Feed(INFO, open_source([row], INFO.reads))
        for seed in range(20):
            (one,) = read_examples(preparer, feed, [(0, np.random.default_rng(seed))], 1.0, Tally())
            prepared = preparer.cut_drawn(one, one.rng)
            marked, ((modality, pieces),) = prepared.target, prepared.parts
            given = Tag.examples(INFO, row)[0].target.spans
            seen.add((modality, pieces.part))
            for (begin, end), label, value in zip(marked.extents, marked.labels, pieces.values, strict=True):
                middle = (begin + end) / 2
                inside = [number for number, a, b in given if a <= middle < b]
                assert label == (NOWHERE if begin == end else inside[0] if inside else NONE)
                if modality == "text" and label != NOWHERE:
                    assert int(value) in TEXT[begin:end].encode()
            assert Tag.count(INFO, [prepared]) == (marked.labels != NOWHERE).sum() > 0
            found = spans_of_tokens(one_hot(marked.labels.tolist()), marked.extents, marked.text)
            if modality == "text":
                assert [(label, a, b) for label, _, a, b in found] == marked.spans
    assert len(seen) > 10


def test_variation_of_a_sound_moves_nothing() -> None:
    preparer, row = Preparer(small_model(INFO).processors), {"audio": sound(0, 0.5), "spans": [[0.1, 0.3, "who"]]}
    feed = Feed(INFO, open_source([row], INFO.reads))
    plain, *varied = (
        next(read_examples(preparer, feed, [(0, np.random.default_rng(seed))], 1.0, Tally(), augment)).features[0][1]
        for seed, augment in enumerate([None, *[Augment("strong")] * 8])
    )
    assert all(each.shape == plain.shape and (each == plain).mean() > 0.2 for each in varied)
    assert any((each != plain).any() for each in varied)


@torch.no_grad()
def test_long_items_are_tagged_as_their_windows_are() -> None:
    model = small_model(INFO)
    text = TEXT * 3

    answers = told(model, text)
    assert all(span.text == text[span.start : span.end] and span.text.strip() == span.text for span in answers)
    processor, head = model.processors["text"], model.heads["tag"]
    ids = processor.features(text)
    logits = torch.cat([head.head(model.hidden_states([torch.from_numpy(ids[i : i + 12])])[0])
                        for i in range(0, len(ids), 12)])  # fmt: skip
    assert len(logits) == len(ids) > 100
    (extents,) = TextProcessor().extents(text, [TextProcessor().prepare(text)])
    expected = list(spans_of_tokens(logits.softmax(1).numpy(), extents, text))
    assert [(INFO.labels[label], a, b) for label, _, a, b in expected] == [(s.label, s.start, s.end) for s in answers]
    np.testing.assert_allclose([s.score for s in answers], [score for _, score, _, _ in expected], rtol=1e-4)
    surest = model.predict([text], "tag", top=2)[0]
    assert surest == sorted(sorted(answers, key=lambda span: -span.score)[:2], key=lambda span: span.start)
    of_sound = told(model, sound(0, 1.5))
    assert of_sound and of_sound[-1].end <= 1.51 and all(span.text is None for span in of_sound)


def test_items_of_any_kind_and_bad_ones(tmp_path: Path) -> None:
    model = small_model(INFO)
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    soundfile.write(tmp_path / "a.wav", sound(0)[0], 16_000)
    items = [TEXT, {"text": TEXT}, tmp_path / "a.txt", str(tmp_path / "a.wav"), {"audio": sound(0)}, {"audio": b"x"}]
    with pytest.warns(UserWarning, match="1 of 6 items could not be read"):
        found = model.predict(items, "tag", on_error="skip")
    assert found[0] == found[1] == found[2] != [] and found[5] == []
    assert [(s.label, s.start, s.end) for s in found[3]] == [(s.label, s.start, s.end) for s in found[4]]
    with pytest.raises(BadItem, match="fill one of the columns"):
        model.predict([{"text": TEXT, "audio": sound(0)}], "tag")
    with pytest.raises(UnitxError, match="does not predict labels"):
        model.predict_proba([TEXT], "tag")
    assert model.predict([], "tag") == []


@torch.no_grad()
def test_the_loss_is_the_mean_over_tokens() -> None:
    model = small_model(INFO, TaskInfo("kind", "classify", {"text": "text"}, "kind", ["a", "b"]))
    texts = ["abcdef", "été", "a longer text than is read"]
    rows = [("tag", {"text": text, "spans": [[0, 2, "who"]]}) for text in texts]
    batch = batch_with_tags(model, [*rows, ("kind", {"text": "other", "kind": "a"})])
    tokens, targets, head = model.encode(batch), batch.targets["tag"], model.heads["tag"]
    states = tokens.to_list()
    nats, right, count = 0.0, 0, 0
    for row, marked in enumerate(targets.values["marked"]):
        for vector, label in zip(states[row], marked.labels.tolist(), strict=True):
            if label != NOWHERE:
                p = head.head(vector).softmax(0)
                nats, right, count = nats - float(p[label].log()), right + (int(p.argmax()) == label), count + 1
    loss = head.loss(tokens, targets)
    assert float(loss.sum) == pytest.approx(nats, rel=1e-4) and targets.count == count == 6 + 5 + 11
    assert float(loss.metrics["accuracy"]) == right
    outputs = head.outputs(tokens, targets.rows)
    torch.testing.assert_close(outputs, torch.cat([head.head(states[row]) for row in range(3)]), rtol=1e-4, atol=1e-4)


def batch_with_tags(model: Model, rows: list[tuple[str, dict[str, Any]]]) -> Any:
    """As `batch_of`, by way of `Preparer.cut_drawn`."""
    preparer, prepared = Preparer(model.processors), []
    for task, row in rows:
        info = model.head(task).info
        feed = Feed(info, open_source([row], info.reads))
        for one in read_examples(preparer, feed, [(0, np.random.default_rng(0))], 1.0, Tally()):
            prepared.append((info, preparer.cut_drawn(one, None)))
    return preparer.batch(prepared)


def test_scores_are_those_of_scikit_learn_and_of_counted_spans() -> None:
    rng = np.random.default_rng(0)
    head, texts = small_model(INFO).heads["tag"], ["ab cd ef", "gh ij", "klm"]
    marked, outputs, right, found_all, there_all = [], [], 0, 0, 0
    for text in texts:
        extents = extents_of(text)
        labels = np.where(extents[:, 0] < extents[:, 1], rng.integers(0, 3, len(extents)), NOWHERE)
        said = rng.integers(0, 3, len(extents))
        there = [(label, a, b) for label, _, a, b in spans_of_tokens(one_hot(labels.tolist()), extents, text)]
        found = [(label, a, b) for label, _, a, b in spans_of_tokens(one_hot(said.tolist()), extents, text)]
        right += sum(span in there for span in found)
        found_all, there_all = found_all + len(found), there_all + len(there)
        marked.append(Marked(there, text, extents, labels))
        outputs.append(torch.from_numpy(10 * one_hot(said.tolist())).float())
    targets = Tag.collate(INFO, marked)
    scores = head.score(torch.cat(outputs), targets)
    judged = (targets["labels"] >= 0).numpy()
    truth, answers = targets["labels"].numpy()[judged], torch.cat(outputs).argmax(1).numpy()[judged]
    rates = []
    for label in range(2):
        hits = ((truth == label) & (answers == label)).sum()
        rates.append((hits, (truth == label).sum(), (answers == label).sum()))
    hits, support, said_all = np.array(rates).T
    assert scores["macro_f1"] == pytest.approx((2 * hits / (support + said_all)).mean())
    assert scores["f1"] == pytest.approx(2 * hits.sum() / (support.sum() + said_all.sum()))
    assert scores["f1"] == pytest.approx(f1_score(truth, answers, labels=[0, 1], average="micro"))
    assert 0 < right < there_all
    assert scores["span_f1"] == pytest.approx(2 * right / (found_all + there_all))


def test_right_answers_have_scores_of_one_and_sounds_no_spans() -> None:
    model = small_model(INFO)
    batch = batch_with_tags(model, [("tag", {"audio": sound(0, 0.5), "spans": [[0.1, 0.31, "who"]]})])
    targets = batch.targets["tag"].values
    outputs = torch.nn.functional.one_hot(targets["labels"].clamp(min=0), 3).float()
    assert model.heads["tag"].score(outputs, targets) == pytest.approx({"f1": 1.0, "macro_f1": 0.5})  # no place there


def test_a_run_learns_tags_by_heart(tmp_path: Path) -> None:
    table = tmp_path / "mine.jsonl"
    cities = ["Rome", "New York", "Øresund", "東京"]
    rows = []
    for i, (city, who) in enumerate(product(cities, ("Zoë", "Ann Lee", "李雷"))):
        text = f"{'then ' * (i % 3)}{city} saw {who}"
        named = {"place": city, "who": who}
        spans = [{"label": k, "start": text.index(v), "end": text.index(v) + len(v)} for k, v in named.items()]
        rows.append({"text": text, "spans": spans})
    bad = [{"text": "Rome", "spans": [[0, 9, "place"]]}, {"text": "Rome", "spans": [[0, 3, "place"], [2, 4, "who"]]}]
    lines = [json.dumps(row) for row in [*rows, *bad]]
    table.write_text("\n".join(lines))
    given = {"data": str(table), "reads": "text", "label": "spans", "model.depth": 2, "model.dim": 64}
    run = unitx.train("tag", steps=50, holdout=0.0, batch_tokens=256, evaluations=1, out=str(tmp_path / "run"),
                      precision="fp32", echo=False, **given)  # fmt: skip
    report = unitx.evaluate(tmp_path / "run", str(table))
    assert report.scores == pytest.approx({"f1": 1, "macro_f1": 1, "span_f1": 1})
    assert report.scored == len(rows) and len(report.skipped) == 2 and "overlap" in report.skipped[1]
    assert [(s.label, s.text) for s in told(run.model, "New York saw Ann Lee")] == [
        ("place", "New York"), ("who", "Ann Lee"),
    ]  # fmt: skip


def test_a_report_shows_what_was_found_and_what_is_there(tmp_path: Path) -> None:
    model = small_model(INFO)
    model.save_pretrained(tmp_path / "model")
    rows = [{"audio": sound(i, 0.5), "text": None, "spans": [[0.1, 0.3, "who"]]} for i in range(3)]
    rows += [{"audio": None, "text": TEXT * 2, "spans": SPANS}]
    report = unitx.evaluate(tmp_path / "model", rows)
    assert set(report.scores) == {"f1", "macro_f1", "span_f1"} and report.shortened == {"text": 1}
    assert (tmp_path / "model" / "evaluation" / "report.png").stat().st_size > 5_000
    assert set(unitx.evaluate(model, rows[:3], reads={"audio": "audio"}).scores) == {"f1", "macro_f1"}
    head = model.heads["tag"]
    assert head.draw(sound(0, 0.5), told(model, sound(0, 0.5))).height == 268
    with pytest.raises(UnitxError, match="cannot draw PIL image"):
        head.draw(picture(0), [])


def test_two_columns_of_texts_are_reported(tmp_path: Path) -> None:
    info = TaskInfo("tag", "tag", {"title": "text", "body": "text"}, "spans", ["cat"])
    folder = small_model(info).save_pretrained(tmp_path / "model")
    spans = [{"label": "cat", "start": 2, "end": 5}]
    rows = [{"title": None, "body": "a cat", "spans": spans}, {"title": "A cat.", "body": None, "spans": spans}]
    scored = unitx.evaluate(folder, rows, folder=tmp_path / "report")
    assert set(scored.scores) == {"f1", "macro_f1", "span_f1"} and (tmp_path / "report" / "report.png").is_file()
