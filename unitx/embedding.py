"""What a trained model says about items: embeddings, hidden states, predictions.

The functions here are methods of `Model`. Items are read in threads, packed by a token budget and answered in the order
given; a long text or sound goes through in windows, whose results are averaged by their lengths.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unitx.batches import Preparer
from unitx.decoding import write
from unitx.errors import BadItem, UnitxError
from unitx.media import DECODERS, MEDIA, describe, is_missing_file, modality_of, named_file, suffix_modality
from unitx.precision import answering
from unitx.source import ROW
from unitx.task import Answer, Task
from unitx.tokens import Prepared, Tokens, collate, pack
from unitx.writing import begun

if TYPE_CHECKING:
    from unitx.model import Model
    from unitx.towers import Towers

Sequences = list[list[tuple[str, Any]] | BadItem]  # the (modality, item) pairs of each item, or what is wrong with it
BEAMS = 4  # texts that are followed at once where the likeliest is asked for
CHUNK = 1024  # items read and sorted by length at once
GROUP = 16  # items that a thread reads in one go at most: handing over one by one costs as much as a short text
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
READERS = min(32, max(DECODERS, CORES))  # threads; here, other than in workers, they have the machine


@torch.inference_mode()
def embed(
    model: Model,
    items: Iterable[Any],
    modality: str | None = None,
    *,
    batch_tokens: int = 8_192,
    normalize: bool = True,
    prompt: str | None = None,
    truncate_dim: int | None = None,
    show_progress: bool | None = None,
    on_error: str = "raise",
) -> np.ndarray:
    """One vector an item: from the model's last head that embeds (`align`), or else the mean of the backbone's output.

    Args:
        items: texts, paths (also as strings, where the file exists), bytes, PIL images, lists of them (a video's
            frames), arrays, tensors, (waveform, rate) pairs, or dictionaries of modality → item that form one sequence;
            any number, any mixture. A video file is its pictures; its sound where `modality` or a dictionary says so.
        modality: what every item is, where it should not be told from the item.
        batch_tokens: tokens that go through the model at once.
        normalize: whether vectors have unit length.
        prompt: put before each text: one that a published model knows by name ("query", "document"), or the words.
        truncate_dim: only the first so many numbers of each vector, for models trained so (Kusupati et al. 2022).
        show_progress: None for a bar when there are many items and a terminal.
        on_error: "raise", or "skip": a row of NaN for what cannot be read, and one warning.

    Returns: (len(items), dim) float32, in the order given.

    Raises:
        BadItem: an item that cannot be read; says which.
        UnitxError: a modality that the model does not read.
    """
    head = model.embedding_head
    if truncate_dim is not None and truncate_dim < 1:
        raise UnitxError(f"truncate_dim is {truncate_dim}; it must be at least 1")
    words = (prompt or "") if head is None else head.prompt(prompt)
    sequences = _sequences(items, lambda item: _with_prompt(model, parts_of(model, item, modality), words))
    compute = Tokens.mean if head is None else partial(_of_all, head)
    vectors = _run(model, sequences, compute, batch_tokens, show_progress, on_error)
    if vectors is None:
        dim = model.backbone.config.dim if head is None else head.embedding_dim
        return np.full((len(sequences), min(dim, truncate_dim or dim)), np.nan, dtype=np.float32)
    vectors = vectors[:, :truncate_dim]
    return (F.normalize(vectors, dim=-1) if normalize else vectors).numpy()


@torch.no_grad()  # unlike those of inference mode, these tensors may be trained on
def hidden_states(
    model: Model,
    items: Iterable[Any],
    modality: str | None = None,
    *,
    batch_tokens: int = 8_192,
    show_progress: bool | None = None,
    on_error: str = "raise",
) -> list[Tensor]:
    """The backbone's output for each item, (n_i, dim) float32; the windows of a long item one after the other.

    Items are what `embed` takes: a 1-D integer tensor counts as text ids, a float tensor (3, height, width) or, of a
    video, (frames, 3, height, width) as pixel values already normalised. With `on_error="skip"` what cannot be read
    gives (0, dim).
    """
    sequences = _sequences(items, lambda item: parts_of(model, item, modality))
    found: list[dict[int, Tensor]] = [{} for _ in sequences]
    for tokens, owners, windows in _batches(model, sequences, batch_tokens, show_progress, on_error):
        for item, (place, _), states in zip(owners, windows, tokens.to_list(), strict=True):
            found[item][place] = states.float().cpu()
    nothing = torch.zeros(0, model.backbone.config.dim)
    return [torch.cat([states[i] for i in sorted(states)]) if states else nothing for states in found]


@torch.inference_mode()
def predict(
    model: Model,
    items: Iterable[Any],
    task: str | None = None,
    *,
    top: int | None = None,
    batch_tokens: int = 8_192,
    show_progress: bool | None = None,
    on_error: str = "raise",
) -> list[list[Answer]]:
    """For each item the `top` best answers of a task, best first; by default one, of `detect` and `tag` all.

    Args:
        items: as for `embed`; a task that reads several columns as one sequence takes dictionaries of column → item.
        task: may be left out where the model has one task that predicts. An `align` task answers with its concepts, one
            that writes (`caption`, `translate`, …) with texts, by beam search over at least four.
        on_error: "raise", or "skip": an empty list for what cannot be read, and one warning.

    Raises:
        BadItem: an item that cannot be read; says which.
        UnitxError: no such task, or it does not predict labels or does not read such items.
    """
    if top is not None and top < 1:
        raise UnitxError(f"top is {top}; it must be at least 1")
    items = as_list(items)
    head = _predicting_head(model, task, items)
    top = top or head.top
    if head.writes:
        return _write(model, head, items, top, batch_tokens, show_progress, on_error)
    sequences = _task_sequences(model, head, items)
    if head.tags:
        return _tag(model, head, sequences, top, batch_tokens, show_progress, on_error)
    outputs = _run(model, sequences, partial(_of_all, head), batch_tokens, show_progress, on_error)
    if outputs is None:
        return [[] for _ in sequences]
    read = ~torch.isnan(outputs).flatten(1).any(1)
    answers = iter(head.answers(outputs[read], top))
    return [next(answers) if ok else [] for ok in read.tolist()]


@torch.inference_mode()
def predict_proba(
    model: Model,
    items: Iterable[Any],
    task: str | None = None,
    *,
    batch_tokens: int = 8_192,
    show_progress: bool | None = None,
    on_error: str = "raise",
) -> np.ndarray:
    """(len(items), classes) float32 probabilities, columns as `model.labels(task)`; arguments as for `predict`.

    With `on_error="skip"` what cannot be read gives a row of NaN.
    """
    items = as_list(items)
    head = _predicting_head(model, task, items)
    if type(head).probabilities is Task.probabilities:
        head.probabilities(torch.zeros(0))  # which says that there are none
    sequences = _task_sequences(model, head, items)
    outputs = _run(model, sequences, partial(_of_all, head), batch_tokens, show_progress, on_error)
    if outputs is None:
        return np.full((len(sequences), len(head.info.labels)), np.nan, dtype=np.float32)
    return head.probabilities(outputs).numpy()


def predicting_task(model: Model, items: Sequence[Any] = ()) -> str:
    """The name of the task that is meant where none is named (see `choose_task`): that can read the first item.

    Raises:
        UnitxError: it is not plain.
    """
    return choose_task(model, lambda head: all(_is_for(head, item) for item in items[:1]))


def choose_task(model: Model, fits: Callable[[Task], bool]) -> str:
    """The name of the only task there is, of the only classifier, or where there is none of the only one that writes;
    of several the only one that `fits`.

    Raises:
        UnitxError: it is not plain.
    """
    if len(model.tasks) == 1:
        return model.tasks[0]
    heads = [model.head(name) for name in model.tasks]
    writes = any(head.writes for head in heads) and not any(head.classifies for head in heads)
    does = "writes" if writes else "classifies"
    able = [head for head in heads if getattr(head, does)]
    able = [head for head in able if fits(head)] if len(able) > 1 else able
    return able[0].info.name if len(able) == 1 else model.only_task(does)


def _is_for(head: Task, item: Any) -> bool:
    """Whether an item is of the kind that a task reads."""
    reads = head.info.reads
    if isinstance(item, dict):
        return not item.keys().isdisjoint([*reads, *reads.values()])
    return {modality_of(Path(item) if is_missing_file(item) else item)} == {*reads.values()}


def _predicting_head(model: Model, task: str | None, items: Sequence[Any]) -> Task:
    """The head that is meant; one that does not predict says so before any work."""
    head = model.head(task or predicting_task(model, items))
    silent = not head.info.labels or type(head).probabilities is Task.probabilities
    if silent and type(head).answers is Task.answers and not (head.writes or head.tags):
        Task.probabilities(head, torch.zeros(0))
    return head


def _task_sequences(model: Model, head: Task, items: Iterable[Any]) -> Sequences:
    """What the task reads of each item; where it reads its columns apart, any one of the modalities will do."""

    def of_task(item: Any) -> list[tuple[str, Any]]:
        of_columns = isinstance(item, dict) and not item.keys() <= set(model.tokenizers)
        return _task_parts(head, item) if of_columns or not head.apart else parts_of(model, item, None)

    return _sequences(items, of_task)


def read_asked(
    model: Model, head: Task, items: list[Any], show_progress: bool | None = None, on_error: str = "raise"
) -> Iterator[Prepared | None]:
    """What a task that writes is asked of each item, up to the begin of its text; None for what cannot be read.

    Of what is longer than a sequence the beginning is read.
    """
    _check_on_error(on_error)
    sequences = _task_sequences(model, head, items)
    bad: list[str] = []
    shortened, text = 0, model.processors["text"]
    for _, chunk in _read(model, sequences, show_progress, on_error, bad):
        for found in chunk:
            shortened += len(found) > 1 or any(map(_is_shortened, found))
            yield begun(found[0].parts, text) if found else None
    _warn(shortened, bad, len(sequences))


def _write(
    model: Model, head: Task, items: list[Any], top: int, batch_tokens: int, show_progress: bool | None, on_error: str
) -> list[list[Answer]]:
    asked = list(read_asked(model, head, items, show_progress, on_error))
    answers: list[list[Answer]] = [[] for _ in asked]
    places = [i for i, sequence in enumerate(asked) if sequence is not None]
    readable = [sequence for sequence in asked if sequence is not None]
    for i, found in zip(places, write(model, head, readable, max(top, BEAMS), batch_tokens), strict=True):
        answers[i] = found[:top]
    return answers


def _tag(
    model: Model,
    head: Task,
    sequences: Sequences,
    top: int,
    batch_tokens: int,
    show_progress: bool | None,
    on_error: str,
) -> list[list[Any]]:
    """What a task that tags says of the whole of each item, over all its windows."""
    found: list[dict[int, tuple[Tensor, np.ndarray]]] = [{} for _ in sequences]
    for tokens, owners, windows in _batches(model, sequences, batch_tokens, show_progress, on_error, extents=True):
        outputs = tokens.with_vectors(_of_all(head, tokens)).to_list()
        for item, (place, window), of_window in zip(owners, windows, outputs, strict=True):
            assert window.extents is not None
            found[item][place] = of_window.float().cpu(), window.extents
    answers: list[list[Any]] = []
    for parts, of_item in zip(sequences, found, strict=True):
        answers.append([])
        if of_item:
            outputs, extents = zip(*(of_item[place] for place in sorted(of_item)), strict=True)
            text = _text_of(model, cast(list[tuple[str, Any]], parts))
            answers[-1] = head.spans(torch.cat(outputs), np.concatenate(extents), text, top)
    return answers


def _text_of(model: Model, parts: list[tuple[str, Any]]) -> str | None:
    """The text that an item is; None where it is something else, or ready ids."""
    ((modality, item),) = parts
    read = model.processors[modality].read_alone(item) if modality == "text" else None
    return read if isinstance(read, str) else None


def _of_all(head: Task, tokens: Tokens) -> Tensor:
    """The head's outputs of all sequences, in packed order."""
    return head.outputs(tokens, torch.arange(len(tokens.layout), device=tokens.layout.device))


def as_list(items: Iterable[Any]) -> list[Any]:
    """Items as a list.

    Raises:
        UnitxError: it is one item.
    """
    one_picture = getattr(items, "ndim", 0) == 3 and modality_of(items) == "image"  # else its rows would be items
    if isinstance(items, str | bytes | dict) or not isinstance(items, Iterable) or one_picture:
        raise UnitxError(f"give a list of items, not one: [{describe(items)}]")
    return list(items)


def _sequences(items: Iterable[Any], parts: Callable[[Any], list[tuple[str, Any]]]) -> Sequences:
    """The parts of each item, or what is wrong with it, to be raised or skipped when its turn comes."""

    def of(item: Any) -> list[tuple[str, Any]] | BadItem:
        try:
            return parts(item)
        except BadItem as error:
            return error

    return [of(item) for item in as_list(items)]


def parts_of(model: Model | Towers, item: Any, modality: str | None) -> list[tuple[str, Any]]:
    """The (modality, item) pairs of one item, checked against what the model reads."""
    if isinstance(item, dict) and modality is None:
        parts = [(name, part) for name, part in item.items() if part is not None]
    elif modality is None:
        item = named_file(item)
        parts = [(_guess(model, item), item)]
    else:
        parts = [(modality, item)]
    for name, _ in parts:
        model.check_reads(name)
    if not parts:
        raise BadItem("an item without any part: give at least one modality")
    return parts


def _with_prompt(model: Model, parts: list[tuple[str, Any]], words: str) -> list[tuple[str, Any]]:
    """The parts of an item with `words` before its texts."""
    if not words:
        return parts
    text = model.processors.get("text")
    read = [(m, text.read_alone(item) if m == "text" and text else item) for m, item in parts]
    return [(m, words + item if m == "text" and isinstance(item, str) else item) for m, item in read]


def _guess(model: Model | Towers, item: Any) -> str:
    if isinstance(item, Tensor) and item.ndim == 1 and not item.is_floating_point():
        return "text"
    if isinstance(item, Tensor) and item.ndim == 3:
        return "image"
    if is_missing_file(item):
        raise BadItem(f"there is no file {item}; if it is a text, pass modality='text'")
    found = modality_of(item)
    if found is None:
        raise UnitxError(f"cannot tell what {describe(item)} is: pass modality= ({', '.join(model.modalities)})")
    return found


def _task_parts(head: Task, item: Any) -> list[tuple[str, Any]]:
    """The sequence that a task reads of an item, given bare, or as a dictionary of columns or modalities."""
    info = head.info
    if isinstance(item, dict):
        by_column = {column: item.get(column) for column in info.reads}
        for column, modality in info.reads.items():  # a modality stands for the one column that it can mean
            free = [name for name, reads in info.reads.items() if reads == modality and name not in item]
            if free == [column] and modality not in info.reads:
                by_column[column] = item.get(modality)
        if ROW in by_column:
            by_column |= by_column.pop(ROW) or item
        parts = head.asked(info, by_column)
        if not parts and (ROW in info.reads or not item.keys().isdisjoint([*info.reads, *info.reads.values()])):
            raise BadItem(f"an item with nothing in {', '.join(info.reads)}: fill one of them")
        if not parts:
            raise UnitxError(
                f"task '{info.name}' reads {', '.join(info.reads)}; the item has {', '.join(map(str, item))}"
            )
        return parts
    modalities, item = set(info.reads.values()), named_file(item)
    if head.tags and (given := modality_of(item)) in modalities:  # one of its columns is read
        modalities = {cast(str, given)}
    if len(modalities) > 1 or (head.writes and len(info.reads) > 1):
        wants = ", ".join(f"'{column}': …" for column in info.reads)
        item_of_all = f"give each item as {{{wants}}}, on the command line the others by --with"
        raise UnitxError(f"task '{info.name}' reads several columns: {item_of_all}")
    modality = modalities.pop()
    if is_missing_file(item):
        hint = "; if it is a text, give it as {'text': …}" if modality == "text" else ""
        raise BadItem(f"there is no file {item}{hint}")
    if modality == "text" and isinstance(item, Path) and suffix_modality(item) in MEDIA:
        raise BadItem(f"{item} is no text, which task '{info.name}' reads")
    return [(modality, item)]


def _run(
    model: Model,
    sequences: Sequences,
    compute: Callable[[Tokens], Tensor],
    batch_tokens: int,
    show_progress: bool | None,
    on_error: str,
) -> Tensor | None:
    """(items, …) float32 on the CPU: what `compute` gives, averaged over an item's windows; NaN for skipped ones."""
    total: Tensor | None = None
    weight = torch.zeros(len(sequences))
    for tokens, owners, windows in _batches(model, sequences, batch_tokens, show_progress, on_error):
        found = compute(tokens)[tokens.layout.inverse].float().cpu()
        if total is None:
            total = found.new_zeros(len(sequences), *found.shape[1:])
        share = torch.tensor([window.weight for _, window in windows])
        total.index_add_(0, torch.tensor(owners), found * share.view(-1, *[1] * (found.ndim - 1)))
        weight.index_add_(0, torch.tensor(owners), share)
    if total is None:
        return None
    return total / weight.where(weight > 0, torch.nan).view(-1, *[1] * (total.ndim - 1))


def _batches(
    model: Model,
    sequences: Sequences,
    batch_tokens: int,
    show_progress: bool | None,
    on_error: str,
    extents: bool = False,
) -> Iterator[tuple[Tokens, list[int], list[tuple[int, Prepared]]]]:
    """Backbone outputs, and of each sequence in the order it was given to collate its item, its place and itself."""
    _check_on_error(on_error)
    bad: list[str] = []
    shortened: list[int] = []
    with answering(model):
        for first, chunk in _read(model, sequences, show_progress, on_error, bad, extents):
            shortened += [first + i for i, found in enumerate(chunk) if any(_is_shortened(p) for p in found)]
            windows = [(first + i, window) for i, found in enumerate(chunk) for window in found]
            for places in pack([len(window) for _, window in windows], batch_tokens):
                batch = collate([windows[i][1] for i in places], model.modalities).to(model.device)
                yield model.encode(batch), [windows[i][0] for i in places], [(i, windows[i][1]) for i in places]
    _warn(len(shortened), bad, len(sequences))


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise UnitxError(f"on_error is {on_error!r}; it can be 'raise' or 'skip'")


def _warn(shortened: int, bad: list[str], count: int) -> None:
    if shortened:
        warnings.warn(
            f"{shortened} of {count} items had a part longer than max_tokens; its beginning was used", stacklevel=5
        )
    if bad:
        warnings.warn(f"{len(bad)} of {count} items could not be read; the first: {bad[0]}", stacklevel=5)


def _is_shortened(sequence: Prepared) -> bool:
    return any(pieces.shortened for _, pieces in sequence.parts)


def _read(
    model: Model,
    sequences: Sequences,
    show_progress: bool | None,
    on_error: str,
    bad: list[str],
    extents: bool = False,
) -> Iterator[tuple[int, list[list[Prepared]]]]:
    """Chunks of items as their windows, with the number of the first; read in threads, one chunk ahead.

    Args:
        extents: whether to say where their tokens stand, as a task needs that tags.
    """
    from tqdm import tqdm

    processors, preparer = model.processors, Preparer(model.processors)

    def windows(parts: list[tuple[str, Any]] | BadItem) -> list[Prepared] | BadItem:
        if isinstance(parts, BadItem):
            return parts
        try:
            features = [(m, processors[m].features(processors[m].read_alone(item))) for m, item in parts]
        except BadItem as error:
            return error
        whole = preparer.windows(features)
        found = [Prepared(window, prefix_parts=model.prefix_parts) for window in whole]
        if extents:
            ((modality, item),) = parts
            of_windows = processors[modality].extents(item, [window[0][1] for window in whole])
            found = [replace(each, extents=places) for each, places in zip(found, of_windows, strict=True)]
        return found

    hidden = not (len(sequences) > CHUNK and sys.stderr.isatty()) if show_progress is None else not show_progress
    with ThreadPoolExecutor(READERS) as threads, tqdm(total=len(sequences), disable=hidden, unit="item") as bar:
        waiting = iter(sequences)

        def submit() -> list[Future[list[list[Prepared] | BadItem]]]:
            chunk = list(islice(waiting, CHUNK))
            size = min(GROUP, -(-len(chunk) // (4 * READERS)) or 1)
            groups = [chunk[i : i + size] for i in range(0, len(chunk), size)]
            return [threads.submit(lambda group: [windows(parts) for parts in group], group) for group in groups]

        ahead = submit()
        first = 0
        while ahead:
            chunk, ahead = ahead, submit()
            found = [each for future in chunk for each in future.result()]
            for error in (f for f in found if isinstance(f, BadItem)):
                if on_error == "raise":
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise error
                bad.append(str(error))
            yield first, [[] if isinstance(f, BadItem) else f for f in found]
            first += len(found)
            bar.update(len(found))
