"""From a recipe to what a run needs: open data, known labels, processors, a model. All that can fail fails here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from unitx.batches import Feed, Preparer, plan_rows
from unitx.data import Source, check_columns, guess_reads, open_source, parse_reads, split
from unitx.errors import BadItem, UnitxError
from unitx.model import Model
from unitx.recipe import SIZES, Recipe, TaskRecipe, backbone_config, check
from unitx.registry import TASKS, TOKENIZERS, import_plugin
from unitx.task import TaskInfo
from unitx.tokenizer import Processor
from unitx.worlds.emoji import EmojiWorld

SPM_TEXTS = 200_000  # texts that a sentencepiece vocabulary is trained on, at most


@dataclass
class Job:
    """All that a run needs.

    Attributes:
        model: with new weights where they are new.
        feeds: the training rows of each task. held_out: the rows that it is evaluated on.
        facts: plain sentences about the data, for the log.
        resolved: what was decided where the recipe left it open.
    """

    recipe: Recipe
    model: Model
    preparer: Preparer
    feeds: list[Feed]
    held_out: list[Feed]
    facts: list[str] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)


def build_job(recipe: Recipe, base: Model | None = None) -> Job:
    """Open and check everything.

    Args:
        base: a trained model whose backbone and tokenizers are taken over; None for new ones.

    Raises:
        UnitxError: whatever is wrong with the recipe or its data.
    """
    check(recipe)
    for plugin in recipe.plugins:
        import_plugin(plugin)
    facts: list[str] = []
    opened: dict[Any, tuple[Source, Source]] = {}
    feeds, held_out = [], []
    for name, task in recipe.tasks.items():
        train, test, info = _open_task(recipe, name, task, opened, facts)
        feeds.append(Feed(info, train))
        held_out.append(Feed(info, test))
    processors = {m: p for m, p in base.processors.items()} if base else {}
    for modality in sorted({m for feed in feeds for m in feed.info.reads.values()} - set(processors)):
        processors[modality] = _new_processor(recipe, modality, feeds)
    infos = [feed.info for feed in feeds]
    model = Model(backbone_config(recipe), processors, infos) if base is None else _extended(base, processors, infos)
    preparer = Preparer(model.processors)
    size = SIZES[recipe.size]
    resolved = {
        "batch_tokens": recipe.batch_tokens or size.batch_tokens,
        "lr": recipe.lr or size.lr,
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone": model.backbone.config.__dict__ | {},
        "reads": {feed.info.name: feed.info.reads for feed in feeds},
        "labels": {feed.info.name: len(feed.info.labels) for feed in feeds if feed.info.labels},
    }
    plan_rows(preparer, feeds, resolved["batch_tokens"], recipe.seed)
    for feed, test in zip(feeds, held_out, strict=True):
        test.rows = max(1, min(feed.rows, len(test.source) or 1))
    resolved["rows_a_step"] = {feed.info.name: feed.rows for feed in feeds}
    return Job(recipe, model, preparer, feeds, held_out, facts, resolved)


def _extended(base: Model, processors: dict[str, Processor], infos: list[TaskInfo]) -> Model:
    """A trained model with new tokenizers and heads; a head that already answers the same question goes on."""
    for modality in sorted(set(processors) - set(base.tokenizers)):
        base.add_tokenizer(modality, processors[modality])
    for info in infos:
        old = base.heads[info.name].info if info.name in base.heads else None
        if old is not None and (old.kind, old.labels, old.options) == (info.kind, info.labels, info.options):
            base.heads[info.name].info = info
        else:
            base.add_task(info)
    return base


def _open_task(
    recipe: Recipe, name: str, task: TaskRecipe, opened: dict[Any, tuple[Source, Source]], facts: list[str]
) -> tuple[Source, Source, TaskInfo]:
    """A task's training rows, its held-out rows, and what it knows about them."""
    given = task.data if task.data is not None else recipe.data
    if given is None:
        raise UnitxError(f"task '{name}' has no data: give a folder or a file with --data")
    kind = TASKS.get(task.kind)
    reads = _parse_reads(task.reads or recipe.reads)
    label = task.label or recipe.label
    test = task.test if task.test is not None else recipe.test
    options = _options(recipe, task)
    multi = bool(options.get("multi_label"))
    # One split for all tasks on the same data: what one of them is judged on, no other may learn from.
    key = (repr(given) if isinstance(given, str | dict) else id(given), repr(test))
    if key not in opened:
        opened[key] = open_parts(given, test, reads, label, multi, recipe, facts)
    else:
        check_columns(opened[key][0], reads or guess_reads(opened[key][0], label), label, multi)
    train, held_out = opened[key]
    info = TaskInfo(name, task.kind, reads or guess_reads(train, label), label, [], task.weight, options)
    for modality in info.reads.values():
        TOKENIZERS.get(modality)
    return train, held_out, kind.fit(info, train)


def open_parts(
    data: Any, test: Any, reads: dict[str, str] | None, label: str | None, multi: bool, recipe: Recipe, facts: list[str]
) -> tuple[Source, Source]:
    """Training rows and held-out rows: as given, made apart (a world's parts), or split off by the seed."""
    source = open_source(data, reads, label)
    given = [source] if test is None else [source, open_source(test, reads, label)]
    for part in given:
        found = check_columns(part, reads or guess_reads(source, label), label, multi) if len(part) else []
        facts += [fact for fact in found if fact not in facts]
    if test is not None:
        return source, given[1]
    if isinstance(source, EmojiWorld):
        facts.append(f"the data is made: {len(source.emoji)} emoji; its validation part is held out")
        return source.prepare(), replace(source, part="validation")
    train, held_out, statement = split(source, label, recipe.holdout, recipe.seed, multi)
    facts.append(statement)
    return train, held_out


def _parse_reads(reads: str | dict[str, str] | None) -> dict[str, str] | None:
    return parse_reads(reads) if isinstance(reads, str) else reads


def _options(recipe: Recipe, task: TaskRecipe) -> dict[str, Any]:
    """The task's options, with the recipe's settings for all tasks that have such an option."""
    known = {f for f in TASKS.get(task.kind).Options.__dataclass_fields__}
    shared = {name: getattr(recipe, name) for name in ("label_smoothing", "class_weights")}
    return {name: value for name, value in shared.items() if value is not None and name in known} | task.options


def _new_processor(recipe: Recipe, modality: str, feeds: list[Feed]) -> Processor:
    """The data half of a new tokenizer, with the recipe's options; a text vocabulary is trained where one is wanted."""
    kind = TOKENIZERS.get(modality).Processor
    options = {n: tuple(v) if isinstance(v, list) else v for n, v in recipe.tokenizers.get(modality, {}).items()}
    size = options.pop("vocabulary_size", 4_096) if modality == "text" else 0
    for name in options:
        if name not in kind.__dataclass_fields__:
            has = ", ".join(kind.__dataclass_fields__)
            raise UnitxError(f"tokenizers.{modality} has no option '{name}'; it has: {has}")
    if options.get("vocabulary") == "sentencepiece" and not options.get("spm"):
        from unitx.tokenizers.text import train_sentencepiece

        options["spm"] = train_sentencepiece(islice(_texts(feeds, recipe.seed), SPM_TEXTS), size)
    return kind(**options)


def _texts(feeds: list[Feed], seed: int) -> Iterator[str]:
    """The texts of all training rows, in random order; what cannot be read is left for training to report."""
    from unitx.tokenizers.text import TextProcessor

    reader = TextProcessor()
    for number, feed in enumerate(feeds):
        texts = replace(feed.info, reads={c: m for c, m in feed.info.reads.items() if m == "text"})
        for index in np.random.default_rng([seed, number]).permutation(len(feed.source)).tolist():
            for _, item in texts.parts(feed.source.row(index, np.random.default_rng(index))):
                with suppress(BadItem):
                    yield str(reader.read(item))
