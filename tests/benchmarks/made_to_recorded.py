"""What made voices are worth to a model of recorded ones: Tux Paint's stamps, from nothing and after spoken emoji.

    python tests/benchmarks/made_to_recorded.py --stamps DIR --out made-to-recorded.png
    python tests/benchmarks/made_to_recorded.py --stamps DIR --out made-to-recorded.png --from RUN

One model writes down what is said and finds recordings by name (`transcribe` and `align`), in the languages that are
recorded and that the emoji world speaks. It learns from 10, 100 and all recordings of the training part, with new
weights and from a backbone that has learned the same on the emoji world's voices (made first, unless --from names its
run); both take as many steps, and the best of each by the validation part is scored on the test part. Draws the
figure and writes the numbers beside it, in .json, after every run; started again with the same --out it goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from results import Results, draw_by_examples, learned, whole

import unitx
from unitx.plots import new_figure
from unitx.recipe import Recipe, TaskRecipe
from unitx.source import Subset
from unitx.worlds.stamps import Stamps

LANGUAGES = ["es", "fr", "ru"]
TASKS = {
    "transcribe": TaskRecipe("transcribe", reads="audio", label="name"),
    "align": TaskRecipe("align", reads="audio,name:text"),
}
RECIPE = Recipe(
    tasks=TASKS,
    size="nano",
    tokenizers={"audio": {"max_tokens": 96, "mels": 32}, "text": {"vocabulary": "bytes", "max_tokens": 256}},
    batch_tokens=4096,
)
ARMS = ("from nothing", "from made voices")
SCORES = {  # panel → task, metric
    "characters wrong in what it writes": ("transcribe", "cer"),
    "recordings whose name is found first": ("align", "audio→name"),
}


def main() -> None:
    arguments = parse()
    out = Path(arguments.out)
    results = Results(out.with_suffix(".json"))
    test = stamps(arguments.stamps, "test")

    def note(arm: str, count: int, seed: int, model: unitx.Model) -> None:
        found = {title: score(model, test, *what) for title, what in SCORES.items()}
        results.add(arm=arm, recordings=count, seed=seed, steps=arguments.steps, **found)

    base = arguments.base or learn_made_voices(arguments)
    if not results.has(arm=ARMS[1], recordings=0):
        note(ARMS[1], 0, 0, unitx.Model.from_pretrained(base))
    train = stamps(arguments.stamps, "train").prepare()
    for count in (min(int(one), len(train)) if one != "all" else len(train) for one in arguments.recordings):
        for seed in range(arguments.seeds):
            chosen = np.random.default_rng(seed).permutation(len(train))[:count]
            for arm in ARMS:
                if not results.has(arm=arm, recordings=count, seed=seed):
                    data = Subset(train, chosen)
                    note(arm, count, seed, learn(arguments, base if arm == ARMS[1] else None, data, seed))
    draw(results.lines, len(test), out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", required=True, help="the folder of the stamps")
    parser.add_argument("--out", required=True, help="the figure")
    parser.add_argument("--from", dest="base", help="a run that learned on made voices")
    parser.add_argument("--runs", default="runs/made-to-recorded", help="a folder for the runs")
    parser.add_argument("--recordings", nargs="+", default=["10", "100", "all"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of each run on recordings")
    parser.add_argument("--made-steps", type=int, default=1500, help="of the run on made voices")
    parser.add_argument("--concepts", default="all", help="emoji whose names the made voices say: a number or all")
    return parser.parse_args()


def stamps(folder: str, part: str) -> Stamps:
    return Stamps(folder, "recordings", LANGUAGES, part)


def learn_made_voices(arguments: argparse.Namespace) -> Path:
    """The folder of a run on the emoji world's voices."""
    concepts = arguments.concepts if arguments.concepts == "all" else int(arguments.concepts)
    data = {"world": "emoji", "concepts": concepts, "languages": LANGUAGES}
    given = {"data": data, "augment": "none", "evaluations": 2}
    return learned(Path(arguments.runs) / "made", RECIPE, arguments.made_steps, **given)


def learn(arguments: argparse.Namespace, base: Any, data: Subset, seed: int) -> unitx.Model:
    """The best model of a run on some recordings."""
    out = Path(arguments.runs) / f"{len(data)}-{seed}-{'made' if base else 'nothing'}"
    shutil.rmtree(out, ignore_errors=True)
    given = {
        "data": data, "test": stamps(arguments.stamps, "validation"), "seed": seed, "steps": arguments.steps,
        "evaluations": 4, "out": str(out),
    }  # fmt: skip
    run = unitx.finetune(base, RECIPE, **given) if base else unitx.train(RECIPE, **given)
    return whole(run, arguments.steps).model


def score(model: unitx.Model, test: Stamps, task: str, metric: str) -> float:
    return unitx.evaluate(model, test, task).scores[metric]


def draw(results: list[dict[str, Any]], tested: int, out: Path) -> None:
    """A panel a score: over the recordings, the mean of the seeds and each of them, by arm."""
    figure = new_figure(11, 4.6)
    alone = next(line for line in results if not line["recordings"])
    for axes, title in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
        draw_by_examples(axes, results, ARMS, "recordings", title)
        axes.axhline(alone[title], color="#888888", linestyle=":", label="made voices alone, no recording")
        axes.legend(fontsize=9)
    said = f"{tested:,} test recordings in {', '.join(LANGUAGES)}; {alone['steps']} steps each; a dot for each seed"
    figure.supxlabel(said, fontsize=9)
    figure.savefig(out)


if __name__ == "__main__":
    main()
