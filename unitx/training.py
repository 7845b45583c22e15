"""Training a model, training it further, and going on with a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from unitx.checkpoint import checkpoints
from unitx.config import size_of
from unitx.distributed import on_cpus
from unitx.errors import UnitxError
from unitx.finetuning import prepare_base
from unitx.job import Job, build_job
from unitx.model import Model
from unitx.paths import check_writable
from unitx.recipe import Recipe, check, in_memory, load_recipe, update
from unitx.registry import import_plugin
from unitx.trainer import Run, Trainer


def train(recipe: str | Path | Recipe, *, echo: bool = True, **given: Any) -> Run:
    """Train a new model.

    Args:
        recipe: a recipe's name, a YAML file, or a `Recipe`.
        echo: whether to say on stderr what happens.
        given: fields of the recipe (`data="photos/"`, `steps=500`, `size="nano"`), dots as in {"model.depth": 6}.

    Raises:
        UnitxError: whatever is wrong with the recipe, the data or the folder.
    """
    chosen = update(load_recipe(recipe), **given)
    name = None if isinstance(recipe, Recipe) else str(recipe)
    if chosen.tune != "all" or chosen.freeze:
        command = f"unitx finetune MODEL {name or 'RECIPE'}"
        raise UnitxError(f"tune and freeze, given or of the recipe, are for a trained model: {command}")
    if name and (base := _resolved(Path(name).expanduser()).get("base")):
        raise UnitxError(f"{name} is of a run that fine-tuned {base}: unitx finetune {base} {name}")
    folder = _new_folder(chosen, name or "run")
    torch.manual_seed(chosen.seed)
    job = build_job(chosen)
    job.resolved["recipe"] = name
    return Trainer(job, folder, echo).run()


def finetune(model: str | Path | Model, recipe: str | Path | Recipe, *, echo: bool = True, **given: Any) -> Run:
    """Train a model further, on new tasks and modalities as well.

    New tokenizers and heads always train; of the rest what `tune` says: `all`, `head` (nothing), `norms` (the norms of
    the backbone; Lu et al. 2021), `lora` (low-rank adapters; Hu et al. 2021). What the model gives for the modalities
    in `freeze` stays exactly as it was; an `align` task beside them goes on in the space that the model has, and a
    modality that is new to the model learns to land in it (as in Zhai et al. 2022, Girdhar et al. 2023).

    Args:
        model: a `Model`, a folder, the name of one that comes along, or a hub id.
        recipe, echo, given: as for `train`.
    """
    chosen = update(load_recipe(recipe), **given)
    check(chosen)
    asked = given.get("size")
    folder = _new_folder(chosen, str(recipe) if isinstance(recipe, str | Path) else "run")
    for plugin in chosen.plugins:
        import_plugin(plugin)
    if isinstance(model, Model):
        model = _save_base(model, folder / "base")
    base = Model.from_pretrained(model, "cpu")
    chosen = replace(chosen, size=size_of(base.backbone.config.dim))
    torch.manual_seed(chosen.seed)
    job = prepare_base(chosen, base)
    if asked not in (None, chosen.size):
        job.notes.append(f"the model keeps its size: {asked} is for new ones")
    job.resolved["base"] = str(model)
    return Trainer(job, folder, echo).run()


def _save_base(model: Model, folder: Path) -> Path:
    """Write a model once, however many processes there are: a copy trains, and the run can go on."""
    from accelerate import PartialState

    state = PartialState(cpu=on_cpus())
    if state.is_main_process:
        model.save_pretrained(folder)
    state.wait_for_everyone()
    return folder


def resume(folder: str | Path, *, echo: bool = True, **data: Any) -> Run:
    """Go on with a run from its last checkpoint, exactly as if it had not stopped.

    Args:
        data: again what was in memory, which the run's folder does not hold: `data=`, `test=`, or with dots as in
            {"tasks.kind.data": frame}.

    Raises:
        UnitxError: the folder holds no run, or no checkpoint; data that are missing, others than before, or not asked
            for.
    """
    folder = Path(folder).expanduser()
    if not (folder / "recipe.yaml").is_file():
        raise UnitxError(f"{folder} holds no run: it has no recipe.yaml")
    saved = checkpoints(folder / "checkpoints")
    if not saved:
        raise UnitxError(f"{folder} has no checkpoint to go on from; train anew into another folder")
    recipe = load_recipe(folder)
    for name in data.keys() - in_memory(recipe).keys():
        raise UnitxError(f"{folder} goes on as it was begun: {name} was not in memory and cannot be given again")
    recipe = update(recipe, **data)
    for plugin in recipe.plugins:
        import_plugin(plugin)
    torch.manual_seed(recipe.seed)
    resolved = _resolved(folder)
    base = Model.from_pretrained(resolved["base"], "cpu") if "base" in resolved else None
    job = prepare_base(recipe, base) if base else build_job(recipe)
    _check_unchanged(job, resolved, saved[-1])
    job.resolved |= resolved
    return Trainer(job, folder, echo, saved[-1]).run()


def _check_unchanged(job: Job, resolved: dict[str, Any], checkpoint: Path) -> None:
    """Refuse to go on with other labels or another vocabulary under the trained weights, or with more or fewer rows."""
    model = job.model
    same = [(checkpoint / name).read_bytes() == value for name, value in model.own_files().items()]
    same += [resolved.get("rows") == job.resolved["rows"]]
    if not all(same) or model.get_config() != json.loads((checkpoint / "config.json").read_text("utf-8")):
        folder = checkpoint.parent.parent
        raise UnitxError(f"the data or the recipe of {folder} changed since it stopped, or unitx itself: train anew")


def _resolved(file: Path) -> dict[str, Any]:
    """What was decided for the run whose folder or recipe.yaml this is; nothing for other files, or a recipe's name."""
    file = file / "recipe.yaml" if file.is_dir() else file
    return (yaml.safe_load(file.read_text("utf-8")) or {}).get("resolved") or {} if file.is_file() else {}


def _new_folder(recipe: Recipe, name: str) -> Path:
    folder = Path(recipe.out or Path("runs") / Path(name).stem).expanduser()
    check_writable(folder, f"--out {folder}")
    if (folder / "recipe.yaml").exists() or (folder / "model").exists():
        go_on = f"go on with unitx train --resume {folder}, or " if checkpoints(folder / "checkpoints") else ""
        raise UnitxError(f"{folder} already holds a run: {go_on}name another folder with --out")
    return folder
