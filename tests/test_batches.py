"""Batches: which rows a step sees, what becomes of bad items, and that targets point to the right sequences."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import LANGUAGES, captioned, colour_folder, stamp_folder, text_rows, write_csv
from torch import Tensor

import unitx
from unitx.augment import Augment
from unitx.batches import Evaluation, Feed, Preparer, Steps, Tally, data_loader, plan_rows, stretch_epochs
from unitx.config import BackboneConfig
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor
from unitx.tokens import Batch, Prepared

PREPARER = Preparer({"image": ImageProcessor(max_tokens=4, patch=8), "text": TextProcessor(max_tokens=32)})


def text_feed(count: int = 10, rows: int = 3, name: str = "topic") -> Feed:
    info = TaskInfo(name, "classify", {"text": "text"}, "label", ["blue", "green", "red"])
    return Feed(info, open_source(text_rows(count), info.reads, "label"), rows)


def picture_feed(root: Path, rows: int = 4, each: int = 4, name: str = "colour") -> Feed:
    info = TaskInfo(name, "classify", {"image": "image"}, "label", ["blue", "green", "red"])
    return Feed(info, open_source(str(colour_folder(root, each)), info.reads, "label"), rows)


def steps(feeds: list[Feed], **given: Any) -> Steps:
    return Steps(PREPARER, feeds, **{"progress": 10, "augment": Augment("none"), **given})


def texts_of(batch: Batch) -> list[str]:
    """The texts in a batch of texts alone, in packed order, cut to the tokens that they were given."""
    ids = batch.layout.ids.split(batch.layout.lengths)
    return [bytes(i for i in part.tolist() if i < 256).decode() for part in ids]


def same(left: Any, right: Any) -> bool:
    """Whether two batches are equal to the last bit."""
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Batch):
        a, b = left.layout, right.layout
        parts = [(getattr(a, n), getattr(b, n)) for n in ("lengths", "prefix", "order", "positions", "modality", "ids")]
        parts += [(left.values, right.values), (left.counts, right.counts), (left.order, right.order)]
        return all(same(x, y) for x, y in [*parts, (left.targets, right.targets)])
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(x, y) for x, y in zip(left, right, strict=True))
    return left == right


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own():
    feed = text_feed(10, rows=5)
    seen = [texts_of(batch) for step in range(4) for batch in steps([feed])[step].batches]
    epochs = [seen[0] + seen[1], seen[2] + seen[3]]
    cut = [row["text"][:30] for row in text_rows(10)]
    assert all(sorted(epoch) == sorted(cut) for epoch in epochs)
    orders = [[int(t.split()[0]) for step in pair for t in rows_in_order(feed, step)] for pair in ((0, 1), (2, 3))]
    assert orders[0] != orders[1]


def rows_in_order(feed: Feed, step: int, **given: Any) -> list[str]:
    """The texts of a step in the order in which they were drawn."""
    (batch,), _ = steps([feed], **given)[step]
    packed = texts_of(batch)
    return [packed[i] for i in batch.layout.inverse]


def test_the_order_depends_on_the_seed_and_on_nothing_before():
    feed = text_feed(10, rows=4)
    through = [rows_in_order(feed, step) for step in range(6)]
    assert rows_in_order(text_feed(10, rows=4), 5) == through[5]
    assert [rows_in_order(feed, step, seed=1) for step in range(6)] != through
    # 4 rows a step over 10 rows: the third step ends the first epoch and begins the second.
    flat = [row for step in through for row in step]
    assert len(set(flat[:10])) == 10 and len(set(flat[10:20])) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_going_on_from_a_step_gives_the_batches_of_running_through(tmp_path: Path, workers: int):
    feeds = [picture_feed(tmp_path / "photos"), text_feed()]
    made = {"augment": Augment("strong"), "accumulate": 2}
    through = list(data_loader(steps(feeds, **made), range(6), 0))
    later = list(data_loader(steps(feeds, **made), range(3, 6), workers))
    assert all(same(a, b) for a, b in zip(through[3:], later, strict=True))
    assert not same(through[0], through[3])


def test_workers_change_nothing(tmp_path: Path):
    feeds = [picture_feed(tmp_path / "photos"), text_feed()]
    alone = list(data_loader(steps(feeds, augment=Augment("light")), range(4), 0))
    shared = list(data_loader(steps(feeds, augment=Augment("light")), range(4), 2))
    assert len(alone) == 4 and all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_the_loader_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(data_loader(steps([text_feed()]), range(2), workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_rows_of_a_step(world: int):
    feeds = [text_feed(10, 7), text_feed(8, 4, "other")]
    for step in range(3):
        (one,), _ = steps(feeds)[step]
        parts = [batch for rank in range(world) for batch in steps(feeds, rank=rank, world_size=world)[step].batches]
        assert Counter(texts_of(one)) == Counter(text for part in parts for text in texts_of(part))
        for name in ("topic", "other"):
            assert one.targets[name].count == sum(part.targets[name].count for part in parts)


@pytest.mark.parametrize(("rows", "accumulate"), [(9, 4), (17, 8), (10, 3)])
def test_processes_with_unequal_shares_make_as_many_micro_batches(rows: int, accumulate: int):
    feed = text_feed(20, rows)
    made = [steps([feed], rank=rank, world_size=2, accumulate=accumulate)[0].batches for rank in range(2)]
    assert [len(batches) for batches in made] == [accumulate, accumulate]


@pytest.mark.parametrize("accumulate", [1, 2, 3, 20])
def test_micro_batches_hold_the_same_sequences(accumulate: int):
    feeds = [text_feed(10, 7), text_feed(8, 4, "other")]
    (one,), _ = steps(feeds)[1]
    parts, _ = steps(feeds, accumulate=accumulate)[1]
    assert len(parts) == {1: 1, 2: 2, 3: 3, 20: 11}[accumulate]
    assert Counter(texts_of(one)) == Counter(text for part in parts for text in texts_of(part))
    for name, targets in one.targets.items():
        assert targets.count == sum(p.targets[name].count for p in parts if name in p.targets)


def test_targets_point_to_their_sequences_in_a_mixed_batch(tmp_path: Path):
    rows = captioned(tmp_path / "photos", each=5)
    labels = ["blue", "green", "red"]
    both = TaskInfo("both", "classify", {"image": "image", "text": "text"}, "label", labels)
    read = TaskInfo("read", "classify", {"text": "text"}, "label", labels)
    write = TaskInfo("write", "next_token", {"text": "text"})
    align = TaskInfo("align", "align", {"image": "image", "text": "text"}, "label", labels)
    feeds = [Feed(info, open_source(rows, info.reads, info.label), 6) for info in (both, read, write, align)]
    (batch,), _ = steps(feeds)[0]
    layout = batch.layout
    assert set(batch.targets) == {"both", "read", "write", "align"}
    claimed = [row for targets in batch.targets.values() for row in targets.rows.tolist()]
    assert sorted(claimed) == list(range(len(layout))) and len(layout) == 6 + 6 + 6 + 12

    ends = np.cumsum(layout.lengths)
    word = {row["text"][:30]: row["label"] for row in rows}
    checked = Counter()
    for name, targets in batch.targets.items():
        for place, row in enumerate(targets.rows.tolist()):
            tokens = slice(int(ends[row]) - layout.lengths[row], int(ends[row]))
            ids, kinds = layout.ids[tokens].tolist(), layout.modality[tokens].tolist()
            text = bytes(i for i in ids if 0 <= i < 256).decode()
            assert layout.prefix[row] == (0 if name == "write" else layout.lengths[row])
            if name == "both":
                assert kinds == sorted(kinds) and set(kinds) == {0, 1}
            if name in ("both", "read"):
                assert labels[int(targets.values[place].argmax())] == word[text]
            if name == "align":
                view, concept = int(targets.values["view"][place]), int(targets.values["concept"][place])
                assert set(kinds) == {view}
                if view == 1:
                    assert labels[concept] == word[text]
            checked[name] += 1
    assert checked == {"both": 6, "read": 6, "write": 6, "align": 12}
    predicted = sum(layout.lengths[row] - 1 for row in batch.targets["write"].rows.tolist())
    assert batch.targets["write"].count == predicted


def test_the_pixels_of_a_mixed_batch_belong_to_their_sequences(tmp_path: Path):
    feeds = [picture_feed(tmp_path / "photos", rows=6), text_feed(10, 6)]
    (batch,), _ = steps(feeds)[0]
    tokens = [int(m) for m in batch.layout.modality.split(batch.layout.lengths) for m in m[:1]]
    pictures = batch.values["image"].split(batch.counts["image"])
    order = {row: n for n, row in enumerate(row for row, kind in enumerate(tokens) if kind == 0)}
    targets = batch.targets["colour"]
    for row, value in zip(targets.rows.tolist(), targets.values, strict=True):
        red, green, blue = pictures[order[row]].reshape(-1, 3).mean(0).tolist()  # the channel stands last in a patch
        assert int(value.argmax()) == int(np.argmax([blue, green, red]))


@pytest.mark.parametrize("budget", [60, 200, 1_000])
def test_a_step_has_about_the_tokens_that_were_asked_for(tmp_path: Path, budget: int):
    feeds = [picture_feed(tmp_path / "photos"), text_feed(30)]
    feeds[1].info = replace(feeds[1].info, weight=3.0)
    plan_rows(PREPARER, feeds, budget)
    tokens = {"colour": [], "topic": []}
    for step in range(5):
        (batch,), _ = steps(feeds)[step]
        for name, targets in batch.targets.items():
            tokens[name].append(sum(batch.layout.lengths[row] for row in targets.rows.tolist()))
    whole = np.mean(tokens["colour"]) + np.mean(tokens["topic"])
    longest = 32  # rounding to whole rows, of each task
    assert abs(whole - budget) <= longest
    assert abs(np.mean(tokens["topic"]) - 0.75 * budget) <= longest / 2 + 2


@pytest.mark.parametrize(("count", "before", "after"), [(119, 564, 8), (1_000, 400, 50), (30, 300, 8), (900, 45, 45)])
def test_few_data_take_twenty_steps_an_epoch(count: int, before: int, after: int):
    feed = text_feed(count, before)
    stretch_epochs([feed])
    assert feed.rows == after


def test_few_data_keep_the_tasks_shares_and_the_pairs_of_a_step():
    feeds = [text_feed(1_000, 600), text_feed(1_000, 200, "again")]
    stretch_epochs(feeds)
    assert [feed.rows for feed in feeds] == [150, 50]  # the longer task takes twenty steps
    info = TaskInfo("pairs", "align", {"left": "text", "right": "text"})
    pairs = Feed(info, open_source([{"left": "a", "right": "b"}] * 300, info.reads), 292)
    stretch_epochs([pairs])
    assert pairs.rows == 128
    few = Feed(info, open_source([{"left": "a", "right": "b"}] * 72, info.reads), 292)
    stretch_epochs([few])
    assert few.rows == 72


def test_made_data_are_never_few():
    info = TaskInfo("emoji", "align", {"image": "image", "text": "text"}, "concept", ["one"])
    made = Feed(info, open_source({"world": "emoji", "concepts": 5}), 186)
    stretch_epochs([made])
    assert made.rows == 186


def test_recorded_data_in_parts_are_few_where_they_are(tmp_path: Path):
    """Stamps have parts as made data have, and no new rows in a new epoch."""
    world = {"world": "stamps", "folder": str(stamp_folder(tmp_path)), "rows": "names", "languages": LANGUAGES}
    source = open_source(world)
    recorded = Feed(TaskInfo("language", "classify", {"text": "text"}, "language", LANGUAGES), source, 22)
    stretch_epochs([recorded])
    assert recorded.rows == 8


def bad_pictures(root: Path) -> tuple[Feed, list[str]]:
    """A feed of 12 pictures of which one is missing, one truncated and one empty, and their names."""
    rows = captioned(root, each=4)
    Path(rows[1]["image"]).unlink()
    whole = Path(rows[5]["image"]).read_bytes()
    Path(rows[5]["image"]).write_bytes(whole[: len(whole) // 2])
    Path(rows[9]["image"]).write_bytes(b"")
    info = TaskInfo("colour", "classify", {"image": "image"}, "label", ["blue", "green", "red"])
    return Feed(info, open_source(rows, info.reads, "label"), 12), [rows[i]["image"] for i in (1, 5, 9)]


def test_bad_items_are_left_out_and_named(tmp_path: Path):
    feed, names = bad_pictures(tmp_path / "photos")
    (batch,), tally = steps([feed])[0]
    assert len(batch.layout) == 9 and tally.items == 9
    assert len(tally.skipped) == 3 and all("\n" not in line for line in tally.skipped)
    assert all(sum(name in line for line in tally.skipped) == 1 for name in names)
    plan_rows(PREPARER, [feed], 36)
    assert feed.rows == 9  # a bad row has no length


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_of_bad_items_alone_still_reports_them(tmp_path: Path, workers: int):
    feed, names = bad_pictures(tmp_path / "photos")
    feed.rows = 1
    found = list(data_loader(steps([feed]), range(12), workers))
    assert sum(len(batch.layout) for step in found for batch in step.batches) == 9
    skipped = [line for step in found for line in step.tally.skipped]
    assert len(skipped) == 3 and all(any(name in line for line in skipped) for name in names)


def test_nothing_but_bad_items_is_an_error_that_names_one(tmp_path: Path):
    feed, _ = bad_pictures(tmp_path / "photos")
    for file in (tmp_path / "photos").rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(UnitxError, match=r"task 'colour'.*photos.*png") as error:
        plan_rows(PREPARER, [feed], 64)
    assert "\n" not in str(error.value)


def test_rows_without_a_known_label_alone_are_an_error():
    feed = text_feed()
    feed.info = replace(feed.info, labels=["square", "round"])
    with pytest.raises(UnitxError, match=r"topic.*label"):
        plan_rows(PREPARER, [feed], 64)


def test_what_is_shortened_is_counted():
    feed = text_feed(10, rows=10)
    preparer = Preparer({"text": TextProcessor(max_tokens=24)})
    (batch,), tally = Steps(preparer, [feed], progress=1, augment=Augment("none"))[0]
    longer = sum(len(row["text"].encode()) + 2 > 24 for row in text_rows(10))
    assert 0 < longer < 10 and tally.shortened == {"text": longer}
    assert max(batch.layout.lengths) == 24


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_evaluation_goes_through_all_rows_in_order_and_unvaried(tmp_path: Path, rows: int):
    feed = picture_feed(tmp_path / "photos", rows)
    dataset = Evaluation(PREPARER, feed)
    values = torch.cat([batch.targets["colour"].values for batch in (dataset[i] for i in range(len(dataset)))])
    assert values.argmax(-1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    again = dataset[0]
    assert same(dataset[0], again) and len(dataset) == -(-12 // rows)


def test_variation_differs_by_epoch_and_repeats_by_seed(tmp_path: Path):
    feed = picture_feed(tmp_path / "photos", rows=12)
    made = {"augment": Augment("light"), "progress": 1}
    first, second, again = (steps([feed], **made)[step].batches[0] for step in (1, 2, 1))
    assert same(first, again) and not torch.equal(first.values["image"].sort(0)[0], second.values["image"].sort(0)[0])


def test_strength_grows_over_the_run_or_by_the_clock():
    assert [steps([text_feed()], progress=4).strength(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    clock = torch.zeros(1).share_memory_()
    told = steps([text_feed()], progress=clock)
    clock.fill_(0.5)
    assert told.strength(0) == 0.5


def small_model(feeds: list[Feed]) -> Model:
    return Model(BackboneConfig(dim=16, depth=1, heads=2), PREPARER.processors, [feed.info for feed in feeds])


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_loader_covers_each_epoch_exactly(epoch: int):
    feed = text_feed(10)
    model = small_model([feed])
    found = list(unitx.loader(model, text_rows(10), batch_tokens=100, workers=0, epoch=epoch))
    texts = [text for batch in found for text in texts_of(batch)]
    assert len(found) == 3 and sorted(texts) == sorted(row["text"][:30] for row in text_rows(10))


def test_loader_names_a_column_that_is_not_there_before_it_reads(tmp_path: Path):
    model = small_model([text_feed()])
    rows = [{"text": "a", "topic": "red"}, {"text": "b", "topic": "blue"}]
    with pytest.raises(UnitxError, match=r"has no column 'label'.*it has: text, topic"):
        next(unitx.loader(model, rows))
    files = [{"text": f"{name}.jpg", "label": name} for name in ("red", "blue")]
    with pytest.raises(UnitxError, match="'text' is read as text but"):
        next(unitx.loader(model, files))


def test_loader_repeats_the_smaller_of_two_tasks():
    feeds = [text_feed(name="topic"), text_feed(name="other")]
    model = small_model(feeds)
    data = {"topic": text_rows(12), "other": text_rows(3, seed=5)}
    found = list(unitx.loader(model, data, batch_tokens=240, workers=0))
    counts = {name: sum(batch.targets[name].count for batch in found) for name in data}
    assert counts["topic"] == 12 and counts["other"] >= 3


def test_loader_in_a_loop_of_ones_own_learns():
    model = small_model([text_feed()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for epoch in range(8):
        for batch in unitx.loader(model, text_rows(30), batch_tokens=256, workers=0, epoch=epoch):
            loss, metrics = model(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert set(metrics) == {"topic/loss", "topic/accuracy"}
    assert np.mean(losses[-3:]) < 0.6 * losses[0]


def test_a_plain_script_needs_no_main_guard(tmp_path: Path):
    data = write_csv(tmp_path / "rows.csv", text_rows(12))
    script = tmp_path / "loop.py"
    script.write_text(f"""
import unitx
from unitx.config import BackboneConfig
from unitx.task import TaskInfo
from unitx.tokenizers.text import TextProcessor

print("begun")
info = TaskInfo("topic", "classify", {{"text": "text"}}, "label", ["blue", "green", "red"])
model = unitx.Model(BackboneConfig(dim=16, depth=1, heads=2), {{"text": TextProcessor(max_tokens=32)}}, [info])
rows = 0
for batch in unitx.loader(model, {str(data)!r}, batch_tokens=128, workers=2):
    loss, metrics = model(batch)
    loss.backward()
    rows += batch.targets["topic"].count
print("rows", rows)
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["begun", "rows", "12"]


def test_a_batch_without_a_tally_has_an_empty_one():
    pieces = TextProcessor().prepare("a word")
    info = TaskInfo("write", "next_token", {"text": "text"})
    batch = PREPARER.batch([(info, Prepared([("text", pieces)], None, 0))])
    assert batch.tally == Tally()


@pytest.mark.parametrize("accumulate", [2, 3])
def test_what_one_row_gives_stays_in_one_micro_batch(tmp_path: Path, accumulate: int):
    rows = captioned(tmp_path / "photos", each=3)
    info = TaskInfo("pairs", "align", {"image": "image", "text": "text"})
    parts, _ = steps([Feed(info, open_source(rows, info.reads), 7)], accumulate=accumulate)[0]
    views = [part.targets["pairs"].values["view"].tolist() for part in parts]
    assert len(parts) == accumulate and sum(map(len, views)) == 14
    assert all(view == [0, 1] * (len(view) // 2) for view in views)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 0), (2, 1, 0), (8, 1, 3), (64, 1, 4), (16, 4, 1)])
def test_workers_are_as_many_as_the_process_has_cores_to_spare(
    cores: int, processes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "cpu_count", lambda: 256)  # of the whole machine, of which this process may have a share
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert data_loader(steps([text_feed()]), range(2), None).num_workers == workers


def test_pairs_are_told_from_many_others_and_named_concepts_need_none() -> None:
    rows = [{"left": f"text {i}", "right": f"other {i}", "concept": f"{i % 9}"} for i in range(300)]
    info = TaskInfo("pairs", "align", {"left": "text", "right": "text"})
    named = replace(info, label="concept", labels=[str(i) for i in range(9)])
    pairs, concepts = (Feed(one, open_source(rows, one.reads, one.label)) for one in (info, named))
    plan_rows(PREPARER, [pairs], 200)
    plan_rows(PREPARER, [concepts], 200)
    assert pairs.rows == 128 and concepts.rows < 20
    plan_rows(PREPARER, [pairs], 8_000)
    assert pairs.rows > 200  # at least as many, not just as many
    plan_rows(PREPARER, [pairs], 200, accumulate=4)
    plan_rows(PREPARER, [concepts], 200, accumulate=4)
    assert pairs.rows == 4 * 128 and concepts.rows < 20  # in each micro-batch, where the others are
