"""From rows to ragged batches: which rows a step sees, how they are prepared, and the workers that do it.

The order of the data is a pure function of (seed, epoch), what is random about an item of (seed, epoch, item), so a run
can go on from any step by its number alone. A step takes a fixed number of rows of each task, chosen so that a step has
about `batch_tokens` tokens.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from unitx.augment import Augment, mix_pictures
from unitx.columns import check_columns
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.media import DECODERS
from unitx.registry import TASKS
from unitx.source import Source, is_recorded, is_stream, read_rows
from unitx.task import TaskInfo
from unitx.tokenizer import Processor
from unitx.tokens import Batch, Example, Pieces, Prepared, Targets, collate
from unitx.writing import TEXT, begun

if TYPE_CHECKING:
    from unitx.model import Model

TRAINING, EVALUATION = 0, 1  # parts of the random streams
SAMPLED = 32  # rows of a task whose lengths tell how many a step takes
FEWEST_STEPS, FEWEST_ROWS = 20, 8  # an epoch's steps, and a step's rows, where few data would take fewer
AT_ONCE = 64  # rows that are read together: enough to share the work, few enough for long recordings to fit in memory


@dataclass
class Feed:
    """One task with its rows, and how many of them a step takes."""

    info: TaskInfo
    source: Source
    rows: int = 1


@dataclass
class Tally:
    """Counts of a batch's items, to be reported; `rows` are those that an evaluation's sequences came from."""

    items: int = 0
    shortened: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.items += other.items
        self.shortened.update(other.shortened)
        self.skipped += other.skipped
        self.rows += other.rows


@dataclass(frozen=True)
class Preparer:
    """Turns examples into batches with a model's processors; goes to the workers, carries no weights.

    Attributes:
        prefix_parts: `Model.prefix_parts`, for the tasks that do not say who sees whom.
    """

    processors: dict[str, Processor]
    prefix_parts: int | None = None

    @property
    def modalities(self) -> list[str]:
        return sorted(self.processors)

    def read(self, examples: Sequence[Example]) -> list[list[tuple[str, Any]] | BadItem]:
        """Decode the items of examples: the (modality, raw) pairs of each, or what is wrong with it.

        Files are decoded in threads.
        """
        in_files = any(isinstance(item, Path) for example in examples for _, item in example.parts)
        if not in_files or get_worker_info() is not None:
            return [self._read(example) for example in examples]
        with ThreadPoolExecutor(DECODERS) as threads:
            return list(threads.map(self._read, examples))

    def _read(self, example: Example) -> list[tuple[str, Any]] | BadItem:
        try:
            return [(modality, self.processors[modality].read_alone(item)) for modality, item in example.parts]
        except BadItem as error:
            return error

    def features(self, read: Sequence[list[tuple[str, Any]]]) -> list[list[tuple[str, Any]]]:
        """The features of what `read` gave, for many examples: each modality's in one call."""
        raws: dict[str, list[Any]] = {}
        for parts in read:
            for modality, raw in parts:
                raws.setdefault(modality, []).append(raw)
        found = {modality: iter(self.processors[modality].features_of(items)) for modality, items in raws.items()}
        return [[(modality, next(found[modality])) for modality, _ in parts] for parts in read]

    def cut(self, example: Example, features: list[tuple[str, Any]], rng: np.random.Generator | None) -> Prepared:
        """Pieces of at most `max_tokens` from each part's features."""
        if example.prefix_parts:  # what an answer stands behind is read from its beginning, as it will be asked
            rng = None
        parts = [(modality, self.processors[modality].cut(values, rng)) for modality, values in features]
        prefix = self.prefix_parts if example.prefix_parts is None else example.prefix_parts
        return Prepared(parts, example.target, prefix)

    def windows(self, features: list[tuple[str, Any]]) -> list[list[tuple[str, Pieces]]]:
        """The parts of all sequences that an item needs; of several items together one, of the beginning of each."""
        if len(features) == 1:
            ((modality, values),) = features
            return [[(modality, pieces)] for pieces in self.processors[modality].windows(values)]
        return [[(modality, self.processors[modality].cut(values)) for modality, values in features]]

    def cut_drawn(self, one: Drawn, rng: np.random.Generator | None) -> Prepared:
        """`cut`, without what the task hides."""
        task, prepared = TASKS.get(one.info.kind), self.cut(one.example, one.features, rng)
        if task.tags:
            ((modality, item),), ((_, pieces),) = one.example.parts, prepared.parts
            (prepared.extents,) = self.processors[modality].extents(item, [pieces])
        return task.hide(one.info, prepared, one.rng)

    def batch(self, prepared: Sequence[tuple[TaskInfo, Prepared]], tally: Tally | None = None) -> Batch:
        """One ragged batch of the sequences of any tasks."""
        batch = collate([example for _, example in prepared], self.modalities)
        inverse = np.array(batch.layout.inverse)
        for name in {info.name: None for info, _ in prepared}:
            places = [i for i, (info, _) in enumerate(prepared) if info.name == name]
            info, examples = prepared[places[0]][0], [prepared[i][1] for i in places]
            task = TASKS.get(info.kind)
            values = task.collate(info, [example.target for example in examples])
            batch.targets[name] = Targets(torch.from_numpy(inverse[places]), values, task.count(info, examples))
        batch.tally = tally or Tally()
        return batch


class Drawn(NamedTuple):
    """One sequence that is read, not yet cut: its (modality, raw item or features) pairs, and the row it is from."""

    row: int
    rng: np.random.Generator
    info: TaskInfo
    example: Example
    features: list[tuple[str, Any]]


def read_examples(
    preparer: Preparer,
    feed: Feed,
    rows: Sequence[tuple[int, np.random.Generator]],
    strength: float,
    tally: Tally,
    augment: Augment | None = None,
) -> Iterator[Drawn]:
    """The sequences that a task makes of some of its rows, read and varied; bad ones are noted and left out.

    Args:
        rows: pairs of a row's number and the generator that all its variation is drawn with.
    """
    task = TASKS.get(feed.info.kind)
    for first in range(0, len(rows), AT_ONCE):
        examples = list(_examples(feed, rows[first : first + AT_ONCE], strength, tally))
        drawn: list[Drawn] = []
        read = preparer.read([example for *_, example in examples])
        for (index, rng, example), parts in zip(examples, read, strict=True):
            if isinstance(parts, BadItem):
                tally.skipped.append(str(parts))
                continue
            if augment:
                example, parts = task.vary(example, parts, augment, rng, strength)
            drawn.append(Drawn(index, rng, feed.info, example, parts))
        for one, values in zip(drawn, preparer.features([one.features for one in drawn]), strict=True):
            if augment:
                values = [(modality, augment.features(modality, v, one.rng, strength)) for modality, v in values]
            if task.writes:
                text: Any = preparer.processors[TEXT]
                values[-1] = (TEXT, text.framed(values[-1][1]))
            yield one._replace(features=values)


def _examples(
    feed: Feed, rows: Sequence[tuple[int, np.random.Generator]], strength: float, tally: Tally
) -> Iterator[tuple[int, np.random.Generator, Example]]:
    made = read_rows(feed.source, [index for index, _ in rows], [rng for _, rng in rows], strength)
    for (index, rng), row in zip(rows, made, strict=True):
        try:
            if isinstance(row, BadItem):
                raise row
            for example in TASKS.get(feed.info.kind).examples(feed.info, row):
                yield index, rng, example
        except BadItem as error:
            tally.skipped.append(str(error))


class Step(NamedTuple):
    """What one training step sees: micro-batches (none where no row could be read), and what to report of its items."""

    batches: list[Batch]
    tally: Tally


class Steps(Dataset):
    """Training step → its micro-batches. A process takes every `world_size`-th row of a step, whichever its task is,
    beginning with `rank`, so that the processes together see what one alone would.

    Args:
        progress: () float tensor in shared memory, the share of the run that is done, where it is told by the clock; or
            the number of steps of the run.
    """

    def __init__(
        self,
        preparer: Preparer,
        feeds: list[Feed],
        *,
        progress: torch.Tensor | int,
        augment: Augment,
        seed: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.preparer, self.feeds = preparer, feeds
        self.progress, self.augment = progress, augment
        self.seed, self.accumulate = seed, accumulate
        self.rank, self.world_size = rank, world_size

    def strength(self, step: int) -> float:
        """How strong the variation is at a step: it grows linearly over the run."""
        if isinstance(self.progress, int):
            return min(1.0, step / max(self.progress, 1))
        return float(self.progress)

    def places(self, feed: Feed, step: int) -> range:
        """Which rows of a task a step takes, over all processes, counted over all epochs."""
        return range(step * feed.rows, (step + 1) * feed.rows)

    def __getitem__(self, step: int) -> Step:
        tally = Tally()
        drawn: list[Drawn] = []
        strength = self.strength(step)
        before = 0  # rows of the tasks before
        for number, feed in enumerate(self.feeds):
            places = self.places(feed, step)
            mine = places[(self.rank - before) % self.world_size :: self.world_size]
            before += len(places)
            rows = [self._row(number, feed, place) for place in mine]
            drawn += read_examples(self.preparer, feed, rows, strength, tally, self.augment)
        tally.items = sum(len(one.features) for one in drawn)
        rng = np.random.default_rng([self.seed, TRAINING, step])
        if self.augment.level == "strong" and rng.random() < strength:
            _mix(drawn, rng)
        prepared = [(one.info, self.preparer.cut_drawn(one, one.rng)) for one in drawn]
        for _, example in prepared:
            tally.shortened.update(modality for modality, pieces in example.parts if pieces.shortened)
        # The sequences of a row stay together: those of a pair are each other's answers.
        pairs = zip(drawn, prepared, strict=True)
        of_rows = [list(found) for _, found in groupby(pairs, lambda pair: (pair[0].info.name, pair[0].row))]
        # As many as asked for, so that all processes have as many, whether or not they have equally many rows.
        count = min(self.accumulate, len(of_rows))
        cuts = [len(of_rows) * i // count for i in range(count + 1)] if count else []
        parts = [of_rows[a:b] for a, b in pairwise(cuts)]
        return Step([self.preparer.batch([found for _, found in chain(*part)]) for part in parts], tally)

    def _row(self, number: int, feed: Feed, place: int) -> tuple[int, np.random.Generator]:
        """The `place`-th row that a task sees, counted over all epochs, and its own random numbers."""
        epoch, within = divmod(place, len(feed.source))
        ordered = is_stream(feed.source)  # which counts on over the epochs
        index = place if ordered else int(_order(self.seed, number, epoch, len(feed.source))[within])
        return index, np.random.default_rng([self.seed, TRAINING, number, epoch, index])


class Epochs(Steps):
    """Steps that begin anew with every epoch: the rows of the task that takes most steps come once each in it."""

    @property
    def count(self) -> int:
        """Steps an epoch."""
        return max(-(-len(feed.source) // feed.rows) for feed in self.feeds)

    def places(self, feed: Feed, step: int) -> range:
        epoch, within = divmod(step, self.count)
        rows = len(feed.source)
        taken = rows if -(-rows // feed.rows) == self.count else self.count * feed.rows
        first = epoch * taken + within * feed.rows
        return range(first, min(first + feed.rows, (epoch + 1) * taken))


@lru_cache(maxsize=64)
def _order(seed: int, number: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, number, epoch]).permutation(rows)


def _mix(drawn: list[Drawn], rng: np.random.Generator) -> None:
    """Mixup and CutMix between the classified pictures of a step that have one size."""
    groups: dict[tuple, list[int]] = {}
    for i, one in enumerate(drawn):
        alone = len(one.features) == 1 and one.features[0][0] == "image"
        if alone and TASKS.get(one.info.kind).classifies and not one.info.multi_label:
            groups.setdefault((one.info.name, one.features[0][1].shape), []).append(i)
    for places in groups.values():
        pictures = torch.from_numpy(np.stack([drawn[i].features[0][1] for i in places]))
        targets = torch.from_numpy(np.stack([drawn[i].example.target for i in places]))
        pictures, targets = mix_pictures(pictures, targets, rng)
        for i, picture, target in zip(places, pictures.numpy(), targets.numpy(), strict=True):
            mixed = replace(drawn[i].example, target=target)
            drawn[i] = drawn[i]._replace(example=mixed, features=[("image", picture)])


class Evaluation(Dataset):
    """All rows of one task in order, without variation, as batches of `feed.rows` rows, and of long items all windows;
    of rows that give nothing to evaluate the tally alone."""

    def __init__(self, preparer: Preparer, feed: Feed, seed: int = 0):
        self.preparer, self.feed, self.seed = preparer, feed, seed

    def __len__(self) -> int:
        return -(-len(self.feed.source) // self.feed.rows)

    def __getitem__(self, number: int) -> Batch | Tally:
        tally, windows = Tally(), []
        prepared: list[tuple[TaskInfo, Prepared]] = []
        averages = TASKS.get(self.feed.info.kind).averages()
        first = number * self.feed.rows
        numbers = range(first, min(first + self.feed.rows, len(self.feed.source)))
        rows = [(index, np.random.default_rng([self.seed, EVALUATION, index])) for index in numbers]
        for one in read_examples(self.preparer, self.feed, rows, 1.0, tally):
            cut = self.preparer.cut_drawn(one, None)
            if averages:
                whole = [replace(cut, parts=parts) for parts in self.preparer.windows(one.features)]
                windows += [(len(prepared), window) for window in whole] if len(whole) > 1 else []
                cut = whole[0]
            prepared.append((one.info, cut))
            tally.rows.append(one.row)
            tally.shortened.update(modality for modality, pieces in cut.parts if pieces.shortened)
        if not prepared:
            return tally
        batch = self.preparer.batch(prepared, tally)
        batch.windows = windows
        if TASKS.get(self.feed.info.kind).writes:
            text = self.preparer.processors[TEXT]
            batch.asked = [begun(example.parts[:-1], text) for _, example in prepared]
        return batch


def plan_rows(preparer: Preparer, feeds: list[Feed], batch_tokens: int, seed: int = 0, accumulate: int = 1) -> None:
    """Set each feed's rows a step so that a step has about `batch_tokens` tokens, shared by the tasks' weights.

    A task may need more rows than these (`Task.least_rows`), and in each of `accumulate` micro-batches.

    Raises:
        UnitxError: none of a task's sampled rows could be read; says why for the first.
    """
    whole = sum(feed.info.weight for feed in feeds)
    for number, feed in enumerate(feeds):
        rng = np.random.default_rng([seed, EVALUATION, number])
        count = min(SAMPLED, len(feed.source))
        places = np.arange(count) if is_stream(feed.source) else rng.choice(len(feed.source), count, replace=False)
        tally, tokens = Tally(), Counter[int]()
        for one in read_examples(preparer, feed, [(index, rng) for index in places.tolist()], 0.5, tally):
            tokens[one.row] += len(preparer.cut_drawn(one, rng))
        if not tokens.total():
            known = f" and a known '{feed.info.label}'" if feed.info.label else ""
            why = tally.skipped[0] if tally.skipped else f"no row has an item{known}"
            raise UnitxError(f"task '{feed.info.name}': none of {len(places)} sampled rows can be used: {why}")
        share = batch_tokens * feed.info.weight / whole
        rows = max(_least_rows(feed, accumulate), round(share / np.mean(list(tokens.values()))))
        feed.rows = min(rows, 10 * len(feed.source))


def stretch_epochs(feeds: list[Feed], accumulate: int = 1) -> None:
    """Have steps take fewer rows where an epoch of the longest task would be less than twenty steps.

    Few data would else give few steps: 119 rows of which a step takes 564 are learned in no number of epochs that one
    would ask for. Made data, whose rows are new in every epoch, are never few.
    """
    steps = max(len(f.source) / f.rows if is_recorded(f.source) else float("inf") for f in feeds)
    for feed in feeds if steps < FEWEST_STEPS else []:
        least = max(FEWEST_ROWS, _least_rows(feed, accumulate))
        rows = max(least, round(feed.rows * steps / FEWEST_STEPS))
        feed.rows = min(feed.rows, rows, len(feed.source))


def _least_rows(feed: Feed, accumulate: int) -> int:
    least = TASKS.get(feed.info.kind).least_rows(feed.info)
    return accumulate * least if least > 1 else 1


def data_loader(dataset: Dataset, order: Sequence[int], workers: int | None) -> DataLoader:
    """Batches in order, prepared by forked workers where the system forks, else in this process.

    A spawned worker would import the user's script again, and so ask for an `if __name__ == "__main__"` guard.
    """
    if sys.platform != "linux":  # forking after Objective-C has started crashes on a Mac
        workers = 0
    elif workers is None:
        # A worker beside two busy cores slows each step by more than it takes off it.
        workers = max(0, min(4, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) // 2 - 1))
    settings: dict[str, Any] = {"multiprocessing_context": "fork", "worker_init_fn": _start_worker} if workers else {}
    # A generator of its own: else every loader would draw from the global one, and a run that goes on would differ.
    own = torch.Generator()
    return DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers, generator=own, **settings)


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one decides what it means


def loader(
    model: Model,
    data: Any,
    batch_tokens: int = 8_192,
    *,
    augment: str = "none",
    seed: int = 0,
    epoch: int = 0,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Batches of one epoch for one's own training loop: `loss, metrics = model(batch)`.

    Args:
        model: the model that will see them; its tasks say which columns are read.
        data: a source, or anything that `--data` takes, for the only task; or a dictionary task → data.
        batch_tokens: tokens a batch, about.
        augment: none, light or strong variation of the items.
        seed: of the order of the rows, of their variation, and of what is cut out of long items.
        epoch: counted from 0; each has another order.
        workers: processes that prepare data; None for what fits the machine.

    Raises:
        UnitxError: the data lack a column that a task reads, or it cannot be meant.
    """
    given = data if isinstance(data, dict) and set(data) <= set(model.tasks) else {model.only_task(): data}
    feeds = []
    for name, of_task in given.items():
        info = model.head(name).info
        source = open_source(of_task, info.reads, info.label)
        multi, answer = info.multi_label, TASKS.get(info.kind).answer
        check_columns(source, info.reads, info.label, multi, evaluated=True, answer=answer)
        feeds.append(Feed(info, source))
    preparer = Preparer(model.processors, model.prefix_parts)
    plan_rows(preparer, feeds, batch_tokens, seed)
    steps = Epochs(preparer, feeds, progress=torch.ones(()), augment=Augment(augment), seed=seed)
    whole = Tally()
    for batches, tally in data_loader(steps, range(epoch * steps.count, (epoch + 1) * steps.count), workers):
        whole.add(tally)
        yield from (batch.to(model.device) for batch in batches)
    for modality, count in sorted(whole.shortened.items()):
        warnings.warn(f"{modality}: {count} items longer than max_tokens gave a random part", stacklevel=2)
    if skipped := whole.skipped:
        warnings.warn(f"{len(skipped)} rows could not be read and were left out; the first: {skipped[0]}", stacklevel=2)
