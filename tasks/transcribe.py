"""Transcription: write down what was said."""

from __future__ import annotations

from unitx.registry import register_task
from unitx.writing import Writer


@register_task("transcribe")
class Transcribe(Writer):
    """The words of a recording (a prefix language model on the shared backbone, after Radford et al. 2022, "Whisper").

    Reports the word and character error rates, in lower case, by jiwer: the share of words or characters that must be
    changed, left out or put in; more than 1 where more is written than was said.
    """

    headline = "wer"
    lower_is_better = True

    def measure(self, texts: list[str], references: list[str]) -> dict[str, float]:
        import jiwer

        # In jiwer's eyes a line break is no space.
        said, written = ([" ".join(text.casefold().split()) for text in column] for column in (references, texts))
        rates = {"wer": jiwer.wer(said, written), "cer": jiwer.cer(said, written)}
        return rates | super().measure(texts, references)
