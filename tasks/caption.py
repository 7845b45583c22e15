"""Captioning: say in words what is seen or heard."""

from __future__ import annotations

from unitx.registry import register_task
from unitx.writing import Writer, chrf_and_bleu


@register_task("caption")
class Caption(Writer):
    """A text for a picture, a sound or a video (a prefix language model, as in Wang et al. 2022, "GIT").

    Reports chrF, BLEU and exact matches.
    """

    headline = "chrf"

    def measure(self, texts: list[str], references: list[str]) -> dict[str, float]:
        return chrf_and_bleu(texts, references) | super().measure(texts, references)
