"""Shared by all tests: one thread a worker where several workers share the processor, and fixed seeds."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
if torch.cuda.is_available():  # where sums are otherwise in no fixed order, and a run repeats to rounding only
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)

# Machines differ in speed, hence no deadline. The same examples each time: a failure is not a matter of luck.
settings.register_profile("unitx", deadline=None, max_examples=12, derandomize=True)
settings.load_profile("unitx")


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
