"""Published models: from a Hugging Face folder to a unitx model, by a family's table of names.

A family says what shape its config.json means and which of its tensors each of our modules is made of; the same
`Backbone` then computes what the original does. A new family is one file with one `@register_family("model_type")`.
"""

from __future__ import annotations

import json
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

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "pytorch_model.pt")
LAYER = "{i}"  # stands for a block's number, in our names and in theirs
Table = dict[str, str | tuple[str, ...]]
Change = Callable[[str, list[Tensor]], Tensor]  # ("weight" or "bias", their tensors) → ours


@dataclass
class Blueprint:
    """What a family makes of a folder.

    Attributes:
        backbone, processors, tasks: what `Model` is made from.
        table: our module → their module, or several whose tensors are joined along the first axis; {i} is a block.
        change: our module → how its tensors come from theirs, where joining is not all.
        prefixes: what their names may begin with, and what is left off.
        ignored: a pattern of tensors that are not needed: known buffers, heads that are not taken over.
    """

    backbone: BackboneConfig
    processors: dict[str, Processor]
    tasks: list[TaskInfo]
    table: Table
    change: dict[str, Change] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    ignored: str = r"(?!)"


class Folder:
    """A published model's folder: its configuration, its files, its tensors, which are read one by one.

    Args:
        above: an adapter's folder, whose tokenizer, pooling and other files go before those of the base.

    Raises:
        UnitxError: no safetensors, a damaged file, or an index that names files outside the folder.
    """

    def __init__(self, path: Path, config: dict[str, Any], above: Path | None = None):
        self.path, self.config = path, config
        self.places = [path] if above is None else [above, path]
        self.files = _tensor_files(path)

    @property
    def names(self) -> set[str]:
        return set(self.files)

    def read_bytes(self, name: str) -> bytes:
        """A file of the folder; nothing where it lacks it."""
        return next(((place / name).read_bytes() for place in self.places if (place / name).is_file()), b"")

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder; None where it lacks it."""
        data = self.read_bytes(name)
        return _parsed(self.path / name, data) if data else None

    def tensors(self, names: Iterable[str]) -> list[Tensor]:
        """Tensors as they are stored. A file is mapped anew each time, so that nothing of it stays in memory after."""
        from safetensors import safe_open

        found = []
        for name in names:
            with safe_open(self.files[name], "pt") as file:
                found.append(file.get_tensor(name))
        return found


def transposed(leaf: str, tensors: list[Tensor]) -> Tensor:
    """A linear map that is stored as (in, out)."""
    (value,) = tensors
    return value.T if leaf == "weight" else value


def is_published(config: dict[str, Any]) -> bool:
    """Whether a config.json is one of Hugging Face's."""
    return "model_type" in config and "backbone" not in config


def read_blueprint(folder: Folder) -> Blueprint:
    """What the folder's family makes of it.

    Raises:
        UnitxError: the family is not known, or it does not know such a configuration.
    """
    from unitx.families.sentence_transformers import with_modules

    kind = str(folder.config["model_type"])
    if kind not in FAMILIES.names():
        raise UnitxError(
            f"{folder.path}: models of type '{kind}' are not known; known are {', '.join(FAMILIES.names())}; "
            "add one with @register_family in a file of your own, and --import it"
        )
    try:
        return with_modules(folder, FAMILIES.get(kind)(folder))
    except KeyError as error:
        raise UnitxError(f"{folder.path / 'config.json'} lacks {error}, which a '{kind}' model needs") from error
    except ValueError as error:
        raise UnitxError(f"{folder.path / 'config.json'}: {error}") from error


def load_published(folder: Folder, adapter: Adapter | None = None) -> Any:
    """The model in a published model's folder.

    Args:
        adapter: of LoRA, which becomes part of the tensors as they are read, before any are joined or turned.

    Raises:
        UnitxError: the family is not known, a tensor is missing, left over, or of another shape; names it.
    """
    from accelerate import init_empty_weights

    from unitx.model import Model

    path = folder.path
    plan = read_blueprint(folder)
    adapter = None if adapter is None else adapter.renamed(lambda name: _bare(name, plan.prefixes))
    with init_empty_weights(include_buffers=False):
        model = Model(plan.backbone, plan.processors, plan.tasks)
    model.tie()
    tied = model.tied()
    theirs = {_bare(name, plan.prefixes): name for name in folder.names}
    used: set[str] = set()
    state: dict[str, Tensor] = {}
    # The largest first: while one is made it stands in memory twice.
    ours_by_size = sorted(model.state_dict().items(), key=lambda item: -item[1].numel())
    for name, ours in (item for item in ours_by_size if item[0] not in tied):
        wanted = _sources(name, plan.table)
        for one in wanted:
            if one not in theirs:
                raise UnitxError(f"{path} lacks the tensor '{one}' ({name})")
        used.update(wanted)
        # Before what is read: what is freed after it then leaves no holes in memory.
        state[name] = torch.empty(ours.shape)
        tensors = folder.tensors(theirs[one] for one in wanted)
        if adapter is not None and name not in tied.values():  # a table that two share would change for both
            turned = plan.change.get(_place(name)[0]) is transposed
            tensors = [adapter.adapted(one, t, turned) for one, t in zip(wanted, tensors, strict=True)]
        if not _filled(state[name], name, tensors, plan):
            raise UnitxError(
                f"{path}: '{wanted[0]}' is {tuple(tensors[0].shape)}, which does not give the {tuple(ours.shape)} that "
                "config.json asks for: they are not of one model"
            )
        del tensors
    left = sorted(name for bare, name in theirs.items() if bare not in used and not re.search(plan.ignored, bare))
    if left:
        raise UnitxError(
            f"{path} holds tensors that a '{folder.config['model_type']}' model has no use for: {left[:5]}; "
            "if they are a head, save the model without it (model.base_model.save_pretrained)"
        )
    if adapter is not None:
        adapter.check_used()
    model.load_state_dict(state | {name: state[first] for name, first in tied.items()}, assign=True)
    model.tie()
    return model


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    """Their name without what heads of theirs put before it; norms of old checkpoints have other leaves."""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def _place(name: str) -> tuple[str, str, str]:
    """Of one of our tensors: the module as tables call it, the number of its block ("" outside), and its leaf."""
    module, _, leaf = name.rpartition(".")
    block = re.search(r"\.(\d+)\.", module)
    return (module, "", leaf) if block is None else (module.replace(block[0], f".{LAYER}.", 1), block[1], leaf)


def _sources(name: str, table: Table) -> list[str]:
    """The names of their tensors that one of ours is made of."""
    module, number, leaf = _place(name)
    found = table[module]
    names = [found] if isinstance(found, str) else found
    return [f"{one.replace(LAYER, number)}.{leaf}" for one in names]


def _filled(place: Tensor, name: str, tensors: list[Tensor], plan: Blueprint) -> bool:
    """Write what one of our tensors is made of theirs into its place; False where it does not fit there."""
    module, _, leaf = _place(name)
    change = plan.change.get(module)
    try:
        made = change(leaf, tensors) if change else torch.cat(tensors) if len(tensors) > 1 else tensors[0]
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
        shards = sorted(set(index["weight_map"].values()))
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
    return found
