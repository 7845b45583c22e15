"""Which tasks of a trained run are in conflict: the cosines between their gradients on the shared backbone.

    python tests/benchmarks/conflict.py RUN [--batches 20] [--out RUN/conflict.png]

The rows are those that the run was trained on, in batches as large as its steps were.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import unitx
from unitx.conflict import gradient_conflict
from unitx.job import build_job
from unitx.plots import draw_conflict
from unitx.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    job = build_job(load_recipe(given.run))
    model = unitx.Model.from_pretrained(given.run)
    data = {feed.info.name: feed.source for feed in job.feeds}
    batches = unitx.loader(model, data, job.resolved["batch_tokens"], workers=0)
    tasks, cosines = gradient_conflict(model, islice(batches, given.batches))
    print(f"| | {' | '.join(tasks)} |\n| --- {'| --- ' * len(tasks)}|")
    for task, row in zip(tasks, cosines.tolist(), strict=True):
        print(f"| {task} | {' | '.join(f'{value:.2f}' for value in row)} |")
    draw_conflict(tasks, cosines, given.out or given.run / "conflict.png")


if __name__ == "__main__":
    main()
