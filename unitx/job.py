"""From a recipe to what a run needs: open data, known labels, processors, a model. All that can fail fails here."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import compress, zip_longest
from typing import Any

import numpy as np

from unitx.batches import Feed, Preparer, plan_rows, stretch_epochs
from unitx.columns import check_columns, guess_reads
from unitx.config import SIZES, size_of
from unitx.data import HUB_NAME, STREAM, named_world, open_source, parse_reads
from unitx.errors import BadItem, UnitxError
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe, backbone_config, check, is_world, with_tuples
from unitx.registry import TASKS, TOKENIZERS, import_plugin
from unitx.source import (
    MadeSource,
    Source,
    Subset,
    file_column,
    is_answered,
    is_recorded,
    is_stream,
    labels_in,
    name_of,
    origin,
    unseen,
)
from unitx.splits import files_of, split
from unitx.task import Task, TaskInfo
from unitx.tokenizer import Processor
from unitx.writing import TEXT

FIRST_ROWS = 10  # that are looked at for columns that nothing is known of
FINETUNE_RATE = 0.3  # of the rate for new models, where all of a trained one moves
GOES_ON = ("tied", "pooling", "multi_label")  # options of a head that its task keeps when it is trained further


@dataclass
class Job:
    """All that a run needs.

    Attributes:
        model: with new weights where they are new.
        feeds: the training rows of each task. held_out: the rows that it is evaluated on.
        notes: plain sentences about the data, for the log.
        resolved: what was decided where the recipe left it open.
        new: names of the parameters that begin anew in a trained model.
    """

    recipe: Recipe
    model: Model
    preparer: Preparer
    feeds: list[Feed]
    held_out: list[Feed]
    notes: list[str] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)


def build_job(recipe: Recipe, base: Model | None = None, fixed: Collection[str] = ()) -> Job:
    """Open and check everything.

    Args:
        base: a trained model whose backbone and tokenizers are taken over; None for new ones.
        fixed: tasks of the base whose heads go on with what they know, and never begin anew.

    Raises:
        UnitxError: whatever is wrong with the recipe or its data.
    """
    check(recipe)
    for plugin in recipe.plugins:
        import_plugin(plugin)
    notes: list[str] = []
    shared = _shared(recipe, notes)
    feeds, held_out = [], []
    for name, task in recipe.tasks.items():
        known = _known(base, name, task.kind, name in fixed)
        train, test, info = _open_task(recipe, task, shared, known)
        feeds.append(Feed(info, train))
        held_out.append(Feed(info, test))
    _keep_apart(feeds, held_out, notes)
    if recipe.temperature is not None:
        weigh_by_size(feeds, recipe.temperature)
    processors = _processors(recipe, feeds, base, notes)
    notes += _unknown_columns(feeds, base.processors) if base else []
    infos = [feed.info for feed in feeds]
    model = (
        Model(backbone_config(recipe), processors, infos)
        if base is None
        else _extended(base, processors, infos, fixed, notes)
    )
    for made in shared.made.values():
        made.prepare()  # which takes a while: after all that can be wrong has been found
    preparer = Preparer(model.processors, model.prefix_parts)
    size = SIZES[recipe.size if base is None else size_of(model.backbone.config.dim)]
    resolved: dict[str, Any] = {
        "batch_tokens": recipe.batch_tokens or size.batch_tokens,
        "lr": recipe.lr or size.lr * (FINETUNE_RATE if base is not None and recipe.tune == "all" else 1.0),
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone": model.backbone.config.__dict__ | {},
        "rows": {feed.info.name: len(feed.source) for feed in feeds},
        "reads": {feed.info.name: feed.info.reads for feed in feeds},
        "labels": {feed.info.name: len(feed.info.labels) for feed in feeds if feed.info.labels},
    }
    plan_rows(preparer, feeds, resolved["batch_tokens"], recipe.seed, recipe.accumulate)
    if recipe.batch_tokens is None:
        stretch_epochs(feeds, recipe.accumulate)
    for feed, held in zip(feeds, held_out, strict=True):
        held.rows = max(1, min(feed.rows, len(held.source) or 1))
    resolved["notes"] = notes
    resolved["rows_a_step"] = {feed.info.name: feed.rows for feed in feeds}
    return Job(recipe, model, preparer, feeds, held_out, notes, resolved)


def _keep_apart(feeds: list[Feed], held_out: list[Feed], notes: list[str]) -> None:
    """Take rows out of training whose files a part of other data is held out with: two data sets may name one file."""
    if len({id(origin(feed.source)) for feed in [*feeds, *held_out]}) < 2:
        return  # one data set, which `split` keeps apart: no names of files need be looked at again
    held = [(feed, set().union(*_files_of(feed))) for feed in held_out]
    for feed in feeds:
        shown = _files_of(feed)
        for other, files in held:
            if not files or origin(other.source) is origin(feed.source):
                continue
            clean = np.array([files.isdisjoint(row) for row in shown], dtype=bool)
            if 0 < (lost := int((~clean).sum())) < len(clean):
                name, judged = feed.info.name, other.info.name
                notes.append(f"task '{name}' leaves out {lost:,} rows with files that '{judged}' is judged by")
                feed.source, shown = Subset(feed.source, np.flatnonzero(clean)), list(compress(shown, clean))


def _files_of(feed: Feed) -> list[set[str]]:
    source = feed.source
    return [] if isinstance(source, MadeSource) or is_stream(source) else files_of(source, feed.info.reads)


def _unknown_columns(feeds: list[Feed], processors: dict[str, Processor]) -> list[str]:
    """What to say of columns of a table that a tokenizer, which learned its own of other data, does not know."""
    found = []
    for feed in feeds:
        tables = {column: "table" for column, modality in feed.info.reads.items() if modality == "table"}
        known = {*getattr(processors.get("table"), "columns", ())} if tables else set()
        for index in range(min(FIRST_ROWS, len(feed.source))) if known else ():
            row = feed.source.row(index, np.random.default_rng(index))
            for _, item in replace(feed.info, reads=tables).parts(row):
                if lost := ", ".join(name for name, cell in item.items() if cell is not None and name not in known):
                    found.append(f"task '{feed.info.name}': the table's tokenizer has not learned {lost}")
    return list(dict.fromkeys(found))


def weigh_by_size(feeds: list[Feed], temperature: float) -> None:
    """Multiply each task's weight by its rows to the power of 1 / temperature (Raffel et al. 2020), one on average."""
    factors = np.array([len(feed.source) for feed in feeds]) ** (1 / temperature)
    for feed, factor in zip(feeds, factors / factors.mean(), strict=True):
        feed.info = replace(feed.info, weight=feed.info.weight * float(factor))


def _known(base: Model | None, name: str, kind: str, fixed: bool) -> TaskInfo:
    """What is known of a task before its data are opened: all that a fixed head knows; of one that goes on, whether it
    shares its matrix with the tokenizer, and how it was pooled; that a decoder's last token has seen the most."""
    old = base.head(name) if base is not None and name in base.tasks else None
    if old is not None and fixed:
        return old.info
    if old is not None and old.info.kind == kind:
        kept = {option: old.info.options[option] for option in GOES_ON if option in old.info.options}
        return TaskInfo(name, kind, {}, options=kept)
    decoder = base is not None and base.backbone.config.causal
    pools = "pooling" in TASKS.get(kind).Options.__dataclass_fields__
    return TaskInfo(name, kind, {}, options={"pooling": "last"} if decoder and pools else {})


def _extended(
    base: Model, processors: dict[str, Processor], infos: list[TaskInfo], fixed: Collection[str], notes: list[str]
) -> Model:
    """A trained model with new tokenizers and heads; a head that already answers the same question goes on.

    Raises:
        UnitxError: a head that is `fixed` would begin anew.
    """
    for modality in sorted(set(processors) - set(base.tokenizers)):
        base.add_tokenizer(modality, processors[modality])
    for info in infos:
        old = base.head(info.name) if info.name in base.tasks else None
        base.add_task(info)
        if old is None:
            continue
        new, known, shapes = base.head(info.name), old.state_dict(), {}
        for head, state in ((new, new.state_dict()), (old, known)):
            state.pop("log_variance", None)  # of the run, not of what it learned
            shapes[head] = {name: value.shape for name, value in state.items()}
        if old.info.kind == info.kind and old.info.labels == info.labels and shapes[new] == shapes[old]:
            new.load_state_dict(known, strict=False)
        elif info.name in fixed:
            what = "another form" if old.info.labels == info.labels else "no concepts"
            raise UnitxError(
                f"the head of the model's task '{info.name}' stays as it is, and has {what}: leave out "
                f"{'its options' if old.info.labels == info.labels else '--label'}"
            )
        else:
            notes.append(f"the model's task '{info.name}' had other labels or another form: its head begins anew")
    return base


@dataclass
class Shared:
    """What the tasks of a run share: rows that one of them holds out, no other learns from.

    Attributes:
        notes: plain sentences about the data, for the log.
        learned: data → a task that learns from them.
        held_out_of: data of which some task holds a part out.
        splits: data → their training and held-out rows, the same for all tasks.
        made: data → the training part of made data, one object for all tasks.
    """

    notes: list[str]
    learned: dict[Any, str]
    held_out_of: set[Any]
    splits: dict[Any, tuple[Subset, Subset]] = field(default_factory=dict)
    made: dict[Any, MadeSource] = field(default_factory=dict)


def _shared(recipe: Recipe, notes: list[str]) -> Shared:
    named = {name: named_data(recipe, task) for name, task in recipe.tasks.items()}
    learned = {_identity(data): name for name, (data, _) in named.items()}
    return Shared(notes, learned, {_identity(data) for data, test in named.values() if test is None})


def named_data(recipe: Recipe, task: TaskRecipe) -> tuple[Any, Any]:
    """What a task's recipe, or else the whole recipe, names as training data and as test data.

    A world that the recipe's data are of has their options too, where it does not set its own; so has one to judge by
    that the task learns from, but for the part.
    """
    data = task.data if task.data is not None else recipe.data
    test = task.test if task.test is not None else recipe.test
    data = _with_options(data, recipe.data)
    learned = {name: value for name, value in data.items() if name != "part"} if is_world(data) else data
    return data, _with_options(test, learned)


def _with_options(data: Any, others: Any) -> Any:
    """A world with the options of others of the same world, where it does not set its own; other data as they are."""
    mine, its = _as_world(data), _as_world(others)
    return {**its, **mine} if mine and its and mine["world"] == its["world"] else data


def _as_world(data: Any) -> dict[str, Any] | None:
    found = named_world(data) if isinstance(data, str) else data
    return found if is_world(found) else None


def _identity(data: Any) -> Any:
    """A key that is equal for the same data, however they are named."""
    if isinstance(data, str | os.PathLike):
        path = os.path.expanduser(data)
        data = named_world(os.fspath(data)) or (os.path.realpath(path) if os.path.exists(path) else os.fspath(data))
    if is_world(data):
        return repr(sorted({"part": "train", **data}.items()))
    if isinstance(data, Mapping):  # recipes copy dictionaries, but not what they hold
        return tuple((name, id(cells)) for name, cells in data.items())
    if isinstance(data, str):
        whole = HUB_NAME.fullmatch(data.removeprefix(STREAM)) and ":" not in data.removeprefix(STREAM)
        return f"{data}:train" if whole else data
    return id(data)


def _open_task(recipe: Recipe, task: TaskRecipe, shared: Shared, known: TaskInfo) -> tuple[Source, Source, TaskInfo]:
    """A task's training rows, its held-out rows, and what it knows of them besides what it has `known` before."""
    name = known.name
    given, test = named_data(recipe, task)
    if given is None:
        raise UnitxError(f"task '{name}' has no data: give a folder or a file with --data")
    kind = TASKS.get(task.kind)
    reads = task.reads or recipe.reads
    reads = parse_reads(reads) if isinstance(reads, str) else reads
    label = task.label or recipe.label
    options = known.options | _options(recipe, task)
    multi = replace(known, options=options).multi_label
    source = open_source(given, reads, label, recipe.seed)
    reads = reads or guess_reads(source, label)
    for column, modality in reads.items():
        if column == modality and modality not in TOKENIZERS.names():
            raise UnitxError(f"--reads {column}: say as what the column is read, such as {column}:text")
        TOKENIZERS.get(modality)
    tests = None if test is None else unseen(open_source(test, reads, label))
    for part in (source, tests):
        if part is not None and len(part):
            found = check_columns(part, reads, label, multi, evaluated=part is tests, answer=kind.answer)
            shared.notes += [note for note in found if note not in shared.notes]
    classes = label if kind.answer == "class" else None
    source, held_out = _parts(recipe, _identity(given), source, classes, multi, shared)
    source, held_out = (_answered(part, label, multi, kind) for part in (source, held_out))
    learner = shared.learned.get(_identity(test))
    if tests is None:
        assert held_out is not None  # the data of a task without test data are split
        tests = held_out
        if recipe.holdout and not len(tests) and not is_stream(tests):
            shared.notes.append(f"task '{name}': no row that is held out has an answer, so nothing judges it")
    elif learner and not isinstance(tests, MadeSource):
        shared.notes.append(f"task '{name}' is judged on what '{learner}' learns from: that says nothing of new data")
    if isinstance(tests, MadeSource):
        made = "recorded" if is_recorded(tests) else "made"
        shared.notes.append(f"task '{name}' is judged on the {tests.part} part of {name_of(tests)}: {made} data")
    uncertain = recipe.loss_weighting == "uncertainty"
    info = replace(known, reads=reads, label=label, weight=task.weight, uncertain=uncertain, options=options)
    if label in info.reads and _asks(kind):
        raise UnitxError(f"task '{name}' reads '{label}', which holds the answers: leave it out of --reads")
    info = kind.fit(info, source)
    if not isinstance(source, MadeSource) and not is_stream(source):
        shared.notes += kind.remarks(info, source)
    if kind.classifies and not isinstance(tests, MadeSource):
        shared.notes += _unscored(info, tests, multi)
    return source, tests, info


def _answered(source: Any, label: str | None, multi: bool, kind: type[Task]) -> Any:
    """Those rows of recorded data that have an answer, of a task that asks for one: others would count as rows of a
    step and in the task's size, and give nothing."""
    if source is None or label is None or not _asks(kind) or isinstance(source, MadeSource) or is_stream(source):
        return source
    cells = source.column(label)
    if kind.classifies:
        has = [is_answered(cell, multi) for cell in cells]
    else:
        has = [cell is not None and not (isinstance(cell, str) and cell == "") for cell in cells]
    return source if all(has) else Subset(source, np.flatnonzero(has))


def _asks(kind: type[Task]) -> bool:
    """Whether it has answers of its label's column; `align` takes it for what items have in common."""
    return kind.classifies or kind.answer != "class"


def _unscored(info: TaskInfo, tests: Source, multi: bool) -> list[str]:
    """What to say of held-out rows whose labels training does not have."""
    cells = [labels_in(cell, multi) for cell in tests.column(str(info.label))]
    lost = [name for names in cells if names and info.numbers.keys().isdisjoint(names) for name in names]
    named = ", ".join(dict.fromkeys(lost[:5]))
    return [f"task '{info.name}' is not judged on {len(lost):,} rows: training has no {named}"] if lost else []


def _parts(
    recipe: Recipe, key: Any, source: Source, label: str | None, multi: bool, shared: Shared
) -> tuple[Source, Source | None]:
    """Training rows, and those held out where some task has no test data: the validation part of made data, rows chosen
    by the seed of other data.

    Raises:
        UnitxError: the validation or test part of made data are to be learned from, or a part of a stream to be held
            out.
    """
    if isinstance(source, MadeSource):
        if source.part != "train":
            raise UnitxError(f"{name_of(source)}: the {source.part} part is there to judge by; train on the train part")
        return shared.made.setdefault(key, source), source.of_part("validation")
    if key not in shared.held_out_of:
        return source, None
    if is_stream(source):
        if recipe.holdout:
            raise UnitxError(
                f"{name_of(source)}: from a stream nothing is held out: name other data to judge by with --test, or "
                "set --holdout 0"
            )
        return source, Subset(source, np.arange(0))
    # Texts may be read whole by one task and in pieces by another: they are known by their files, other rows by number.
    key = key, file_column(source) or len(source)
    if key in shared.splits:
        return _split_as_before(source, *shared.splits[key])
    if recipe.holdout:
        reads = _reads_of_all(recipe, key[0], source)
        train, held_out, statement = split(source, label, recipe.holdout, recipe.seed, multi, reads)
    else:
        train, held_out = Subset(source, np.arange(len(source))), Subset(source, np.arange(0))
        statement = "nothing is held out: the last model is kept"
    shared.notes.append(statement)
    shared.splits[key] = train, held_out
    return train, held_out


def _reads_of_all(recipe: Recipe, key: Any, source: Source) -> dict[str, str]:
    """Column → modality of what any task reads of some data; of two a medium, which ties more rows together."""
    found: dict[str, str] = {}
    for task in recipe.tasks.values():
        if _identity(named_data(recipe, task)[0]) == key:
            reads = task.reads or recipe.reads or guess_reads(source, task.label or recipe.label)
            reads = parse_reads(reads) if isinstance(reads, str) else reads
            found |= {column: modality for column, modality in reads.items() if found.get(column) in (None, TEXT)}
    return {column: modality for column, modality in found.items() if column in source.columns}


def _split_as_before(source: Source, train: Subset, held_out: Subset) -> tuple[Subset, Subset]:
    """The split that another task made of the same data, which may read whole texts where this one reads pieces."""
    column = file_column(source)
    if column and len(source) != len(train) + len(held_out):
        files = set(held_out.column(column))
        is_held = np.array([file in files for file in source.column(column)])
        return Subset(source, np.flatnonzero(~is_held)), Subset(source, np.flatnonzero(is_held))
    return Subset(source, train.indices), Subset(source, held_out.indices)


def modalities_of(feeds: list[Feed]) -> set[str]:
    """What the tasks read, and write."""
    read = {modality for feed in feeds for modality in feed.info.reads.values()}
    return read | {TEXT for feed in feeds if TASKS.get(feed.info.kind).writes}


def _processors(recipe: Recipe, feeds: list[Feed], base: Model | None, notes: list[str]) -> dict[str, Processor]:
    """Modality → the data half of its tokenizer: the base model's own, and new ones by the recipe's options."""
    read = modalities_of(feeds)
    old = base.processors if base is not None else {}
    for modality in recipe.tokenizers:
        TOKENIZERS.get(modality)  # a name that is none is an error
        if modality in old:
            options = recipe.tokenizers[modality].items()
            if lost := ", ".join(name for name, value in options if _differs(old[modality], name, value)):
                notes.append(f"the model keeps its own {modality} tokenizer: {lost} of the recipe is not used")
    new = {modality: _new_processor(recipe, modality, feeds) for modality in sorted(read - set(old))}
    for modality, processor in new.items():
        notes += processor.notes(max(len(feed.source) for feed in feeds if modality in modalities_of([feed])))
    if base is not None and base.backbone.config.rotary_base is None:
        new = {modality: processor.with_positions() for modality, processor in new.items()}
    return old | new


def _differs(processor: Processor, option: str, value: Any) -> bool:
    """Whether a processor was made with another value of an option."""
    held = getattr(processor, option, value)  # what it was fitted by it does not hold
    return (list(held) if isinstance(held, tuple) else held) != value


def _options(recipe: Recipe, task: TaskRecipe) -> dict[str, Any]:
    """The task's options, with the recipe's settings for all tasks that have such an option."""
    known = set(TASKS.get(task.kind).Options.__dataclass_fields__)
    shared = {name: getattr(recipe, name) for name in ("label_smoothing", "class_weights")}
    return {name: value for name, value in shared.items() if value is not None and name in known} | task.options


def _new_processor(recipe: Recipe, modality: str, feeds: list[Feed]) -> Processor:
    """The data half of a new tokenizer, with the recipe's options and what it learns of the training data."""
    kind = TOKENIZERS.get(modality).Processor
    options = with_tuples(recipe.tokenizers.get(modality, {}))
    known = [*kind.__dataclass_fields__, *kind.fit_options]
    for name in options:
        if name not in known:
            raise UnitxError(f"tokenizers.{modality} has no option '{name}'; it has: {', '.join(known)}")
    try:
        return kind.fit(options, _items(feeds, modality, recipe.seed))
    except (TypeError, ValueError) as error:
        raise UnitxError(f"tokenizers.{modality}: {error}") from error


def _items(feeds: list[Feed], modality: str, seed: int) -> Iterator[Any]:
    """What all training rows give a tokenizer to read, raw, in random order, the tasks in turn, for it may look at the
    first alone; rows that cannot be read are left out."""
    turns = [_items_of(feed, modality, [seed, number]) for number, feed in enumerate(feeds)]
    nothing = object()
    return (item for turn in zip_longest(*turns, fillvalue=nothing) for item in turn if item is not nothing)


def _items_of(feed: Feed, modality: str, seed: list[int]) -> Iterator[Any]:
    columns = {column: kind for column, kind in feed.info.reads.items() if kind == modality}
    if TASKS.get(feed.info.kind).writes and feed.info.label and modality == TEXT:
        columns[feed.info.label] = TEXT
    wanted, rows = replace(feed.info, reads=columns), len(feed.source)
    order = np.arange(rows) if is_stream(feed.source) else np.random.default_rng(seed).permutation(rows)
    for index in order.tolist() if columns else []:
        with suppress(BadItem):
            yield from (i for _, i in wanted.parts(feed.source.row(index, np.random.default_rng(index))))
