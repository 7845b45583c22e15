"""Work in several processes."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from unitx.worlds.processes import ProcessLock, parallel


def square(job: int) -> tuple[int, int]:
    return job * job, os.getpid()


def fail_at_three(job: int) -> float:
    return 1 / (job - 3)


def test_jobs_come_back_in_order_whoever_did_them() -> None:
    found = parallel(square, range(40), "squares")
    assert [square for square, _ in found] == [job * job for job in range(40)]
    several = sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1
    assert ({process for _, process in found} == {os.getpid()}) != several


def test_the_error_of_a_job_is_the_whole_works() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel(fail_at_three, range(8), "dividing")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_finds_a_lock_open_that_a_thread_of_its_parent_holds() -> None:
    lock, held, done = ProcessLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    if not (child := os.fork()):
        os._exit(0 if lock.lock.acquire(timeout=5) else 1)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
