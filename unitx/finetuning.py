"""What trains when a model is trained further."""

from __future__ import annotations

from dataclasses import replace

from unitx.errors import UnitxError
from unitx.job import Job, build_job, modalities_of
from unitx.lora import has_lora
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe
from unitx.registry import TASKS
from unitx.task import TaskInfo


def prepare_base(recipe: Recipe, base: Model) -> Job:
    """A job on a trained model: new tokenizers and heads attached, the rest frozen as `tune` and `freeze` say.

    Raises:
        UnitxError: a modality to freeze that the model does not read, or a `tune` or a task that would change what it
            gives.
    """
    shape = [name for name, value in vars(recipe.model).items() if value is not None]
    if shape:
        raise UnitxError(f"model.{shape[0]} is of new models: a trained backbone keeps its shape")
    frozen = _frozen(recipe, base)
    fixed: set[str] = set()  # heads of the base that go on as they are
    learners: set[str] = set()  # modalities that learned the frozen space before, beside adapters, and go on
    if frozen and base.frozen == sorted(frozen):
        learners = set(base.tokenizers) - set(frozen)
    if frozen:
        recipe = _in_its_space(recipe, base)
        fixed = recipe.tasks.keys() & set(base.heads)
    old_tokenizers, old_heads = set(base.tokenizers), set(base.heads)
    old_parameters = {name for name, _ in base.named_parameters()}
    job = build_job(recipe, base, fixed)
    model = job.model
    job.new = {name for name, _ in model.named_parameters()} - old_parameters
    tune(model, recipe.tune, frozen)
    read = modalities_of(job.feeds)
    for modality in old_tokenizers:  # weight decay would wear down one that no task reads
        trains = modality in read and (modality in learners or (recipe.tune == "all" and modality not in frozen))
        model.tokenizers[modality].requires_grad_(trains)
    kept = sorted(old_heads - {feed.info.name for feed in job.feeds})
    tied = model.tied()  # to a table of token vectors, which trains as its tokenizer does
    for name, p in model.named_parameters(remove_duplicate=False):
        if name.startswith(tuple(f"heads.{head}." for head in kept)) and name not in tied:
            p.requires_grad_(False)
    if kept and recipe.tune != "head" and not frozen:
        job.notes.append(f"not trained here: {', '.join(kept)}; the backbone under it changes, and so do its answers")
    for info in (feed.info for feed in job.feeds if feed.info.name in fixed):
        new = _new_in_space(recipe, info, old_tokenizers - learners, set(frozen))
        job.notes.append(f"the model's task '{info.name}' goes on: {new} learns its space, which stays as it is")
        # What the head has for a modality that learns does so too; the rest is the space.
        for name, p in model.heads[info.name].named_parameters():
            own = not learners.isdisjoint(name.split("."))
            p.requires_grad_(own or f"heads.{info.name}.{name}" not in old_parameters)
    if not any(p.requires_grad for p in model.parameters()):
        raise UnitxError(
            f"--tune {recipe.tune} leaves nothing to train: the head shares its weights with the tokenizer; "
            "use --tune lora or --tune all"
        )
    loose = sorted(old_tokenizers - set(frozen))
    if frozen and loose and recipe.tune == "lora":
        job.notes.append(f"not frozen: {', '.join(loose)}; the adapters change what the model gives for it")
    return job


def _frozen(recipe: Recipe, base: Model) -> list[str]:
    """The modalities to freeze.

    Raises:
        UnitxError: the model does not read one, or `tune` would change what it gives for them.
    """
    frozen = [name.strip() for name in recipe.freeze.split(",") if name.strip()]
    for modality in frozen:
        if modality not in base.tokenizers:
            raise UnitxError(f"--freeze {modality}: the model reads {', '.join(base.modalities)}")
    if frozen and recipe.tune not in ("head", "lora"):
        raise UnitxError(
            f"--freeze {recipe.freeze} keeps what the backbone gives for it, and --tune {recipe.tune} would change it: "
            "use --tune lora (adapters that the frozen modalities do not pass) or --tune head"
        )
    return frozen


def _in_its_space(recipe: Recipe, base: Model) -> Recipe:
    """The recipe with the task that embeds under the name of the base's: what is frozen has one space, and keeps it.

    Raises:
        UnitxError: a task of the base would change.
    """
    where, head = f"--freeze {recipe.freeze}:", base.embedding_head
    space = None if head is None else head.info
    others = set(base.heads) - ({space.name} if space else set())
    tasks: dict[str, TaskRecipe] = {}
    for name, task in recipe.tasks.items():
        goes_on = space if space and TASKS.get(task.kind).embeds and name not in others else None
        if name in base.heads and not goes_on:
            raise UnitxError(f"{where} the model's task '{name}' would change; give yours another name")
        if goes_on and goes_on.kind == "pool" and task.kind == "align":
            task = replace(task, kind="pool", options={})  # a published model's space is learned in the same way
        if goes_on and task.kind != goes_on.kind:
            raise UnitxError(
                f"{where} embeddings come from '{goes_on.name}' and stay; only a {goes_on.kind} task goes on"
            )
        own = goes_on.name if goes_on else name
        if own in tasks:
            raise UnitxError(f"{where} two tasks would go on as '{own}'; let one read the columns of both")
        tasks[own] = task
    return replace(recipe, tasks=tasks)


def _new_in_space(recipe: Recipe, info: TaskInfo, old: set[str], frozen: set[str]) -> str:
    """The modalities that learn a frozen space.

    Args:
        old: those that the model reads and that have their place in it.

    Raises:
        UnitxError: one of the old ones would change, nothing learns, or nothing shows where in the space it belongs.
    """
    read = set(info.reads.values())
    where = f"--freeze {recipe.freeze}: task '{info.name}'"
    if moved := sorted((read & old) - frozen):
        raise UnitxError(
            f"{where} reads {', '.join(moved)}, whose embeddings would change: pair what is frozen with what is new "
            "to the model, or train without --freeze"
        )
    if not read - old:
        raise UnitxError(f"{where} reads what is frozen only, and nothing would learn: name a new modality in --reads")
    if not read & frozen and not info.label:
        raise UnitxError(f"{where} reads nothing that is frozen: name such a column in --reads, or concepts in --label")
    return ", ".join(sorted(read - old))


def tune(model: Model, how: str, frozen: list[str]) -> None:
    """Let the backbone train as a whole, in its norms, by adapters, or not at all.

    Raises:
        UnitxError: its adapters leave other modalities as they were than those that are `frozen` now.
    """
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
