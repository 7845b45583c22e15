"""Adapter folders as the library `peft` writes them: what LoRA (Hu et al. 2021) adds to a base that lies elsewhere.

An adapter of peft's is added to the base's tensors as they are read. One that `save_adapter` wrote also holds what else
was trained, new heads and tokenizers; its low-rank maps stay beside the weights, so that they can train on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unitx.errors import UnitxError
from unitx.lora import ALPHA, RANK, LoRA, has_lora, without_lora

if TYPE_CHECKING:
    from unitx.model import Model
    from unitx.towers import Towers

ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # peft's two wrappers around the base
LINEARS = r"backbone\.blocks\.\d+\.(attn\.(qkv|out)|mlp\.(up|down))"  # what `add_lora` adapts, as peft's pattern
# Fields of adapter_config.json that are read here, that only training needs, or whose effect the tensors' names show.
# fan_in_fan_out is peft's note of the last matrix that it adapted; the base's family knows it of each.
KNOWN = set(
    "peft_type task_type base_model_name_or_path revision auto_mapping inference_mode peft_version r lora_alpha "
    "lora_dropout use_rslora rank_pattern alpha_pattern fan_in_fan_out target_modules exclude_modules modules_to_save "
    "layers_to_transform layers_pattern megatron_core runtime_config qalora_group_size eva_config ensure_weight_tying "
    "bias init_lora_weights".split()
)
CLASSIFIER = re.compile(r"((pre_|cls_|distillation_)?classifier|projector|score|head)\..+")
OTHER_TASKS = ("TOKEN_CLS", "QUESTION_ANS")  # whose heads have a classifier's names, and answer for each token
HARMLESS_INIT = (True, False, "gaussian", "eva", "orthogonal")  # the others change the base as well


@dataclass
class LowRank:
    """What is added to one matrix of the base: scale · B · A.

    Attributes:
        A, B: (rank, in), (out, rank).
    """

    A: Tensor
    B: Tensor
    scale: float


@dataclass
class Adapter:
    """What an adapter's folder holds, by the names of the base's tensors.

    Attributes:
        base, revision: where the base is, and which one of the hub.
        task: what it was made for, in peft's words.
        pairs: weight → what is added to it.
        whole: tensors that stand in place of the base's.
        unused: names of either that change something, and that no tensor of the base has asked for yet.
    """

    folder: Path
    base: str
    revision: str | None
    task: str | None
    pairs: dict[str, LowRank]
    whole: dict[str, Tensor]
    unused: set[str] = field(init=False)

    def __post_init__(self) -> None:
        # A map whose second half is still zero was never trained: a pooler's, where embeddings do without it.
        self.unused = {name for name, pair in self.pairs.items() if pair.B.any()} | self.whole.keys()

    def renamed(self, rename: Callable[[str], str]) -> Adapter:
        """The same with other names."""
        pairs = {rename(name): pair for name, pair in self.pairs.items()}
        whole = {rename(name): value for name, value in self.whole.items()}
        return replace(self, pairs=pairs, whole=whole)

    def head(self, names: Collection[str]) -> dict[str, str]:
        """What it has of a classifier that the base lacks: each tensor's name in its file → in the base.

        Args:
            names: of the base's tensors.
        """

        def is_there(name: str) -> bool:  # names may begin with the module that a head stands on
            return any(f".{name}".endswith(f".{one}") or f".{one}".endswith(f".{name}") for one in names)

        found = [] if self.task in OTHER_TASKS else filter(CLASSIFIER.fullmatch, self.whole)
        return {PREFIX + name: name for name in found if not is_there(name)}

    def adapted(self, name: str, value: Tensor, fan_in_fan_out: bool = False) -> Tensor:
        """A tensor of the base as the adapter changes it.

        Args:
            fan_in_fan_out: whether it is stored as (in, out).

        Raises:
            UnitxError: the adapter is for a tensor of another shape.
        """
        self.unused.discard(name)
        if name in self.whole:
            self._check_fits(name, self.whole[name].shape, value.shape)
            value = self.whole[name]
        if name not in self.pairs:
            return value
        pair = self.pairs[name]
        left, right = (pair.A.T, pair.B.T) if fan_in_fan_out else (pair.B, pair.A)
        self._check_fits(name, (left.shape[0], right.shape[1]), value.shape)
        return value.to(torch.float32, copy=True).addmm_(left.float(), right.float(), alpha=pair.scale)

    def _check_fits(self, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if tuple(found) != tuple(wanted):
            raise UnitxError(
                f"{self.folder} changes '{name}' as {tuple(found)}, and its base {self.base} has it as "
                f"{tuple(wanted)}: it was made for another model"
            )

    def check_used(self) -> None:
        """Raise UnitxError where the adapter has something that the base has no place for."""
        if self.unused:
            raise UnitxError(
                f"{self.folder} changes what its base {self.base} does not have or is not read here: "
                f"{sorted(self.unused)[:5]}; it is for another model, for a head that is not taken over, or for a "
                "table of token vectors that the head shares"
            )


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter's."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder.

    Raises:
        UnitxError: a file is missing or broken, or the adapter is of a kind that is not supported; names what.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / ADAPTER_WEIGHTS
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
        _check_supported(config, folder / ADAPTER_CONFIG)
        if not file.is_file():
            pickled = (folder / PICKLE).is_file()
            hint = f"{PICKLE} is a pickle, which may run code: save it again with peft" if pickled else "copy all of it"
            raise UnitxError(f"{folder} has no {ADAPTER_WEIGHTS}: {hint}")
        pairs, whole = _sorted_tensors(load_file(file), config, file)
    except (ValueError, OSError, SafetensorError) as error:
        raise UnitxError(f"{folder} cannot be read as an adapter ({error}): copy it again from its source") from error
    if not config.get("base_model_name_or_path"):
        raise UnitxError(f"{folder / ADAPTER_CONFIG} names no base: write its folder or id as base_model_name_or_path")
    base, revision = str(config["base_model_name_or_path"]), config.get("revision")
    return Adapter(folder, base, revision, config.get("task_type"), pairs, whole)


def _check_supported(config: Any, file: Path) -> None:
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UnitxError(f"{file}: adapters of type {kind!r} are not supported; supported is 'LORA'")
    refused = {name: value for name, value in config.items() if name not in KNOWN and value}
    if config.get("bias", "none") != "none":
        refused["bias"] = config["bias"]
    if config.get("init_lora_weights", True) not in HARMLESS_INIT:
        refused["init_lora_weights"] = config["init_lora_weights"]
    for name, value in refused.items():
        raise UnitxError(
            f"{file}: {name} is {value!r}, which is not supported; merge the adapter with peft (merge_and_unload), "
            "save the whole model and load that"
        )


def _sorted_tensors(
    tensors: dict[str, Tensor], config: dict[str, Any], file: Path
) -> tuple[dict[str, LowRank], dict[str, Tensor]]:
    """Pairs and whole tensors by the names that they have in the base."""
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, value in tensors.items():
        name = key.removeprefix(PREFIX)
        if found := re.fullmatch(r"(.+)\.lora_([AB])\.weight", name):
            halves.setdefault(found[1], {})[found[2]] = value
        elif name == key or ".lora_" in name:
            raise UnitxError(f"{file} holds '{key}', which is not supported: linear maps are adapted, nothing else")
        else:
            whole[name.replace(".base_layer.", ".")] = value  # of a head or table that is adapted as well
    if not halves:
        raise UnitxError(f"{file} holds no adapter: it has no tensor {PREFIX}….lora_A.weight")
    pairs = {}
    for module, half in halves.items():
        rank, scale = _scale(module, config)
        fits = len(half) == 2 and half["A"].ndim == half["B"].ndim == 2
        if not fits or half["A"].shape[0] != rank or half["B"].shape[1] != rank:
            shapes = {f"lora_{name}": tuple(value.shape) for name, value in sorted(half.items())}
            raise UnitxError(f"{file}: '{module}' has {shapes}, and {ADAPTER_CONFIG} gives it rank {rank}")
        pairs[f"{module}.weight"] = LowRank(half["A"], half["B"], scale)
    return pairs, whole


def _scale(module: str, config: dict[str, Any]) -> tuple[int, float]:
    """The rank of a module's adapter and what it is multiplied by, which patterns may set apart (peft's matching)."""

    def of(patterns: str, default: str) -> float:
        given = config.get(patterns) or {}
        try:
            keys = [key for key in given if re.match(rf"(.*\.)?({key})$", module)]
        except re.error as error:
            raise ValueError(f"{patterns}: {error}") from error
        value = given[keys[0]] if keys else config.get(default, 8)
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{default} is {value!r}, and must be a number above 0")
        return value

    rank, alpha = int(of("rank_pattern", "r")), of("alpha_pattern", "lora_alpha")
    # rsLoRA (Kalajdzievski 2023) divides by the root of the rank.
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def load_adapter(folder: Path, **hub: Any) -> Model | Towers:
    """The base of an adapter with the adapter.

    Raises:
        UnitxError: the base is not there, or the adapter is not for it; names what.
    """
    from unitx.model import CONFIG, Model, locate, read_config
    from unitx.published import Folder, is_published, load_published

    adapter = read_adapter(folder)
    try:
        base = locate(adapter.base, **(hub | {"revision": adapter.revision}))
    except UnitxError as error:
        raise UnitxError(f"{folder} is an adapter, and its base is missing: {error}") from error
    if base.resolve() == folder.resolve():
        raise UnitxError(f"{folder} is an adapter that names itself as its base: correct {ADAPTER_CONFIG}")
    own = (folder / CONFIG).is_file() and not is_published(read_config(folder, weights=False))
    model: Model | Towers
    if not own and not is_adapter(base) and is_published(config := read_config(base)):
        published = Folder(base, config, above=folder)
        published.add_head(folder / ADAPTER_WEIGHTS, adapter.head(published.files))
        model = load_published(published, adapter)
    else:
        try:
            model = Model.from_pretrained(base, "cpu", **hub)
        except RecursionError:
            raise UnitxError(f"{folder} and its base are adapters of each other: correct {ADAPTER_CONFIG}") from None
        model = _with_own(adapter, model) if own else _merged_into(model, adapter)
    # What is merged is a model of its own; what stays apart can be written again, for the same base.
    model.name_or_path = str(base if own else folder)
    return model


@torch.no_grad()
def _merged_into(model: Model, adapter: Adapter) -> Model:
    """A model of ours with an adapter that peft trained on it, which becomes part of the weights."""
    tied = model.tied()
    shared = {*tied, *tied.values()}
    for name, value in model.state_dict().items():
        if name in adapter.unused and name not in shared:
            value.copy_(adapter.adapted(name, value))
    adapter.check_used()
    return model


def _with_own(adapter: Adapter, base: Model) -> Model:
    """The model that `save_adapter` was called on, as its config.json says, of the base's and its own tensors."""
    from accelerate import init_empty_weights

    from unitx.model import CONFIG, build_model, read_config

    with init_empty_weights(include_buffers=False):
        model = build_model(adapter.folder, read_config(adapter.folder, weights=False))
    model.tie()
    for name, module in model.named_modules():
        pair = adapter.pairs.get(f"{name}.weight")
        if isinstance(module, LoRA) and pair and (pair.scale, len(pair.A)) != (module.scale, RANK):
            raise UnitxError(f"{adapter.folder}: the adapters of {CONFIG} have rank {RANK} and lora_alpha {ALPHA}")
    found = _plain(base) | adapter.whole
    for weight, pair in adapter.pairs.items():
        module_name = weight.removesuffix(".weight")
        found |= {f"{module_name}.lora_A": pair.A, f"{module_name}.lora_B": pair.B}
    tied = model.tied()
    state = {}
    for name, value in model.state_dict().items():
        source = tied.get(name, name).replace(".base.", ".") if name.startswith("backbone.") else tied.get(name, name)
        if source not in found:
            raise UnitxError(f"{adapter.folder} and its base {adapter.base} lack the tensor '{source}'")
        state[name] = found[source].to(value.dtype)
        adapter.unused -= {source, f"{source.removesuffix('.lora_A')}.weight"}
    adapter.check_used()
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UnitxError(f"{adapter.folder} is not of its base {adapter.base}: {reason}") from error
    model.tie()
    return model


def _plain(model: Model) -> dict[str, Tensor]:
    """A model's tensors by name, as they are where adapters are passed by; those under two names once."""
    tied = model.tied()
    backbone = {f"backbone.{name}": value for name, value in without_lora(model.backbone).items()}
    others = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    return backbone | {name: value for name, value in others.items() if name not in tied}


def save_adapter(model: Model, folder: str | Path, base: str | Path | None = None) -> Path:
    """Write what `add_adapters` and training added to a base, without the base: an adapter's folder as peft writes it.

    `adapter_model.safetensors` has the low-rank maps, and heads and tokenizers as a whole that the base has not or has
    otherwise (peft's `modules_to_save`); `config.json` and the tokenizers' files say how the whole model is made.
    `Model.from_pretrained` gives the same model, to the last bit. `peft.PeftModel.from_pretrained(base, folder)` takes
    the low-rank maps, and the modules that the base has too; it knows no `frozen` modalities: there they pass the
    adapters as all others do.

    Args:
        base: a folder or id that `Model.from_pretrained` takes; by default where the model was loaded from.

    Raises:
        UnitxError: the model has no adapters, the base is missing or has another backbone, or the folder holds a model.
    """
    from safetensors.torch import save_file

    from unitx.model import CONFIG, WEIGHTS

    folder = Path(folder).expanduser()
    named = _as_base(base or model.name_or_path or "")
    if not has_lora(model.backbone):
        raise UnitxError("the model has no adapters (add_adapters, --tune lora): use save_pretrained")
    if (folder / WEIGHTS).exists() or ((folder / CONFIG).exists() and not is_adapter(folder)):
        raise UnitxError(f"{folder} holds a whole model: name another folder")
    if not named:
        raise UnitxError("the model was not loaded from a folder: say what its adapters are for, base=")
    if named == _as_base(folder):
        raise UnitxError(f"{folder} cannot be the base of its own adapters: say what they are for, base=")
    tensors = _trained_whole(model, named)
    modules = sorted({".".join(name.split(".")[:2]) for name in tensors})
    for name, module in model.named_modules():
        if isinstance(module, LoRA):
            for half in ("lora_A", "lora_B"):
                tensors[f"{name}.{half}.weight"] = getattr(module, half).detach().cpu().contiguous()
    files = {
        ADAPTER_CONFIG: json.dumps(_peft_config(named, modules), indent=2).encode(),
        CONFIG: json.dumps(model.get_config(), indent=2, ensure_ascii=False).encode(),
        **model.own_files(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({PREFIX + name: value for name, value in tensors.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _as_base(named: str | Path) -> str:
    """A folder as a whole path, so that it is found from everywhere; an id as it is."""
    path = Path(named).expanduser()
    return str(path.resolve()) if str(named) and path.exists() else str(named)


def _trained_whole(model: Model, base: str) -> dict[str, Tensor]:
    """The tensors of every head (heads.NAME) and tokenizer (tokenizers.MODALITY) that the base has not, or otherwise.

    Raises:
        UnitxError: the base is missing, or has another backbone.
    """
    from unitx.model import Model

    before = _plain(Model.from_pretrained(base, "cpu"))
    after = {name: value.detach().cpu().contiguous() for name, value in _plain(model).items()}
    others = {name for name, value in after.items() if name not in before or not torch.equal(before[name], value)}
    if moved := sorted(name for name in others if name.startswith("backbone.")):
        raise UnitxError(f"{base} is not what the adapters are for: its {moved[0]} is another; name the base, base=")
    modules = tuple({".".join(name.split(".")[:2]) + "." for name in others})
    return {name: value for name, value in after.items() if name.startswith(modules)}


def _peft_config(base: str, modules: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": LINEARS,
        "modules_to_save": modules or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
    }
