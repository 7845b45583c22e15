"""What a run says: plain lines without a terminal, a bar on one, nothing when told to be silent."""

from __future__ import annotations

import io
import sys

import pytest

from unitx import reporter as module
from unitx.batches import Tally
from unitx.checkpoint import Progress
from unitx.reporter import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(reporter: Reporter, steps: int, total: int | None = 10, seconds: float | None = None) -> None:
    """Report `steps` steps of one second each, the loss falling from 1."""
    reporter.start(total, seconds, Progress())
    for step in range(1, steps + 1):
        done = step / total if total else step / (seconds or 1)
        reporter.step(Progress(step=step, seconds=step), min(1.0, done), {"loss": 1 / step}, Tally(items=8))


def test_silence(capsys: pytest.CaptureFixture[str]):
    reporter = Reporter(False)
    work(reporter, 3)
    reporter.say("a line")
    reporter.scores(Progress(step=3), {"a": 1.0})
    reporter.close()
    assert capsys.readouterr() == ("", "")


def test_plain_lines_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    reporter = Reporter(True)
    work(reporter, 10)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and 1 <= len(lines) <= 3  # ten steps of 4 s each, a line every 15 s
    assert lines[0].startswith("step 4:") or lines[0].startswith("step 3:")
    assert "loss" in lines[0] and "items/s" in lines[0] and "s left" in lines[0]


def test_time_left_follows_from_what_is_done(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PLAIN_SECONDS", -1.0)
    work(Reporter(True), 5, total=20)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("step 5:") and "25%" in last and "15 s left" in last


@pytest.mark.parametrize(("total", "seconds"), [(10, None), (None, 10.0)])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, total: int | None, seconds: float | None):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = Reporter(True)
    work(reporter, 12, total, seconds)  # the clock may run over
    reporter.say("a line of its own")
    assert reporter.bar.n == 10 and reporter.bar.total == 10
    reporter.close()
    reporter.close()
    shown = terminal.getvalue()
    assert "a line of its own\n" in shown and "100%" in shown and "loss" in shown


def test_a_bar_goes_on_where_the_run_stood(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    reporter = Reporter(True)
    reporter.start(10, None, Progress(step=4))
    assert reporter.bar.n == 4
    reporter.close()


def test_scores_and_steps_without_a_loss(capsys: pytest.CaptureFixture[str]):
    reporter = Reporter(True)
    reporter.start(4, None, Progress())
    reporter.step(Progress(step=1, seconds=1.0), 0.25, {}, Tally())  # a step of which no item could be read
    reporter.scores(Progress(step=2), {"task/accuracy": 0.98765})
    reporter.scores(Progress(step=2), {})
    assert capsys.readouterr().err == "step 2: held out: task/accuracy 0.988\n"
