"""The number format: measured or as asked for."""

from __future__ import annotations

import pytest
import torch
from small_models import CLASSES, STORIES, picture, small_model

from unitx import precision
from unitx.backbone import Linear, MixedPrecision
from unitx.model import Model
from unitx.precision import DTYPES, answering, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_is_asked_for_is_not_measured(wanted: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "_time_product", lambda *_: pytest.fail("measured"))
    name, why = choose_precision(wanted, CPU, 32)
    assert name == wanted and wanted in why


@pytest.mark.parametrize(("fp32", "bf16", "best"), [(5.0, 1.0, "bf16"), (1.0, 3.0, "fp32"), (1.1, 1.0, "fp32")])
def test_the_faster_one_is_chosen_and_fp32_on_a_tie(
    fp32: float, bf16: float, best: str, monkeypatch: pytest.MonkeyPatch
):
    times = {torch.float32: fp32, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "_time_product", lambda dtype, *_: times[dtype])
    name, why = choose_precision("auto", CPU, 32)
    assert name == best and "fp32 " in why and "bf16 " in why and "ms" in why


def test_a_real_measurement_ends_in_one_of_them():
    name, why = choose_precision("auto", CPU, 16)
    assert name in DTYPES and "\n" not in why


def copies(model: Model) -> list[tuple[torch.Tensor, torch.Tensor | None] | None]:
    return [module.copies for module in model.modules() if isinstance(module, MixedPrecision)]


def test_weights_are_cast_once_for_many_answers_and_change_none():
    model = small_model(CLASSES)
    batches = [picture(seed) for seed in range(3)]
    model.compute_dtype = torch.bfloat16
    expected = model.embed(batches, batch_tokens=8)
    with answering(model):
        casts = [x for weight_and_bias in copies(model) for x in weight_and_bias]
        assert {x.dtype for x in casts if x is not None} == {torch.bfloat16} and any(x is None for x in casts)
        assert not model.training
        assert (model.embed(batches[:1]) == expected[:1]).all()
    assert copies(model) == [None] * len(copies(model))
    linear = next(module for module in model.modules() if isinstance(module, Linear))
    linear.weight.data.mul_(-1)  # no copy of before is used
    assert not (model.embed(batches) == expected).all()


def test_a_copy_is_for_its_own_format_only():
    linear = Linear(4, 3)
    linear.copies = torch.zeros(3, 4, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)
    x = torch.randn(2, 4)
    assert torch.equal(linear(x), torch.nn.functional.linear(x, linear.weight, linear.bias))
    assert torch.equal(linear(x.bfloat16()), torch.ones(2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_and_no_copy_stays(training: bool):
    model = small_model(STORIES).train(training)
    model.compute_dtype = torch.bfloat16
    with pytest.raises(RuntimeError, match="stop"), answering(model):
        raise RuntimeError("stop")
    assert model.training == training and set(copies(model)) == {None}
    model.generate(["a"], max_tokens=2)
    assert model.training == training and set(copies(model)) == {None}


def test_in_float32_nothing_is_copied():
    model = small_model(CLASSES)
    with answering(model):
        assert set(copies(model)) == {None}
