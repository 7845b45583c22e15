"""Rows of numbers and time series, beside scikit-learn's plain models on the same splits, in one run.

    python tests/benchmarks/plain.py [--seeds 5]

A fifth of the rows is held out, by another seed each time. scikit-learn's models have their usual settings; which of
them is best is seen on the held-out rows, so theirs is the best of four.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import unitx
from unitx.data import open_source
from unitx.recipe import load_recipe

WORLDS = {"table-classify": "tumours", "series-classify": "strokes"}
PLAIN = {
    "logistic regression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000)),
    "support vectors": lambda seed: make_pipeline(StandardScaler(), SVC()),
    "random forest": lambda seed: RandomForestClassifier(random_state=seed),
    "gradient boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}


def numbers(row: dict[str, Any], label: str) -> np.ndarray:
    return np.concatenate([np.ravel(cell) for name, cell in row.items() if name != label])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    print(f"| | unitx | {' | '.join(PLAIN)} |\n| --- | --- {'| --- ' * len(PLAIN)}|")
    for recipe, world in WORLDS.items():
        source = open_source(f"world:{world}")
        label = load_recipe(recipe).label
        rows = [source.row(i, np.random.default_rng(0)) for i in range(len(source))]
        answers = [row[label] for row in rows]
        found: dict[str, list[float]] = {}
        for seed in seeds:
            train, test = train_test_split(np.arange(len(rows)), test_size=0.2, stratify=answers, random_state=seed)
            with tempfile.TemporaryDirectory() as folder:
                data, held = ([rows[i] for i in part] for part in (train, test))
                quiet = {"out": f"{folder}/run", "evaluations": 1, "echo": False}
                run = unitx.train(recipe, data=data, test=held, seed=seed, **quiet)
            found.setdefault("unitx", []).append(run.metrics[f"{recipe}/accuracy"])
            x, y = np.stack([numbers(row, label) for row in rows]), np.array(answers)
            for name, make in PLAIN.items():
                found.setdefault(name, []).append(make(seed).fit(x[train], y[train]).score(x[test], y[test]))
        cells = [f"{np.mean(values):.3f} ± {np.std(values):.3f}" for values in found.values()]
        print(f"| {world} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
