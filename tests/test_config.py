from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from unitx.backbone import Backbone
from unitx.config import SIZES, BackboneConfig, heads_for


def test_configuration_does_not_import_torch() -> None:
    code = "import sys, unitx.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"dim": 100, "heads": 3}, "dim 100"),
        ({"dim": 12, "heads": 4}, "dim 12"),  # heads of 3: rotary turns pairs
        ({"dim": 32, "heads": 4, "kv_heads": 3}, "kv_heads 3"),
        ({"dim": 32, "heads": 4, "kv_heads": 8}, "kv_heads 8"),
        ({"window": 0}, "window is 0"),
        ({"window": -5}, "window is -5"),
        ({"kv_heads": 0}, "kv_heads is 0"),
        ({"depth": -1}, "depth is -1"),
        ({"heads": 0}, "heads is 0"),
        ({"dim": 32, "heads": 4, "rotary_slowing": [2.0]}, "rotary_slowing has 1 numbers, not 4"),
        ({"rotary_gain": 0.0}, "rotary_gain is 0"),
        ({"dim": 30, "heads": 4}, "dim 30 must be a multiple of heads 4"),
        ({"dim": 64, "heads": 4, "head_size": 5}, "heads of an even width, not 5"),
    ],
)
def test_an_impossible_shape_is_refused(fields: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        BackboneConfig(**fields)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_a_backbone_of_the_parameters_of_vit(name: str) -> None:
    """A block has 12 dim² weights (Dosovitskiy et al. 2020), and vectors beside them: less than one percent."""
    size = SIZES[name]
    config = BackboneConfig(dim=size.dim, depth=size.depth, heads=size.heads)
    assert config.head_dim >= 32
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Backbone(config).parameters())
    assert parameters == pytest.approx(12 * size.dim**2 * size.depth, rel=0.01)


@pytest.mark.parametrize("width", [32, 64])
def test_heads_for_any_width_make_a_backbone(width: int) -> None:
    for dim in range(2, 1100, 2):
        assert BackboneConfig(dim, 1, heads=heads_for(dim, width)).head_dim >= min(dim, width)
    assert heads_for(176, 32) == 4 and heads_for(128, 32) == 4 and heads_for(384, 64) == 6


def test_the_dial_turns_one_way() -> None:
    sizes = list(SIZES.values())
    assert list(SIZES) == ["nano", "tiny", "small", "base", "large"]
    for smaller, larger in itertools.pairwise(sizes):
        assert smaller.dim < larger.dim and smaller.depth <= larger.depth
        assert smaller.lr > larger.lr and smaller.batch_tokens < larger.batch_tokens
