"""The whole machine: tokenizers for its modalities, one backbone, a head for each task."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from unitx import adapters, embedding, generation
from unitx.backbone import Backbone
from unitx.config import BackboneConfig
from unitx.distributed import several
from unitx.errors import UnitxError
from unitx.lora import add_lora, gated, has_lora
from unitx.paths import near_path
from unitx.published import Folder, is_published, load_published
from unitx.recipe import FORMAT, from_dict, with_tuples
from unitx.registry import TASKS, TOKENIZERS
from unitx.task import Task, TaskInfo
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Batch, Targets, Tokens

# A repository may hold the same weights in five formats.
HUB_FILES = ["*.json", "*.safetensors", "*.spm", "spiece.model"]
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Model(nn.Module):
    """Tokenizers + one shared backbone + heads.

    Args:
        backbone: the backbone's shape.
        processors: modality → the data half of its tokenizer.
        tasks: what each head needs to know.

    Attributes:
        compute_dtype: of the activations; weights stay float32.
        frozen: modalities that the backbone's adapters (`add_adapters`) leave exactly as they were.
        name_or_path: what it was loaded from.
    """

    def __init__(self, backbone: BackboneConfig, processors: dict[str, Processor], tasks: Iterable[TaskInfo]):
        super().__init__()
        self.compute_dtype = torch.float32
        self.frozen: list[str] = []
        self.name_or_path: str | None = None  # the name under which peft looks for it
        self.backbone = Backbone(backbone)
        self.tokenizers, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for modality in sorted(processors):
            self.add_tokenizer(modality, processors[modality])
        for info in tasks:
            self.add_task(info)

    embed = embedding.embed
    hidden_states = embedding.hidden_states
    predict = embedding.predict
    predict_proba = embedding.predict_proba
    generate = generation.generate
    save_adapter = adapters.save_adapter

    @property
    def modalities(self) -> list[str]:
        """What the model reads, sorted."""
        return sorted(self.tokenizers)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that it has heads for."""
        return list(self.heads)

    @property
    def processors(self) -> dict[str, Processor]:
        """Modality → the data half of its tokenizer."""
        return {modality: cast(Tokenizer, self.tokenizers[modality]).processor for modality in self.modalities}

    @property
    def prefix_parts(self) -> int | None:
        """How many parts of an item see each other freely where no task says so: all (None), or none (0) in a decoder
        or a pure language model, whose tokens have never seen a later one."""
        heads = [self.head(task) for task in self.tasks]
        only_generates = bool(heads) and all(head.generates and not head.writes for head in heads)
        return 0 if self.backbone.config.causal or only_generates else None

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def add_tokenizer(self, modality: str, processor: Processor) -> None:
        """Attach a tokenizer with new weights for a modality that the model does not read yet."""
        tokenizer = self._placed(TOKENIZERS.get(modality)(processor, self.backbone.config.dim))
        added = {**self.tokenizers, modality: tokenizer}
        self.tokenizers = nn.ModuleDict({name: added[name] for name in sorted(added)})
        for task in self.tasks:
            self.head(task).add_modality(modality)

    def _placed(self, part: nn.Module) -> nn.Module:
        """A new part where the model is; while weights are still to come ("meta"), buffers stay what they are."""
        return part if self.device.type == "meta" else part.to(self.device)

    def add_adapters(self, frozen: Iterable[str] = ()) -> None:
        """Put LoRA on the backbone; sequences of `frozen` modalities alone do not pass it."""
        add_lora(self.backbone)
        self.frozen = sorted(frozen)

    def add_task(self, info: TaskInfo) -> None:
        """Attach a head, with new weights or with those that its kind takes over; one of the same name is replaced.

        Raises:
            UnitxError: a name that PyTorch does not take for a part of a model.
        """
        head = cast(Task, self._placed(TASKS.get(info.kind)(self.backbone.config.dim, info, self.processors)))
        head.start_from(cast(Task, other) for name, other in self.heads.items() if name != info.name)
        head.tie_weights(self.tokenizers)
        try:
            self.heads[info.name] = head
        except KeyError as error:
            raise UnitxError(f"a task cannot be called '{info.name}': give it another name") from error

    def only_task(self, does: str | None = None) -> str:
        """The name of the one task there is, or the one that `classifies`, `embeds`, `generates` or `writes`.

        Raises:
            UnitxError: there is none, or there are several to choose from.
        """
        found = [name for name, head in self.heads.items() if does is None or getattr(head, does)]
        if not found:
            what = "task" if does is None else f"task that {does}"
            raise UnitxError(f"the model has no {what}; its tasks are: {', '.join(self.tasks) or 'none'}")
        if len(found) > 1:
            which = f"task= ({', '.join(found)}), on the command line --task"
            raise UnitxError(f"{len(found)} tasks of the model could be meant; say which, {which}")
        return found[0]

    @property
    def embedding_head(self) -> Task | None:
        """The head that embeddings come from: the last that `embeds`; None where there is none."""
        return next((head for head in map(self.head, reversed(self.tasks)) if head.embeds), None)

    def check_reads(self, modality: str) -> None:
        """Raise UnitxError for a modality that the model does not read; says which it reads."""
        if modality not in self.tokenizers:
            raise UnitxError(f"the model does not read '{modality}'; it reads: {', '.join(self.modalities)}")

    def head(self, task: str) -> Task:
        """The head of a task, by name.

        Raises:
            UnitxError: the model has no such task; says which it has.
        """
        if task not in self.heads:
            raise UnitxError(f"the model has no task '{task}'; it has: {', '.join(self.tasks) or 'none'}")
        return cast(Task, self.heads[task])

    def labels(self, task: str | None = None) -> list[str]:
        """The names of a task's classes or concepts, in the order of `predict_proba`'s columns."""
        return list(self.head(task or embedding.predicting_task(self)).info.labels)

    def embed_pieces(self, batch: Batch) -> Tokens:
        """Everything before the first block: each modality by its tokenizer, then all in packed order."""
        present = [(m, cast(Tokenizer, self.tokenizers[m])) for m in self.modalities if m in batch.values]
        vectors = []
        for m, tokenizer in present:
            known = {"starts": batch.starts, "grids": batch.grids.get(m), "dtype": self.compute_dtype}
            needed = {name: known[name] for name in tokenizer.needs}
            vectors.append(tokenizer(batch.values[m], batch.counts[m], **needed))
        packed = torch.cat(vectors) if len(vectors) > 1 else vectors[0]
        if batch.order is not None:
            packed = packed.index_select(0, batch.order)
        return Tokens(packed.to(self.compute_dtype), batch.layout)

    def encode(self, batch: Batch, **inside: Any) -> Tokens:
        """The backbone's output for a batch; keyword arguments go to `Backbone.forward`."""
        tokens = self.embed_pieces(batch)
        frozen = [m in self.frozen for m in self.modalities]
        with gated(self.backbone, batch.layout, frozen) if self.frozen else nullcontext():
            return replace(self.backbone(tokens, **inside), embedded=tokens.vectors)

    def forward(self, batch: Batch, counts: dict[str, float] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum over tasks of their mean losses (`Task.weighed`).

        Args:
            counts: task → what its summed loss is divided by, where that is more than this batch holds (over
                micro-batches and processes); by default what the batch holds.

        Returns: the loss (), and for each task its loss and metrics as () tensors, "task/loss".
        """
        if several():
            batch = self._with_all_tasks(batch)
        tokens = self.encode(batch)
        total = tokens.vectors.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        for name, targets in batch.targets.items():
            head = self.head(name)
            found = head.loss(tokens, targets)
            divisor = (counts or {}).get(name, targets.count) or 1
            total = total + head.weighed(found.sum / divisor, targets.count / divisor)
            if not targets.count:
                continue
            metrics[f"{name}/loss"] = found.sum.detach() / targets.count
            if head.log_variance is not None:
                metrics[f"{name}/log_variance"] = head.log_variance.detach()[0].clone()
            for metric, value in found.metrics.items():
                metrics[f"{name}/{metric}"] = value / targets.count
        return total + self._absent(batch) if several() else total, metrics

    def _with_all_tasks(self, batch: Batch) -> Batch:
        """The batch with zero rows for the tasks that it lacks: losses that gather wait for every process."""
        rows = torch.zeros(0, dtype=torch.long)
        heads = {name: self.head(name) for name in self.tasks}
        targets = {
            name: batch.targets.get(name) or Targets(rows, head.collate(head.info, []), 0)
            for name, head in heads.items()
        }
        return replace(batch, targets=targets).to(self.device)

    def _absent(self, batch: Batch) -> Tensor:
        """Zero, with a gradient to what may have no item here: data-parallel training waits for every parameter."""
        parts = [t for modality, t in self.tokenizers.items() if modality not in batch.values]
        absent = [p for part in (*parts, *self.heads.values()) for p in part.parameters()]
        return sum((p.sum() * 0.0 for p in absent), torch.zeros((), device=self.device))

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write `config.json` and `model.safetensors` (and a tokenizer's own files), replacing what is there.

        Args:
            dtype: of the floating-point weights in the file; they are float32 again when loaded.

        Raises:
            UnitxError: the folder holds an adapter, as which it would go on to be read.
        """
        from safetensors.torch import save_file

        folder = Path(folder).expanduser()
        if adapters.is_adapter(folder):
            raise UnitxError(f"{folder} holds an adapter: name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        tied = self.tied()
        weights = {name: _stored(value, dtype) for name, value in self.state_dict().items() if name not in tied}
        config = json.dumps(self.get_config(), indent=2, ensure_ascii=False) + "\n"
        # Written beside and put in place, so that a crash leaves the model that was there before.
        save_file(weights, folder / f".{WEIGHTS}", metadata={"format": "pt"})
        written = {WEIGHTS: None, CONFIG: config.encode(), **self.own_files()}
        for name, data in written.items():
            if data is not None:
                (folder / f".{name}").write_bytes(data)
        for name in written:
            (folder / f".{name}").replace(folder / name)
        for modality, processor in self.processors.items():  # what another model left here
            for f in fields(processor):
                if f"{modality}.{f.name}" not in written:
                    (folder / f"{modality}.{f.name}").unlink(missing_ok=True)
        return folder

    def load_weights(self, folder: Path) -> None:
        """Take over the weights that `save_pretrained` wrote for such a model."""
        from safetensors.torch import load_file

        weights = load_file(folder / WEIGHTS)
        weights |= {name: weights[first] for name, first in self.tied().items() if first in weights}
        self.load_state_dict(weights)  # which casts as it copies

    def tied(self) -> dict[str, str]:
        """Parameters that are another one under a second name → the first name; files hold them once."""
        names: dict[nn.Parameter, str] = {}
        found = {}
        for name, p in self.named_parameters(remove_duplicate=False):
            if names.setdefault(p, name) != name:
                found[name] = names[p]
        return found

    def tie(self) -> None:
        """Give heads that share weights with a tokenizer those (`Task.tie_weights`)."""
        for task in self.tasks:
            self.head(task).tie_weights(self.tokenizers)

    def get_config(self) -> dict[str, Any]:
        """What `config.json` holds: all but weights and the tokenizers' own files."""
        tokenizers = {}
        for modality, processor in self.processors.items():
            values = {f.name: _plain(getattr(processor, f.name)) for f in fields(processor)}
            tokenizers[modality] = {
                "options": {name: value for name, value in values.items() if not isinstance(value, bytes)},
                "own": sorted(name for name, value in values.items() if isinstance(value, bytes) and value),
                "file": TOKENIZERS.file_of(modality),
            }
        infos = [self.head(task).info for task in self.tasks]
        tasks = [{**asdict(info), "file": TASKS.file_of(info.kind)} for info in infos]
        config = {"format": FORMAT, "backbone": asdict(self.backbone.config), "tokenizers": tokenizers, "tasks": tasks}
        if has_lora(self.backbone):
            config["adapters"] = {"frozen": self.frozen}
        return json.loads(json.dumps(config))

    def own_files(self) -> dict[str, bytes]:
        """The files that a model's folder has besides config and weights: a trained vocabulary, "text.spm"."""
        return {
            f"{modality}.{f.name}": value
            for modality, processor in self.processors.items()
            for f in fields(processor)
            if isinstance(value := getattr(processor, f.name), bytes) and value
        }

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device | None = None, **hub: Any) -> Model:
        """Load a model for use (`eval` mode, float32 weights); `Towers` of them where a folder holds several.

        Args:
            source: a model's folder, a run's folder, the name of a model that comes along, or a hub id; or a
                Hugging Face folder of a family that `unitx/families/` knows; or a LoRA adapter's folder on one of them.
            device: where to; by default CUDA where there is one.
            hub: `revision`, `token`, `cache_dir`, `local_files_only` for a hub id.

        Raises:
            UnitxError: nothing there, a file missing, another format, or a modality or task that lives in a file that
                was not imported.
        """
        from safetensors import SafetensorError

        folder = locate(source, **hub)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if adapters.is_adapter(folder):
            return cast(Model, adapters.load_adapter(folder, **hub).to(device).eval())
        if is_published(config := read_config(folder)):
            model = cast(Model, load_published(Folder(folder, config)))
        elif "towers" in config:
            from unitx.towers import Towers

            towers = {modality: cls.from_pretrained(folder / modality, device) for modality in config["towers"]}
            model = cast(Model, Towers(towers, config["scale"], config["bias"]))
        else:
            model = build_model(folder, config)
            try:
                model.load_weights(folder)
            except (SafetensorError, RuntimeError) as error:
                raise _not_loaded(folder, error) from error
        model.name_or_path = str(source)
        return model.to(device).eval()

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload the model's folder to the Hugging Face hub; returns the commit's address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a unitx model"))


def build_model(folder: Path, config: dict[str, Any]) -> Model:
    """The model that the config.json of a folder describes, with new weights.

    Raises:
        UnitxError: a file is missing, or a modality or task lives in a file that was not imported.
    """
    processors = {}
    for modality, entry in config["tokenizers"].items():
        kind = TOKENIZERS.get(modality, entry["file"]).Processor
        read = {name: _read_own(folder / f"{modality}.{name}") for name in entry["own"]}
        processors[modality] = from_dict(kind, with_tuples(entry["options"]) | read, f"{folder / CONFIG}: {modality}")
    infos = []
    for entry in config["tasks"]:
        TASKS.get(entry["kind"], entry.pop("file"))
        infos.append(from_dict(TaskInfo, entry, f"{folder / CONFIG}: tasks"))
    try:
        model = Model(BackboneConfig(**config["backbone"]), processors, infos)
        if "adapters" in config:
            model.add_adapters(**config["adapters"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise _not_loaded(folder, error) from error
    return model


def _not_loaded(folder: Path, error: Exception) -> UnitxError:
    return UnitxError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:500]}")


def shipped_models() -> list[str]:
    """The names of the models that come along."""
    home = files("unitx") / "models"
    return sorted(f.name for f in home.iterdir() if (f / CONFIG).is_file()) if home.is_dir() else []


def locate(source: str | Path, **hub: Any) -> Path:
    """The folder of a model: as given, `model/` in a run's folder, one that comes along, or downloaded from the hub.

    Raises:
        UnitxError: there is none, or the hub does not give it.
    """
    path = Path(source).expanduser()
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file() or adapters.is_adapter(folder):
            return folder
    shipped = files("unitx") / "models" / str(source)
    if "/" not in str(source) and (shipped / CONFIG).is_file():
        return Path(str(shipped))
    if path.exists():
        raise UnitxError(f"{path} is no model's folder: it has neither {CONFIG} nor model/{CONFIG}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(source), allow_patterns=HUB_FILES, **hub))
    except (HFValidationError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        near = near_path(path)
        raise UnitxError(
            f"there is no model '{source}'; is {near} meant?" if near else
            f"there is no model '{source}': it is no folder, does not come along "
            f"(there {', '.join(shipped_models()) or 'is none'}), and was not loaded from the hub ({reason})"
        ) from None  # fmt: skip


def read_config(folder: Path, weights: bool = True) -> dict[str, Any]:
    """The config.json of a model's folder, ours or Hugging Face's.

    Args:
        weights: whether those of a model of ours must stand beside it; an adapter's folder has others.

    Raises:
        UnitxError: a file is missing, broken, or of another format.
    """
    _check_there(folder / CONFIG)
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnitxError(f"{folder / CONFIG} is not valid JSON: {error}") from error
    found = config if isinstance(config, dict) else {}
    if is_published(found) or (found.get("format") == FORMAT and "towers" in found):
        return found
    if weights:
        _check_there(folder / WEIGHTS)
    lacks = [name for name in ("backbone", "tokenizers", "tasks") if name not in found]
    if found.get("format") != FORMAT and ("format" in found or not lacks):  # another version may have other fields
        raise UnitxError(
            f"{folder / CONFIG} has format {found.get('format')}, this version of unitx reads format {FORMAT}: "
            "use the version that wrote it"
        )
    if lacks:
        raise UnitxError(f"{folder / CONFIG} is not a unitx model's: it has no '{lacks[0]}'; name another folder")
    return config


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise UnitxError(f"{file.parent} lacks {file.name}: copy the whole folder, or save the model again")


def _read_own(file: Path) -> bytes:
    _check_there(file)
    return file.read_bytes()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
