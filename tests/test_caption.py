from __future__ import annotations

import pytest
import sacrebleu
from small_models import CAPTION, small_model


def test_texts_are_scored_by_the_fields_own_metrics() -> None:
    head = small_model(CAPTION).heads["caption"]
    same = ["a cat sits on the red mat today"]
    assert head.measure(same, same) == pytest.approx({"chrf": 100, "bleu": 100, "exact_match": 1})
    scores = head.measure(["a cat"], ["a dog"])
    assert 0 < scores["chrf"] < 50 and scores["exact_match"] == 0
    assert head.measure(["red fox"], ["red fox"])["bleu"] == pytest.approx(100)  # though it has no four words
    long = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat", "a dog"]
    assert head.measure(*long)["bleu"] == sacrebleu.corpus_bleu(long[0], [long[1]]).score
    # All texts are one corpus: every text counts by its length, not as one of two.
    long, short = "the quick brown fox jumps over the lazy dog", "cat"
    both = head.measure([long, "dog"], [long, short])["chrf"]
    assert both > 80
