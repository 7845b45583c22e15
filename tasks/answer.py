"""Answering: a text for a question about a picture, a sound or another text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unitx.errors import BadItem
from unitx.registry import register_task
from unitx.writing import Writer

if TYPE_CHECKING:
    from unitx.task import TaskInfo
    from unitx.tokens import Example


@register_task("answer")
class QuestionAnswering(Writer):
    """Reads what is asked about and the question as one sequence, and writes the answer (after Antol et al. 2015).

    Reports exact matches, but for case and spaces.
    """

    @classmethod
    def asked(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        """Raises: BadItem: there is a question, or what it is about, and not the other."""
        parts = super().asked(info, row)
        if len(parts) == 1:
            raise BadItem(f"an item with one of {', '.join(info.reads)}: give the question and what it is about")
        return parts

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row with a question and nothing that it is about, none."""
        return super().examples(info, row) if len(info.parts(row)) > 1 else []
