"""Optimizers: against a plain float64 reference, and who gets which parameter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from unitx.config import BackboneConfig
from unitx.model import Model
from unitx.optim import Muon, build_optimizers, orthogonalize, schedule, set_lr
from unitx.task import TaskInfo
from unitx.tokenizers.audio import AudioProcessor
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor


def small_model(depth: int = 2, kv_heads: int | None = 2) -> Model:
    tasks = [TaskInfo("topic", "classify", {"text": "text"}, "label", ["a", "b"]),
             TaskInfo("write", "next_token", {"text": "text"})]  # fmt: skip
    processors = {"image": ImageProcessor(max_tokens=4, patch=8), "text": TextProcessor(max_tokens=32)}
    return Model(BackboneConfig(dim=32, depth=depth, heads=4, kv_heads=kv_heads), processors, tasks)


@pytest.mark.parametrize("shape", [(16, 64), (1, 9), (48, 64), (128, 512)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int]):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(6, *shape)))
    assert values.max() < 1.5 and values.min() > 0.5


def test_orthogonalize_keeps_directions():
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=(12, 20)), full_matrices=False)
    given = torch.from_numpy(u @ np.diag(np.linspace(0.3, 1.0, 12)) @ v)
    found = orthogonalize(given[None])[0].numpy()
    inside = u.T @ found @ v.T  # diagonal, where the directions are the same
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-6 and np.diag(inside).min() > 0.5


def test_a_batch_is_orthogonalized_as_one_by_one():
    matrices = torch.randn(5, 12, 40)
    one_by_one = torch.cat([orthogonalize(m[None]) for m in matrices])
    assert torch.allclose(orthogonalize(matrices), one_by_one, atol=1e-5)


def test_a_gradient_of_zero_does_not_become_nan():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


class Reference:
    """Muon in plain numpy float64, one matrix at a time."""

    def __init__(self, weight: torch.Tensor, lr: float, decay: float, rows: list[int]):
        self.weight, self.lr, self.decay = weight.detach().numpy().astype(np.float64), lr, decay
        self.rows, self.momentum = rows, np.zeros(self.weight.shape)

    def step(self, gradient: torch.Tensor) -> None:
        g = gradient.numpy().astype(np.float64)
        self.momentum = 0.95 * self.momentum + 0.05 * g
        change = 0.05 * g + 0.95 * self.momentum
        self.weight = self.weight * (1 - self.lr * self.decay)
        first = 0
        for rows in self.rows:
            part = slice(first, first + rows)
            scale = 0.2 * math.sqrt(max(change[part].shape))
            self.weight[part] -= self.lr * scale * self.iterate(change[part])
            first += rows

    @staticmethod
    def iterate(x: np.ndarray) -> np.ndarray:
        x = x / np.linalg.norm(x)
        for _ in range(5):
            left = x @ x.T
            x = 3.4445 * x - 4.7750 * left @ x + 2.0315 * left @ left @ x
        return x


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((16, 16), [16]), ((40, 12), [40]), ((12, 40), [12]), ((48, 16), [16, 16, 16]), ((32, 16), [16, 8, 8])],
    ids=["square", "tall", "wide", "qkv", "grouped qkv"],
)
def test_steps_equal_a_plain_reference(shape: tuple[int, int], rows: list[int]):
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(shape, generator=generator))
    other = torch.nn.Parameter(torch.randn(12, 40, generator=generator))  # shares a batch with some of them
    plain = Reference(weight, 0.02, 0.1, rows)
    muon = Muon([weight, other], lr=0.02, weight_decay=0.1, splits={weight: rows})
    for _ in range(3):
        weight.grad = torch.randn(shape, generator=generator)
        other.grad = torch.randn(12, 40, generator=generator)
        plain.step(weight.grad)
        muon.step()
    assert np.abs(weight.detach().numpy() - plain.weight).max() < 2e-5


@pytest.mark.parametrize("shape", [(32, 32), (64, 16), (16, 64)])
def test_agrees_with_the_muon_of_torch(shape: tuple[int, int]):
    start = torch.randn(shape)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.02, weight_decay=0.1)
    peer = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        muon.step()
        peer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.05 * moved  # torch's iterates in bf16


def test_a_parameter_without_gradient_stays_and_has_no_state():
    weight, idle = torch.nn.Parameter(torch.randn(4, 8)), torch.nn.Parameter(torch.randn(4, 8))
    before = idle.detach().clone()
    muon = Muon([weight, idle], lr=0.1, weight_decay=0.5)
    weight.grad = torch.randn(4, 8)
    muon.step()
    assert torch.equal(idle, before) and idle not in muon.state


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_each_trainable_parameter_is_in_one_optimizer(kind: str):
    model = small_model()
    model.backbone.blocks[0].requires_grad_(False)
    model.tokenizers["image"].requires_grad_(False)
    optimizers = build_optimizers(model, kind, 0.01, 0.1)
    held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(optimizers) == (2 if kind == "muon" else 1)


def test_muon_gets_the_hidden_matrices_and_nothing_else():
    model = small_model()
    muon, adamw = build_optimizers(model, "muon", 0.01, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    held = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    ends = ("attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight")
    assert held == {f"backbone.blocks.{i}.{end}" for i in range(2) for end in ends}
    for group in adamw.param_groups:  # vectors are not decayed
        assert all(group["weight_decay"] == (0.1 if p.ndim == 2 else 0.0) for p in group["params"])
    # 4 heads of 8 ask, 2 hold and 2 tell.
    assert [rows for rows in muon.splits.values()] == [[32, 16, 16]] * 2


def test_blocks_of_a_tokenizer_are_hidden_matrices_too():
    processors = {"audio": AudioProcessor(depth=1)}
    model = Model(BackboneConfig(dim=32, depth=1, heads=2, gated=True), processors, [])
    muon, _ = build_optimizers(model, "muon", 0.01, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    held = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    ends = ("attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight")
    assert held == {f"{where}.blocks.0.{end}" for where in ("backbone", "tokenizers.audio.encoder") for end in ends}
    splits = {names[id(p)]: sizes for p, sizes in muon.splits.items()}
    assert splits == {
        "backbone.blocks.0.attn.qkv.weight": [32, 32, 32],
        "backbone.blocks.0.mlp.up.weight": [128, 128],
        "tokenizers.audio.encoder.blocks.0.attn.qkv.weight": [32, 32, 32],
    }


def test_nothing_to_train_of_the_backbone_gives_no_muon():
    model = small_model()
    model.backbone.requires_grad_(False)
    (only,) = build_optimizers(model, "muon", 0.01, 0.1)
    assert isinstance(only, torch.optim.AdamW)


def test_layer_decay_lowers_the_rate_towards_the_input():
    model = small_model(depth=3)
    optimizers = build_optimizers(model, "adamw", 0.01, 0.1, layer_decay=0.5)
    set_lr(optimizers, 0.8)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]}
    for name, rate in rates.items():
        level = {"tokenizers": 0, "heads": 3}.get(name.split(".")[0], 3)
        if name.startswith("backbone.blocks."):
            level = int(name.split(".")[2]) + 1
        assert rate == pytest.approx(0.8 * 0.5 ** (3 - level)), name
    assert {round(rate, 6) for rate in rates.values()} == {0.1, 0.2, 0.4, 0.8}


def test_what_is_new_in_a_trained_model_learns_at_the_full_rate():
    model = small_model()
    names = {id(p): name for name, p in model.named_parameters()}
    new = {name for name in names.values() if name.startswith("tokenizers.image")}
    optimizers = build_optimizers(model, "adamw", 0.01, 0.1, 0.5, new=new)
    scales = {names[id(p)]: group["scale"] for o in optimizers for group in o.param_groups for p in group["params"]}
    assert all(scales[name] == 1.0 for name in new)
    assert all(scale == 0.25 for name, scale in scales.items() if name.startswith("tokenizers.") and name not in new)


def test_muon_takes_four_times_the_rate_of_adamw():
    muon, adamw = build_optimizers(small_model(), "muon", 0.01, 0.1)
    set_lr([muon, adamw], 0.5)
    assert {group["lr"] for group in muon.param_groups} == {4 * 0.5}
    assert {group["lr"] for group in adamw.param_groups} == {0.5}


def test_the_schedule_rises_and_falls():
    points = np.linspace(0, 1, 1001)
    curve = np.array([schedule(x, 0.1) for x in points])
    assert curve.argmax() == 100 and curve.max() == pytest.approx(1.0)
    assert (np.diff(curve[:100]) >= 0).all() and (np.diff(curve[100:]) <= 0).all()
    assert curve[50] == pytest.approx(0.5) and curve[550] == pytest.approx(0.5)
    assert 0 < curve[0] <= 1e-3 and 0 < curve[-1] <= 1e-3


@pytest.mark.parametrize("warmup", [0.0, 1e-9, 1.0])
def test_the_schedule_at_its_borders(warmup: float):
    values: list[Any] = [schedule(x, warmup) for x in (0.0, 0.5, 1.0)]
    assert all(1e-3 <= v <= 1.0 for v in values)
    assert values[0] == (1.0 if warmup == 0 else 1e-3)


def test_query_key_and_value_are_told_apart_below_adapters_too():
    model = small_model()
    model.add_adapters(frozen=[])
    model.backbone.requires_grad_(True)
    muon, _ = build_optimizers(model, "muon", 0.01, 0.1)
    assert [rows for rows in muon.splits.values()] == [[32, 16, 16]] * 2
