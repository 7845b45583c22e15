"""Translation: the same in the language that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unitx.errors import BadItem, UnitxError
from unitx.registry import register_task
from unitx.source import seen_cells
from unitx.writing import Writer, chrf_and_bleu

if TYPE_CHECKING:
    from unitx.source import Source
    from unitx.task import TaskInfo
    from unitx.tokens import Example


@register_task("translate")
class Translate(Writer):
    """Writes a text in another language, whose tag stands before it (Johnson et al. 2017), as the column `language`.

    Reports chrF, BLEU and exact matches.
    """

    @dataclass(frozen=True)
    class Options:
        """
        Attributes:
            language: the column that holds the tag of the language asked for, which the task reads as text (or
                `language`, if that is read); without such a column there is one language to translate to.
        """

        language: str = "language"

    headline = "chrf"

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the languages that are written.

        Raises:
            UnitxError: no label column is named, or the column of languages is empty.
        """
        info, column = super().fit(info, source), cls.tag_column(info)
        if column is None:
            return info
        languages = sorted({str(cell) for cell in seen_cells(source, column)})
        if not languages:
            raise UnitxError(f"task '{info.name}': the column '{column}' names no language")
        return replace(info, facts={**info.facts, "languages": languages})

    @classmethod
    def tag_column(cls, info: TaskInfo) -> str | None:
        """The column of the languages, None where there is none."""
        named = (cls.parse_options(info).language, cls.Options.language)
        return next((column for column in named if column in info.reads), None)

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row with a language and nothing to translate to it, none."""
        return super().examples(info, row) if cls._text_of(info, row) else []

    @classmethod
    def _text_of(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        column = cls.tag_column(info)
        return info.parts({**row, column: None} if column else row)

    @classmethod
    def asked(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        """Raises: BadItem: no text, or a language that the model does not write."""
        languages, column = info.facts.get("languages"), cls.tag_column(info)
        tag = row.get(column) if column else None
        if tag is not None and not cls._text_of(info, row):
            raise BadItem(f"'{tag}' is asked for, and there is no text: give one to be translated")
        if languages and tag not in languages:
            what = "no language is asked for" if tag is None else f"the model does not write '{tag}'"
            raise BadItem(f"{what}: give '{column}', one of {', '.join(languages)}")
        return info.parts(row)

    def measure(self, texts: list[str], references: list[str]) -> dict[str, float]:
        return chrf_and_bleu(texts, references) | super().measure(texts, references)
