"""A recipe: everything that a run needs, as one dataclass tree; nothing here imports torch.

The same fields are keys of a YAML file, flags of the command line and arguments in Python. What is left empty is
decided by the one dial, `size`, or from the data; `recipe.yaml` in a run's folder keeps given and resolved apart.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from unitx.config import SIZES, BackboneConfig
from unitx.errors import UnitxError

FORMAT = 1  # of recipe.yaml and config.json; raised when older files can no longer be read
IN_MEMORY = "in_memory"  # stands in recipe.yaml for data that no file holds, with the kind of object they were


@dataclass
class TaskRecipe:
    """One task of a run.

    Attributes:
        kind: the name of a registered task (classify, align, next_token, or a plugin's).
        data: as `Recipe.data`, for this task alone; of the same world with the recipe's options where it sets no own.
        test: as `Recipe.test`, for this task alone.
        reads: as `Recipe.reads`, for this task alone.
        label: as `Recipe.label`, for this task alone.
        weight: of its loss in the sum over tasks, and of its share in a batch; see `Recipe.temperature`.
        options: the task's own options, by name.
    """

    kind: str = "classify"
    data: Any = None
    test: Any = None
    reads: str | dict[str, str] | None = None
    label: str | None = None
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelRecipe:
    """The backbone's shape; what is empty follows from `size`."""

    dim: int | None = None
    depth: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    window: int | None = None


@dataclass
class Recipe:
    """A run.

    Attributes:
        about: one line that says what the recipe is for.
        tasks: name → task; all are trained at once, in the same batches.
        data: folder, file, hub name or `world:emoji`, for the tasks that do not name their own.
        test: data to evaluate on; without it a seeded part of `data` is held out, of made data the validation part.
        reads: columns and what they are read as, "photo:image,title:text", or as fields; guessed where it is plain.
        label: the column that holds the answer.
        tokenizers: modality → options of its processor (patch, max_tokens, vocabulary, …).
        size: nano, tiny, small, base or large: width, depth, heads, learning rate and batch together.
        model: the backbone's shape, where it shall differ from `size`.
        out: the run's folder.
        steps: length of the run in steps.
        epochs: length in passes over the data of the task that takes most steps for one.
        minutes: length in minutes of training; the schedule fits whichever of the three is given.
        batch_tokens: tokens a step, about: each task's rows a step follow from its mean length. If not given, by
            size, and fewer where an epoch would be less than twenty steps.
        accumulate: micro-batches that a step is cut into, where memory is short.
        lr: peak learning rate.
        weight_decay: decoupled (Loshchilov and Hutter 2017).
        warmup: share of the run in which the learning rate rises.
        clip: largest norm of the gradient.
        optimizer: muon (hidden matrices; the rest by AdamW) or adamw.
        augment: none, light or strong variation of the training items, growing through the run.
        label_smoothing: of classify tasks that do not set their own; None for the task's default.
        class_weights: auto or none, of classify tasks that do not set their own.
        holdout: share of the rows held out where no test data is given, from all tasks on the same data.
        temperature: a task's weight grows with its rows to the power of 1 / this (Raffel et al. 2020): 1 gives all rows
            the same weight; if not given, tasks of few rows weigh as much as those of many.
        loss_weighting: fixed (by the tasks' weights), or uncertainty, which is learned for each task and also divides
            its loss (Kendall et al. 2018).
        evaluations: how often the held-out rows are scored, evenly over the run; the last at its end.
        keep_best: mean keeps the model that is best over all tasks; each also one for every task, in best/TASK.
        checkpoint_every: steps between checkpoints that `--resume` continues from, besides those at each evaluation.
        precision: auto (measured), fp32 or bf16.
        seed: of everything random.
        workers: processes that prepare data; None for what fits the machine.
        tracker: an Accelerate tracker (tensorboard, wandb, …).
        plugins: Python files to import first.
        tune: what finetune trains of the backbone: all, head, norms or lora.
        freeze: modalities whose tokenizer and answers shall stay exactly as they are, "text,image"; an align task then
            teaches a new modality the space that they have.
        layer_decay: factor of the learning rate for each block further from the output; below 1 for fine-tuning.
    """

    about: str = ""
    tasks: dict[str, TaskRecipe] = field(default_factory=dict)
    data: Any = None
    test: Any = None
    reads: str | dict[str, str] | None = None
    label: str | None = None
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: str = "nano"
    model: ModelRecipe = field(default_factory=ModelRecipe)
    out: str | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_tokens: int | None = None
    accumulate: int = 1
    lr: float | None = None
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    optimizer: str = "muon"
    augment: str = "light"
    label_smoothing: float | None = None
    class_weights: str | None = None
    holdout: float = 0.1
    temperature: float | None = None
    loss_weighting: str = "fixed"
    evaluations: int = 10
    keep_best: str = "mean"
    checkpoint_every: int | None = None
    precision: str = "auto"
    seed: int = 0
    workers: int | None = None
    tracker: str | None = None
    plugins: list[str] = field(default_factory=list)
    tune: str = "all"
    freeze: str = ""
    layer_decay: float = 1.0


LENGTHS = ("steps", "epochs", "minutes")
POSITIVE = (
    *LENGTHS, "batch_tokens", "accumulate", "lr", "clip", "evaluations", "checkpoint_every", "layer_decay",
    "temperature",
)  # fmt: skip
CHOICES = {
    "size": tuple(SIZES),
    "optimizer": ("muon", "adamw"),
    "augment": ("none", "light", "strong"),
    "precision": ("auto", "fp32", "bf16"),
    "loss_weighting": ("fixed", "uncertainty"),
    "keep_best": ("mean", "each"),
    "tune": ("all", "head", "norms", "lora"),
    "class_weights": (None, "none", "auto"),
}


def shipped() -> dict[str, str]:
    """Name → one line about it, for every recipe that comes along."""
    found = {}
    for file in sorted((files("unitx") / "recipes").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            found[file.name.removesuffix(".yaml")] = yaml.safe_load(file.read_text("utf-8")).get("about", "")
    return found


def no_recipe(name: str) -> UnitxError:
    """What to say of a name that no recipe has."""
    close = difflib.get_close_matches(name, shipped(), 1)
    hint = f"did you mean '{close[0]}'?" if close else f"give a YAML file or one of {', '.join(shipped())}"
    return UnitxError(f"there is no recipe '{name}': {hint}")


def load_recipe(source: str | Path | Recipe) -> Recipe:
    """A recipe by name (one that ships), by the path of a YAML file or of a run's folder, or as it is.

    Raises:
        UnitxError: no such recipe, not YAML, an unknown field, a value of the wrong kind.
    """
    if isinstance(source, Recipe):
        return replace(source)
    path = Path(source).expanduser()
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    if path.is_file():
        try:
            text, name = path.read_text("utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise UnitxError(f"{path} is not UTF-8 text: give a recipe's YAML file") from error
    elif str(source) in shipped():
        text, name = (files("unitx") / "recipes" / f"{source}.yaml").read_text("utf-8"), str(source)
    else:
        raise no_recipe(str(source))
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UnitxError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(tree, dict) and "given" in tree:
        if tree.get("format") != FORMAT:
            raise UnitxError(f"{name} has format {tree.get('format')}; this version of unitx reads format {FORMAT}")
        tree = tree["given"]
    return from_dict(Recipe, tree, name)


def from_dict(cls: type, tree: Any, where: str) -> Any:
    """Build a configuration dataclass from plain data.

    Raises:
        UnitxError: a field that it does not have, or a value of the wrong kind; named.
    """
    if not isinstance(tree, dict):
        raise UnitxError(f"{where}: expected fields, found {tree!r}")
    known = {f.name: f for f in fields(cls)}
    for name in tree:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}"
            raise UnitxError(f"{where}: unknown field '{name}'; {hint}")
    values = dict(tree)
    if cls is Recipe and isinstance(tasks := values.get("tasks"), dict):
        values["tasks"] = {name: from_dict(TaskRecipe, t, f"{where}: tasks.{name}") for name, t in tasks.items()}
    if cls is Recipe and "model" in values:
        values["model"] = from_dict(ModelRecipe, values["model"] or {}, f"{where}: model")
    kinds = _kinds(cls)
    return cls(**{name: _as_kind(kinds[name], value, f"{where}: {name}") for name, value in values.items()})


def with_tuples(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a processor, which is frozen and holds tuples where JSON and YAML know lists alone."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


@cache
def _kinds(cls: type) -> dict[str, Any]:
    """The types of its fields; of a plugin whose types are not there when it runs (TYPE_CHECKING) nothing is known."""
    try:
        return get_type_hints(cls)
    except NameError:
        return {f.name: Any for f in fields(cls)}


KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "fields",
    NoneType: "nothing",
}  # fmt: skip


def _as_kind(kind: Any, value: Any, where: str) -> Any:
    """A value as a field of this type holds it; YAML's 1e-3 is text and becomes a number, a path becomes text. Types
    that plain data do not have are left to the class."""
    kinds = [get_origin(k) or k for k in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
    if not KINDS.keys() >= {*kinds} or (value is None and NoneType in kinds):
        return value
    if isinstance(value, os.PathLike) and str in kinds:
        return os.fspath(value)
    number = _number(value) if int in kinds or float in kinds else None
    if number is not None and (float in kinds or float(number).is_integer()):
        return float(number) if float in kinds else int(number)
    others = tuple(k for k in kinds if k not in (int, float)) + ((tuple,) if list in kinds else ())
    if isinstance(value, others) or (bool in kinds and type(value).__name__ == "bool"):  # NumPy's too
        return value
    wanted = " or ".join(KINDS[k] for k in kinds if k is not NoneType)
    raise UnitxError(f"{where} is {value!r}; it must be {wanted}")


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, Real):  # NumPy's numbers too
        return int(value) if isinstance(value, Integral) else float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def update(recipe: Recipe, **given: Any) -> Recipe:
    """A copy of `recipe` with some fields set, as keyword arguments or with dots ("model.depth")."""
    tree = to_dict(recipe)
    if any(given.get(name) is not None for name in LENGTHS):
        tree |= dict.fromkeys(LENGTHS)  # the length that is given replaces the recipe's, whichever that was
    for name, value in given.items():
        *path, last = name.split(".")
        if path[:1] == ["tasks"] and path[1:] and path[1] not in tree["tasks"] and f"tasks.{path[1]}.kind" not in given:
            raise UnitxError(
                f"{name}: the recipe has no task '{path[1]}'; it has: {', '.join(tree['tasks']) or 'none'}"
            )
        place = tree
        for step in path:
            if place.get(step) is None:
                place[step] = {}
            place = place[step]
            if not isinstance(place, dict):
                raise UnitxError(f"{name}: '{step}' is {place!r} and has no fields of its own")
        place[last] = _plain(value)
    return from_dict(Recipe, tree, "recipe")


def to_dict(recipe: Recipe | TaskRecipe | ModelRecipe) -> dict[str, Any]:
    """Plain data of a configuration; objects given as data (a DataFrame, a Source) are kept as they are."""
    return {f.name: _plain(getattr(recipe, f.name)) for f in fields(recipe)}


def _plain(value: Any) -> Any:
    if isinstance(value, TaskRecipe | ModelRecipe):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return value


def check(recipe: Recipe) -> None:
    """Raise UnitxError for what is wrong with a recipe before any data is opened."""
    if not recipe.tasks:
        raise UnitxError("the recipe has no task; give it one under 'tasks'")
    for name, kind in in_memory(recipe).items():
        again = f'**{{"{name}": …}}' if "." in name else f"{name}=…"
        raise UnitxError(
            f"{name} was in memory ({kind}), and recipe.yaml does not hold it: give it again from Python, as in "
            f"unitx.resume(RUN, {again})"
        )
    for name, allowed in CHOICES.items():
        value = getattr(recipe, name)
        if value not in allowed:
            raise UnitxError(f"{name} is {value!r}; it can be {', '.join(str(a) for a in allowed if a)}")
    lengths = [name for name in LENGTHS if getattr(recipe, name) is not None]
    if len(lengths) > 1:
        raise UnitxError(f"give one length, not {' and '.join(lengths)}")
    for name in POSITIVE:
        value = getattr(recipe, name)
        if value is not None and not value > 0:
            raise UnitxError(f"{name} is {value}; it must be more than 0")
    for name in ("holdout", "warmup", "label_smoothing"):
        value = getattr(recipe, name)
        if value is not None and not 0 <= value < 1:
            raise UnitxError(f"{name} is {value}; it must be from 0 to below 1")
    if min(recipe.workers or 0, recipe.seed, recipe.weight_decay) < 0 or recipe.layer_decay > 1:
        raise UnitxError("workers, seed and weight_decay must be at least 0, and layer_decay at most 1")
    for modality, options in recipe.tokenizers.items():
        if not isinstance(options, dict):
            raise UnitxError(f"tokenizers.{modality} is {options!r}; it must be fields, such as max_tokens: 256")
    if recipe.tracker:
        _check_tracker(recipe.tracker)
    for name, task in recipe.tasks.items():
        if not name or "." in name or "/" in name:
            raise UnitxError(f"a task cannot be called '{name}': leave out dots and slashes")
        if not task.weight > 0:
            raise UnitxError(f"tasks.{name}.weight is {task.weight}; it must be more than 0")


def _check_tracker(name: str) -> None:
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [kind.value for kind in LoggerType if kind is not LoggerType.ALL]
    if name not in known:
        raise UnitxError(f"there is no --tracker {name}; there are: {', '.join(known)}")
    if LoggerType(name) not in get_available_trackers():
        raise UnitxError(f"--tracker {name} is not installed: pip install {name}")


def backbone_config(recipe: Recipe) -> BackboneConfig:
    """The backbone's shape by `size`, with the fields of `model` that were given.

    Raises:
        UnitxError: the fields do not fit together.
    """
    size = SIZES[recipe.size]
    shape: dict[str, Any] = {"dim": size.dim, "depth": size.depth, "heads": size.heads}
    shape |= {name: value for name, value in asdict(recipe.model).items() if value is not None}
    try:
        return BackboneConfig(**shape)
    except ValueError as error:
        raise UnitxError(f"model: {error}") from error


def save_recipe(path: Path, given: Recipe, resolved: dict[str, Any]) -> None:
    """Write `recipe.yaml`: what was given (it repeats the run) and, apart from it, what was resolved.

    Data in memory are not written: there can be any number of rows, of objects that YAML does not know.
    """
    tree = {"format": FORMAT, "given": _writable(_trimmed(given)), "resolved": _writable(resolved)}
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "utf-8")


def _trimmed(recipe: Recipe) -> dict[str, Any]:
    """Only the fields that differ from their defaults."""
    plain, default = to_dict(recipe), to_dict(Recipe())
    for _, owner, name in _data_fields(plain):
        owner[name] = _named(owner[name])
    return {name: value for name, value in plain.items() if value != default[name]}


def _data_fields(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The fields of a recipe that hold data: the whole name ("tasks.kind.test"), what has it, and its name there."""
    for prefix, owner in (("", tree), *((f"tasks.{name}.", task) for name, task in tree["tasks"].items())):
        yield from ((prefix + name, owner, name) for name in ("data", "test"))


def _named(data: Any) -> Any:
    """Data as recipe.yaml names them: a path, a name, a world; of what is in memory the kind of object."""
    named = data is None or isinstance(data, str | os.PathLike) or is_world(data)
    return data if named else {IN_MEMORY: type(data).__name__}


def is_world(data: Any) -> bool:
    """Whether it names made data: {"world": NAME, option: …}."""
    return isinstance(data, dict) and isinstance(data.get("world"), str)


def in_memory(recipe: Recipe) -> dict[str, str]:
    """The fields whose data were in memory when the recipe was written, and the kinds of objects that they were."""
    given = {name: owner[last] for name, owner, last in _data_fields(to_dict(recipe))}
    kinds = {name: data.get(IN_MEMORY) for name, data in given.items() if isinstance(data, dict)}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, str)}


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _writable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
