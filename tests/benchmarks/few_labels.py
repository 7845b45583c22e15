"""A new task from few labels: from nothing, after unlabelled pictures of its kind, and on a backbone that knows others.

    python tests/benchmarks/few_labels.py --out few-labels.png

The task is to tell handwritten digits (MNIST), from 10, 100 and 1,000 labels; a thousand others judge.

- from nothing: `digits`.
- after masked: `masked` on three thousand digits without their labels, then `finetune` on the labels.
- from everything: `everything` without its handwritten digits and strokes, then `finetune` on the labels; with --from
  on a run of one's own.

All take as many steps on the labels. Draws the figure and writes the numbers beside it, in .json, after every run;
started again with the same --out it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results import Results, draw_by_examples, learned, whole

import unitx
from unitx.data import open_source
from unitx.errors import UnitxError
from unitx.plots import new_figure
from unitx.recipe import load_recipe
from unitx.source import Subset

ARMS = ("from nothing", "after masked", "from everything")
TEST, UNLABELLED = 1_000, 3_000
KNOWN = ("digits", "strokes")  # tasks of `everything` that are too much like the new one
SCORE = "digits that are told rightly"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the figure")
    parser.add_argument("--from", dest="base", help="a run of several tasks, in place of everything")
    parser.add_argument("--runs", type=Path, default=Path("runs/few-labels"), help="a folder for the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150, help="of each run on labels")
    parser.add_argument("--masked-steps", type=int, default=1_000)
    parser.add_argument("--everything-steps", type=int, default=1_500)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100, 1_000])
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.base and (seen := set(KNOWN) & set(unitx.Model.from_pretrained(arguments.base).tasks)):
        raise UnitxError(f"{arguments.base} has learned {', '.join(seen)}, and so from digits that judge here")
    source = open_source("world:digits")
    order = np.random.default_rng(0).permutation(len(source))
    test, rest = Subset(source, order[:TEST]), order[TEST:]
    bases = {
        ARMS[0]: None,
        ARMS[1]: learn_masked(arguments, Subset(source, rest[:UNLABELLED])),
        ARMS[2]: arguments.base or learn_everything(arguments),
    }
    results = Results(arguments.out.with_suffix(".json"))
    for count in arguments.labels:
        for seed in range(arguments.seeds):
            chosen = balanced(source, rest, count, seed)
            for arm, base in bases.items():
                if not results.has(arm=arm, labels=count, seed=seed):
                    run = learn(arguments, base, Subset(source, chosen), test, seed)
                    found = {SCORE: run.metrics["digits/accuracy"]}
                    results.add(arm=arm, labels=count, seed=seed, steps=arguments.steps, **found)
    figure = new_figure(6.5, 4.6)
    axes = figure.subplots()
    draw_by_examples(axes, results.lines, ARMS, "labels", SCORE)
    axes.axhline(0.1, color="#888888", linestyle=":", label="by chance")
    axes.legend(fontsize=9)
    figure.supxlabel(f"{TEST:,} test digits; {arguments.steps} steps each; a dot for each seed", fontsize=9)
    figure.savefig(arguments.out)


def balanced(source: Any, places: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The places of as many digits of each kind."""
    labels = np.array(source.column("label"))[places]
    order = np.random.default_rng(seed).permutation(len(places))
    kinds = np.unique(labels)
    chosen = [order[labels[order] == kind][: count // len(kinds)] for kind in kinds]
    return places[np.concatenate(chosen)]


def learn_masked(arguments: argparse.Namespace, pictures: Subset) -> Path:
    tokenizers = {"tokenizers.image": load_recipe("digits").tokenizers["image"]}
    given = {"data": pictures, "evaluations": 1, **tokenizers}
    return learned(arguments.runs / "masked", "masked", arguments.masked_steps, **given)


def learn_everything(arguments: argparse.Namespace) -> Path:
    recipe = load_recipe("everything")
    recipe = replace(recipe, tasks={name: task for name, task in recipe.tasks.items() if name not in KNOWN})
    return learned(arguments.runs / "everything", recipe, arguments.everything_steps, evaluations=1)


def learn(arguments: argparse.Namespace, base: Any, data: Subset, test: Subset, seed: int) -> unitx.Run:
    out = arguments.runs / "labels"
    shutil.rmtree(out, ignore_errors=True)
    given: dict[str, Any] = {"data": data, "test": test, "seed": seed, "steps": arguments.steps, "out": str(out)}
    given |= {"evaluations": 1, "echo": False}
    run = unitx.finetune(base, "digits", **given) if base else unitx.train("digits", **given)
    return whole(run, arguments.steps)


if __name__ == "__main__":
    main()
