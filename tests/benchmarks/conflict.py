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
from unitx.job import Job, build_job
from unitx.plots import draw_conflict
from unitx.recipe import load_recipe


def show(model: unitx.Model, job: Job, batches: int, out: Path) -> None:
    """Print the cosines as a table, and draw them."""
    data = {feed.info.name: feed.source for feed in job.feeds}
    loader = unitx.loader(model, data, job.resolved["batch_tokens"], workers=0)
    tasks, cosines = gradient_conflict(model, islice(loader, batches))
    print(f"| | {' | '.join(tasks)} |\n| --- {'| --- ' * len(tasks)}|")
    for task, row in zip(tasks, cosines.tolist(), strict=True):
        print(f"| {task} | {' | '.join(f'{value:z.2f}' for value in row)} |")
    draw_conflict(tasks, cosines, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model, job = unitx.Model.from_pretrained(given.run), build_job(load_recipe(given.run))
    show(model, job, given.batches, given.out or given.run / "conflict.png")


if __name__ == "__main__":
    main()
