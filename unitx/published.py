"""Published models: from a Hugging Face folder to a unitx model, by a family's table of names.

A family says what shape its config.json means and which of its tensors each of our modules is made of; the same
`Backbone` then computes what the original does. A new family is one file with one `@register_family("model_type")`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitx.config import BackboneConfig
from unitx.errors import UnitxError
from unitx.registry import FAMILIES
from unitx.task import TaskInfo
from unitx.tokenizer import Processor

if TYPE_CHECKING:
    from unitx.adapters import Adapter
    from unitx.model import Model
    from unitx.towers import Towers

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "pytorch_model.pt")
LAYER = "{i}"  # stands for a block's number, in our names and in theirs
MALFORMED = (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError)
Table = dict[str, str | tuple[str, ...]]
Change = Callable[[str, list[Tensor]], Tensor]  # ("weight" or "bias", their tensors) → ours


@dataclass
class Blueprint:
    """What a family makes of a folder.

    Attributes:
        backbone, processors, tasks: what `Model` is made from.
        table: our module → their module, or several whose tensors are joined along the first axis; {i} is a block.
            Where leaves differ, our tensor → their tensors; of none at all what `change` makes anew.
        change: our module (or tensor, as in the table) → how its tensors come from theirs, where joining is not all.
        ignored: a pattern of tensors that are not needed: known buffers, heads that are not taken over.
        left_out: a pattern of a whole part that is not, which adapters may change too: a decoder.
    """

    backbone: BackboneConfig
    processors: dict[str, Processor]
    tasks: list[TaskInfo]
    table: Table
    change: dict[str, Change] = field(default_factory=dict)
    ignored: str = r"(?!)"
    left_out: str = r"(?!)"


@dataclass
class TowersBlueprint:
    """Of a folder that holds several models with one space of embeddings.

    Attributes:
        towers: modality → its plan.
        scale, bias: the tensors of what a cosine is multiplied by, as a logarithm, and of what is added.
    """

    towers: dict[str, Blueprint]
    scale: str
    bias: str = ""


class Folder:
    """A published model's folder: its configuration, its files, its tensors, which are read one by one.

    Attributes:
        names: what a tensor is called in tables → its name in the files.

    Args:
        above: an adapter's folder, whose tokenizer, pooling and other files go before those of the base.

    Raises:
        UnitxError: no safetensors, a damaged file, or an index that names files outside the folder.
    """

    def __init__(self, path: Path, config: dict[str, Any], above: Path | None = None):
        self.path, self.config = path, config
        self.places = [path] if above is None else [above, path]
        self.files = _tensor_files(path)
        self._heads: dict[str, str] = {}
        self.leave_off()

    def leave_off(self, *prefixes: str, renamed: dict[str, str] | None = None) -> None:
        """Let tables leave off what names begin with where a head stands on the model, "bert.".

        Args:
            renamed: pattern → what stands in its place, where the original's modules have other names than its files:
                adapters name modules.
        """
        self._prefixes, self._renamed = prefixes, renamed or {}
        self.names = {self.bare(name): name for name in self.files}

    def add(self, part: str) -> None:
        """Take the tensors of a folder within as the folder's own."""
        self.files |= _tensor_files(self.path / part)
        self.leave_off(*self._prefixes, renamed=self._renamed)

    def add_head(self, file: Path, names: dict[str, str]) -> None:
        """Take tensors of an adapter's file, a head that the base lacks: their names there → in the base."""
        self.files |= dict.fromkeys(names, file)
        self._heads = names
        self.leave_off(*self._prefixes, renamed=self._renamed)

    def bare(self, name: str) -> str:
        """What a tensor is called in tables; norms of old checkpoints have other leaves."""
        name = self._heads.get(name, name)
        for prefix in self._prefixes:
            name = name.removeprefix(prefix)
        for pattern, instead in self._renamed.items():
            name = re.sub(pattern, instead, name)
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    def read_bytes(self, name: str) -> bytes:
        """A file of the folder; nothing where it lacks it."""
        return next(((place / name).read_bytes() for place in self.places if (place / name).is_file()), b"")

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder; None where it lacks it."""
        data = self.read_bytes(name)
        return _parsed(self.path / name, data) if data else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, by its name in tables.

        Raises:
            ValueError: there is none.
        """
        from safetensors import safe_open

        if name not in self.names:
            raise ValueError(f"there is no tensor '{name}' beside it")
        with safe_open(self.files[self.names[name]], "pt") as file:
            return tuple(file.get_slice(self.names[name]).get_shape())

    def number(self, name: str) -> float:
        """A tensor of one element.

        Raises:
            UnitxError: there is none of that name.
        """
        if name not in self.names:
            raise UnitxError(f"{self.path} lacks the tensor '{name}'")
        return self.tensors([name])[0].item()

    def tensors(self, names: Iterable[str]) -> list[Tensor]:
        """Tensors as they are stored, by their names in tables. A file is mapped anew each time, so that nothing of it
        stays in memory after."""
        from safetensors import safe_open

        found = []
        for name in (self.names[name] for name in names):
            with safe_open(self.files[name], "pt") as file:
                found.append(file.get_tensor(name))
        return found


def transposed(leaf: str, tensors: list[Tensor]) -> Tensor:
    """A linear map that is stored as (in, out)."""
    (value,) = tensors
    return value.T if leaf == "weight" else value


def is_published(config: dict[str, Any]) -> bool:
    """Whether a config.json is one of Hugging Face's or timm's."""
    return ("model_type" in config or "architecture" in config) and "backbone" not in config


def read_blueprint(folder: Folder) -> Blueprint | TowersBlueprint:
    """What the folder's family makes of it.

    Raises:
        UnitxError: the family is not known, or it does not know such a configuration.
    """
    from unitx.families.sentence_transformers import with_modules

    if folder.config.get("quantization_config"):
        raise UnitxError(f"{folder.path} holds quantized weights, which are not supported: take the unquantized model")
    kind = str(folder.config.get("model_type", "timm"))
    if kind not in FAMILIES.names():
        raise UnitxError(
            f"{folder.path}: models of type '{kind}' are not known; known are {', '.join(FAMILIES.names())}; "
            "add one with @register_family in a file of your own, and --import it"
        )
    try:
        plan = FAMILIES.get(kind)(folder)
        return plan if isinstance(plan, TowersBlueprint) else with_modules(folder, plan)
    except KeyError as error:
        raise UnitxError(f"{folder.path / 'config.json'} lacks {error}, which a '{kind}' model needs") from error
    except MALFORMED as error:
        raise _malformed(folder, error) from error


def _malformed(folder: Folder, error: Exception) -> UnitxError:
    """What a family, or the model that it describes, made of values that no such file has."""
    where = folder.path if ".json" in str(error) else folder.path / "config.json"
    return UnitxError(f"{where}: {' '.join(str(error).split())}")


def load_published(folder: Folder, adapter: Adapter | None = None) -> Model | Towers:
    """The model in a published model's folder.

    Args:
        adapter: of LoRA, which becomes part of the tensors as they are read, before any are joined or turned.

    Raises:
        UnitxError: the family is not known, a tensor is missing, left over, or of another shape; names it.
    """
    from unitx.towers import Towers

    plan = read_blueprint(folder)
    plans = [plan] if isinstance(plan, Blueprint) else list(plan.towers.values())
    adapter = None if adapter is None else adapter.renamed(folder.bare)
    left_out = "|".join(one.left_out for one in plans)
    # All names are known before a tensor is read.
    try:
        models = [_empty(one) for one in plans]
    except MALFORMED as error:
        raise _malformed(folder, error) from error
    needed = [_needed(model, one, folder) for model, one in zip(models, plans, strict=True)]
    used = {name for of_model in needed for names in of_model.values() for name in names}
    if isinstance(plan, TowersBlueprint):
        used |= {plan.scale, plan.bias}
    _check_all_used(folder, used, [left_out, *(one.ignored for one in plans)])
    for model, one, names in zip(models, plans, needed, strict=True):
        _fill(model, one, names, folder, adapter)
    if adapter is not None:
        adapter.unused = {name for name in adapter.unused if not re.search(left_out, name)}
        adapter.check_used()
    if isinstance(plan, Blueprint):
        return models[0]
    towers = dict(zip(plan.towers, models, strict=True))
    return Towers(towers, math.exp(folder.number(plan.scale)), folder.number(plan.bias) if plan.bias else 0.0)


def _empty(plan: Blueprint) -> Model:
    """The model of a plan, whose weights are to come."""
    from accelerate import init_empty_weights

    from unitx.model import Model

    with init_empty_weights(include_buffers=False):
        model = Model(plan.backbone, plan.processors, plan.tasks)
    model.tie()
    return model


def _needed(model: Model, plan: Blueprint, folder: Folder) -> dict[str, list[str]]:
    """Our tensors, the largest first → theirs; while one is made it stands in memory twice."""
    tied = model.tied()
    by_size = sorted(model.state_dict().items(), key=lambda item: -item[1].numel())
    found = {name: _sources(name, plan.table) for name, _ in by_size if name not in tied}
    for name, wanted in found.items():
        for one in wanted:
            if one not in folder.names:
                raise UnitxError(f"{folder.path} lacks the tensor '{one}' ({name})")
    return found


def _fill(
    model: Model, plan: Blueprint, needed: dict[str, list[str]], folder: Folder, adapter: Adapter | None
) -> None:
    path, tied, shapes = folder.path, model.tied(), model.state_dict()
    state: dict[str, Tensor] = {}
    for name, wanted in needed.items():
        ours = shapes[name]
        # Before what is read: what is freed after it then leaves no holes in memory.
        state[name] = torch.empty(ours.shape)
        tensors = folder.tensors(wanted)
        for one, tensor in zip(wanted, tensors, strict=True):
            if not tensor.is_floating_point():
                raise UnitxError(f"{path}: '{one}' is stored as {tensor.dtype}: quantized weights are not supported")
        if adapter is not None and name not in tied.values():  # a table that two share would change for both
            turned = plan.change.get(_place(name)[0]) is transposed
            tensors = [adapter.adapted(one, t, turned) for one, t in zip(wanted, tensors, strict=True)]
        if not _filled(state[name], name, tensors, plan):
            raise UnitxError(
                f"{path}: '{wanted[0]}' is {tuple(tensors[0].shape)}, which does not give the {tuple(ours.shape)} that "
                "config.json asks for: they are not of one model"
            )
        del tensors
    model.load_state_dict(state | {name: state[first] for name, first in tied.items()}, assign=True)
    model.tie()


def _check_all_used(folder: Folder, used: set[str], ignored: list[str]) -> None:
    left = [name for bare, name in folder.names.items() if bare not in used and not re.search("|".join(ignored), bare)]
    if left:
        raise UnitxError(
            f"{folder.path} holds tensors that such a model has no use for: {sorted(left)[:5]}; "
            "if they are a head, save the model without it (model.base_model.save_pretrained)"
        )


def _place(name: str) -> tuple[str, str, str]:
    """Of one of our tensors: the module as tables call it, the number of its block ("" outside), and its leaf."""
    module, _, leaf = name.rpartition(".")
    block = re.search(r"\.(\d+)\.", module)
    return (module, "", leaf) if block is None else (module.replace(block[0], f".{LAYER}.", 1), block[1], leaf)


def _sources(name: str, table: Table) -> list[str]:
    """The names of their tensors that one of ours is made of."""
    module, number, leaf = _place(name)
    whole = f"{module}.{leaf}"
    found = table[whole if whole in table else module]
    names = [found] if isinstance(found, str) else found
    return [one.replace(LAYER, number) + ("" if whole in table else f".{leaf}") for one in names]


def _filled(place: Tensor, name: str, tensors: list[Tensor], plan: Blueprint) -> bool:
    """Write what one of our tensors is made of theirs into its place; False where it does not fit there."""
    module, _, leaf = _place(name)
    change = plan.change.get(f"{module}.{leaf}", plan.change.get(module))
    try:
        if change:  # which may add, and in half precision would not as the original does
            made = change(leaf, [tensor.float() for tensor in tensors])
        else:
            made = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    except RuntimeError:  # halves of heads that do not come out even
        return False
    if made.shape != place.shape:
        return False
    place.copy_(made)
    return True


def _parsed(file: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnitxError(f"{file} is not valid JSON ({error}): copy it again from its source") from error


def _tensor_files(path: Path) -> dict[str, Path]:
    """Tensor → the file that holds it."""
    from safetensors import SafetensorError, safe_open

    if (path / INDEX).is_file():
        index = _parsed(path / INDEX, (path / INDEX).read_bytes())
        if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
            raise UnitxError(f"{path / INDEX} has no weight_map: copy it again from its source")
        shards = sorted({str(shard) for shard in index["weight_map"].values()})
    elif (path / SINGLE).is_file():
        shards = [SINGLE]
    else:
        pickles = [name for name in PICKLES if (path / name).is_file()]
        hint = (
            f"{pickles[0]} is a pickle, which may run code when it is read: save the model again with "
            "safe_serialization=True, or take a revision that has safetensors"
            if pickles else "copy the whole folder; of a hub id, name a revision that has safetensors"
        )  # fmt: skip
        raise UnitxError(f"{path} has no {SINGLE}: {hint}")
    found: dict[str, Path] = {}
    for shard in shards:
        file = path / shard
        if Path(shard).is_absolute() or ".." in Path(shard).parts:
            raise UnitxError(f"{path / INDEX} names {shard}, which lies outside the folder")
        try:
            with safe_open(file, "pt") as opened:
                found |= dict.fromkeys(opened.keys(), file)
        except (SafetensorError, OSError) as error:
            raise UnitxError(f"{file} cannot be read ({error}): copy it again from its source") from error
    if SINGLE not in shards and (path / SINGLE).is_file():
        raise UnitxError(f"{path} has {SINGLE}, and {INDEX} names other files: remove what is left of another save")
    return found
