"""Work in several processes, and locks that outlive a fork."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tqdm import tqdm

SLOW = 5  # seconds after which preparing shows how far it is


class ProcessLock:
    """A lock of one process: a forked child finds it open, though a thread of its parent may have held it."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def parallel(function: Callable[[int], Any], jobs: range, about: str) -> list[Any]:
    """The function of every job, in order, by forked processes where the system has a safe fork. What takes long shows
    a bar on a terminal, which says what it is about."""

    def watched(done: Iterable[Any]) -> list[Any]:
        return list(tqdm(done, about, len(jobs), leave=False, delay=SLOW, disable=None, dynamic_ncols=True))

    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if count == 1 or multiprocessing.current_process().daemon:
        return watched(map(function, jobs))
    with multiprocessing.get_context("fork").Pool(min(count, 16), torch.set_num_threads, (1,)) as pool:
        return watched(pool.imap(function, jobs, chunksize=4))
