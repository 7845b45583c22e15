"""One backbone for all tasks of a recipe, beside a specialist for each: does it pay to share?

    python tests/benchmarks/convergence.py --steps 600 --seeds 3 --out runs/convergence

For each seed and each task of the recipe (`everything`), the score on its held-out rows at the end of a run:

- alone: a model of the same size that learns this task only, from about as many rows a step and as many steps;
- small: the same on a backbone of one part in as many as there are tasks: the separate backbones together have the
  size of the shared one;
- together: the shared backbone, all tasks at once;
- then: the shared one, trained further on this task for a quarter of the steps.

Nothing chooses a checkpoint by the held-out rows. What was scored is kept in OUT/scores.json; started again, the
command goes on where it was. Tasks that share recorded data are refused, since each arm would split them in its own
way. `--set` tries a field of the recipe on the runs of all tasks (another OUT then).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from results import Results, whole

import unitx
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.job import named_data
from unitx.recipe import ModelRecipe, Recipe, TaskRecipe, backbone_config, load_recipe, update
from unitx.source import is_recorded

ARMS = ("alone", "small", "together", "then")


def note(run: unitx.Run, arm: str, seed: int, results: Results) -> None:
    """The headline of each task that the run was scored on."""
    for task in run.model.tasks:
        if any(name.startswith(f"{task}/") for name in run.metrics):
            metric = run.model.head(task).headline
            results.add(arm=arm, task=task, seed=seed, metric=metric, score=run.metrics[f"{task}/{metric}"])


def opened(recipe: Recipe) -> Recipe:
    """The recipe with its data open: made data are drawn and said once for all runs."""
    sources: dict[str, Any] = {}

    def source(data: Any) -> Any:
        if data is not None and repr(data) not in sources:
            sources[repr(data)] = open_source(data)
        return sources.get(repr(data))

    def task_of(task: TaskRecipe) -> TaskRecipe:
        data, test = named_data(recipe, task)
        return replace(task, data=source(data), test=source(test))

    tasks = {name: task_of(task) for name, task in recipe.tasks.items()}
    recorded = [id(task.data) for task in tasks.values() if is_recorded(task.data)]
    if len({*recorded}) < len(recorded) or recipe.temperature:
        raise UnitxError("the arms could not be compared: two tasks share recorded data, or temperature is set")
    return replace(recipe, tasks=tasks, data=None, test=None)


def only(recipe: Recipe, task: str, steps: int) -> Recipe:
    """The recipe for one of its tasks, with as many rows a step as that has among the others."""
    weight = recipe.tasks[task].weight / sum(t.weight for t in recipe.tasks.values())
    assert recipe.batch_tokens is not None
    tokens = max(1, round(recipe.batch_tokens * weight))
    return replace(update(recipe, steps=steps), tasks={task: recipe.tasks[task]}, batch_tokens=tokens)


def small(recipe: Recipe, tasks: int) -> dict[str, int]:
    """The width and heads of a backbone as deep, with one part of `tasks` of the weights, about."""
    shared = backbone_config(recipe)
    head = shared.dim // shared.heads
    heads = max(1, round(shared.dim / tasks**0.5 / (head // 2)))  # of half the width, so that it can be met better
    return {"model.dim": heads * head // 2, "model.heads": heads}


def run_seed(recipe: Recipe, seed: int, steps: int, out: Path, results: Results) -> None:
    quiet: dict[str, Any] = {"seed": seed, "evaluations": 1, "echo": False}
    folder = out / f"together-{seed}"

    def learn(arm: str, name: str, chosen: Recipe, base: Path | None = None, **given: Any) -> None:
        place = out / name
        shutil.rmtree(place, ignore_errors=True)  # one that was cut short
        given |= {"out": place, **quiet}
        run = unitx.finetune(base, chosen, **given) if base else unitx.train(chosen, **given)
        note(whole(run, chosen.steps or steps), arm, seed, results)

    if not results.has(arm="together", seed=seed):
        learn("together", folder.name, update(recipe, steps=steps))
    for task in recipe.tasks:
        one = only(recipe, task, steps)
        for arm, given in (("alone", {}), ("small", small(recipe, len(recipe.tasks)))):
            if not results.has(arm=arm, task=task, seed=seed):
                learn(arm, f"{arm}-{task}-{seed}", one, **given)
        if not results.has(arm="then", task=task, seed=seed):
            further = replace(only(recipe, task, max(1, steps // 4)), model=ModelRecipe())
            learn("then", f"then-{task}-{seed}", further, folder)
        print(f"seed {seed}: {task}", flush=True)


def table(results: Results, arms: Sequence[str]) -> str:
    """Means over seeds, with the standard deviation where there are several."""
    rows = [f"| task | metric | {' | '.join(arms)} |", f"| --- | --- {'| --- ' * len(arms)}|"]
    for task, metric in dict.fromkeys((line["task"], line["metric"]) for line in results.lines):
        cells = []
        for arm in arms:
            found = [line["score"] for line in results.lines if (line["arm"], line["task"]) == (arm, task)]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{spread}" if found else "")
        rows.append(f"| {task} | {metric} | {' | '.join(cells)} |")
    return "\n".join(rows)


def arguments(description: str | None, steps: int, out: str) -> argparse.ArgumentParser:
    """What benchmarks of a recipe with many tasks are asked."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="everything")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the recipe")
    return parser


def begun(given: argparse.Namespace) -> tuple[Recipe, Results]:
    """The recipe that was asked for, with its data open, and what was scored before."""
    given.out.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {name: yaml.safe_load(value) for name, value in (pair.split("=", 1) for pair in given.set)}
    return opened(update(load_recipe(given.recipe), **fields)), Results(given.out / "scores.json")


def main() -> None:
    parser = arguments(__doc__, 600, "runs/convergence")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    recipe, results = begun(given)
    for seed in range(given.seeds):
        run_seed(recipe, seed, given.steps, given.out, results)
        print(table(results, ARMS), flush=True)


if __name__ == "__main__":
    main()
