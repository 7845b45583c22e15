from __future__ import annotations

import pytest
from small_models import small_model

from unitx.task import TaskInfo

SAID = TaskInfo("said", "transcribe", {"audio": "audio"}, "text", facts={"longest": 6})


def edits(a: list, b: list) -> int:
    """Levenshtein's distance, by the plain recursion on a table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_error_rates_are_edits_over_what_was_said() -> None:
    head = small_model(SAID).heads["said"]
    said = ["The cat sat", "a dog", "Owl"]
    written = ["the cat sat down", "dog", ""]
    pairs = [(a.lower(), b.lower()) for a, b in zip(said, written, strict=True)]
    scores = head.measure(written, said)
    words = sum(edits(a.split(), b.split()) for a, b in pairs) / sum(len(a.split()) for a, _ in pairs)
    letters = sum(edits(list(a), list(b)) for a, b in pairs) / sum(len(a) for a, _ in pairs)
    assert scores == pytest.approx({"wer": words, "cer": letters, "exact_match": 0})
    spread = [text.replace(" ", "\n") for text in said]  # as subtitles are
    assert head.measure(written, spread) == scores
    assert head.lower_is_better and head.headline == "wer"
