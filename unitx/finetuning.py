"""What trains when a model is trained further."""

from __future__ import annotations

from unitx.errors import UnitxError
from unitx.job import Job, build_job
from unitx.lora import has_lora
from unitx.model import Model
from unitx.recipe import Recipe
from unitx.registry import TASKS


def prepare_base(recipe: Recipe, base: Model) -> Job:
    """A job on a trained model: new tokenizers and heads attached, the rest frozen as `tune` and `freeze` say.

    Raises:
        UnitxError: a modality to freeze that the model does not read, or a `tune` that would change what it gives.
    """
    shape = [name for name, value in vars(recipe.model).items() if value is not None]
    if shape:
        raise UnitxError(f"model.{shape[0]} is of new models: a trained backbone keeps its shape")
    frozen = [name.strip() for name in recipe.freeze.split(",") if name.strip()]
    for modality in frozen:
        if modality not in base.tokenizers:
            raise UnitxError(f"--freeze {modality}: the model reads {', '.join(base.modalities)}")
    if frozen and recipe.tune not in ("head", "lora"):
        raise UnitxError(
            f"--freeze {recipe.freeze} keeps what the backbone gives for it, and --tune {recipe.tune} would change it: "
            "use --tune lora (adapters that the frozen modalities do not pass) or --tune head"
        )
    old_tokenizers, old_heads = set(base.tokenizers), set(base.heads)
    for name in sorted(old_heads & set(recipe.tasks)) if frozen else []:
        raise UnitxError(f"--freeze {recipe.freeze}: the model's task '{name}' would change; give yours another name")
    space = base.embedding_head
    if frozen and space is not None and any(TASKS.get(task.kind).embeds for task in recipe.tasks.values()):
        raise UnitxError(
            f"--freeze {recipe.freeze}: embeddings would come from the new task in place of '{space.info.name}', "
            "and change; train it without --freeze"
        )
    job = build_job(recipe, base)
    model = job.model
    tune(model, recipe.tune, frozen)
    for modality in old_tokenizers:
        model.tokenizers[modality].requires_grad_(recipe.tune == "all" and modality not in frozen)
    kept = sorted(old_heads - {feed.info.name for feed in job.feeds})
    for name in kept:
        model.heads[name].requires_grad_(False)
    if kept and recipe.tune != "head" and not frozen:
        job.facts.append(f"not trained here: {', '.join(kept)}; the backbone under it changes, and so do its answers")
    return job


def tune(model: Model, how: str, frozen: list[str]) -> None:
    """Let the backbone train as a whole, in its norms, by adapters, or not at all."""
    backbone = model.backbone
    if how == "lora":
        if has_lora(backbone) and sorted(frozen) != model.frozen:
            kept = ",".join(model.frozen)
            raise UnitxError(f"the model's adapters leave {kept} as it was: say --freeze {kept}, or --tune head or all")
        model.add_adapters(frozen)
        return
    backbone.requires_grad_(how == "all")
    if how == "norms":
        for name, p in backbone.named_parameters():
            p.requires_grad_("norm" in name)
