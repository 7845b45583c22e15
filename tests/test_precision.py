"""The number format: measured or as asked for."""

from __future__ import annotations

import pytest
import torch

from unitx import precision
from unitx.precision import DTYPES, choose_precision

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
