"""How well a model that learned to hear finds sentences that no training has shown, said by voices it never heard.

    python tests/benchmarks/hear.py runs/hear
    python tests/benchmarks/hear.py runs/hear --flite         # another synthesizer (Debian: flite)
    python tests/benchmarks/hear.py MODEL --shuffle FOLDER    # what knows nothing: unitx finetune FOLDER hear

The test part of the spoken world, a thousand sentences: is the sentence that was said the nearest of all, or among the
ten nearest? Typed queries are the same sentences in lower case and without punctuation. With --shuffle a published
model is written with the numbers of each of its tensors in random order: as large and as wide, and nothing learned.
"""

from __future__ import annotations

import argparse
import string
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unitx.model import Model
from unitx.worlds.spoken import SpokenWorld

FLITE = ("awb", "kal16", "rms", "slt")
PLAIN = str.maketrans("", "", string.punctuation)


def recall(queries: np.ndarray, gallery: np.ndarray) -> str:
    """Of queries and a gallery in the same order, as two cells of the table."""
    cosines = queries @ gallery.T
    ranks = (cosines > cosines.diagonal()[:, None]).sum(1)
    return " | ".join(f"{float((ranks < rank).mean()):.1%}" for rank in (1, 10))


def said_by_flite(texts: list[str]) -> list[Any]:
    """Each by one of flite's voices in turn."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.wav" for i in range(len(texts))]
        for i, (text, file) in enumerate(zip(texts, files, strict=True)):
            subprocess.run(["flite", "-voice", FLITE[i % len(FLITE)], "-t", text, "-o", str(file)], check=True)
        return [file.read_bytes() for file in files]


@torch.no_grad()
def shuffle(model: Model) -> Model:
    torch.manual_seed(0)
    for weight in model.parameters():
        weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--flite", action="store_true", help="recordings by another synthesizer, too")
    parser.add_argument("--shuffle", help="the folder for a model without what MODEL has learned")
    arguments = parser.parse_args()
    model = Model.from_pretrained(arguments.model)
    if arguments.shuffle:
        shuffle(model).save_pretrained(arguments.shuffle)
        return
    world = SpokenWorld(part="test")
    texts = world.texts
    typed = model.embed(texts, "text")
    rng = np.random.default_rng(0)
    sounds = {"espeak-ng": [world.row(i, rng)["audio"] for i in range(len(texts))]}
    if arguments.flite:
        sounds["flite"] = said_by_flite(texts)
    print(f"| among {len(texts):,} sentences | recall@1 | recall@10 |\n| --- | --- | --- |")
    plain = model.embed([text.lower().translate(PLAIN) for text in texts], "text")
    print(f"| typed plainly → sentence | {recall(plain, typed)} |")
    for voice, recordings in sounds.items():
        heard = model.embed(recordings, "audio")
        print(f"| said by {voice} → sentence | {recall(heard, typed)} |")
        print(f"| sentence → said by {voice} | {recall(typed, heard)} |", flush=True)
    print(f"| by chance | {1 / len(texts):.1%} | {10 / len(texts):.1%} |")


if __name__ == "__main__":
    main()
