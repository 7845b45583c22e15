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

# Machines differ in speed, hence no deadline. The same examples each time: a failure is not a matter of luck.
settings.register_profile("unitx", deadline=None, max_examples=12, derandomize=True)
settings.load_profile("unitx")


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
