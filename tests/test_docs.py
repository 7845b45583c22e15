"""The pages that show how to add a part of one's own: their files are written and their blocks run, in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"(?:`(\w+\.py)`:\n\n)?```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos that are dark at the bottom."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(1, 25):
            shade = np.linspace(250, 20, 32)[:, None, None] + rng.normal(0, 10, (32, 32, 3))
            Image.fromarray(shade.clip(0, 255).astype(np.uint8)).save(folder / "photos" / kind / f"{i}.jpg")
    return folder


@pytest.mark.parametrize("page", ["new-modality.md", "new-objective.md"])
def test_a_page_does_what_it_says(page: str, home: Path) -> None:
    said = []
    for name, code in BLOCK.findall((DOCS / page).read_text("utf-8")):
        if name:
            (home / name).write_text(code, "utf-8")
            lines = [line for line in code.splitlines() if line.strip()]
            assert len(lines) < 50, f"{name} has {len(lines)} lines"
            continue
        done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout)
    accuracy = float(re.search(r"accuracy': ([\d.]+)", said[0]).group(1))
    assert accuracy > 0.9, said
