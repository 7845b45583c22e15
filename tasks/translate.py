"""Translation: the same in the language that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unitx.errors import BadItem, UnitxError
from unitx.registry import register_task
from unitx.source import seen_cells
from unitx.writing import Writer, chrf_and_bleu

if TYPE_CHECKING:
    from unitx.data import Source
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
            language: the column that holds the tag of the language asked for, which the task reads as text; without
                such a column there is one language to translate to.
        """

        language: str = "language"

    headline = "chrf"

    @classmethod
    def fit(cls, info: TaskInfo, source: Source) -> TaskInfo:
        """Learn the languages that are written.

        Raises:
            UnitxError: no label column is named, or the column of languages is empty.
        """
        info, column = super().fit(info, source), cls.parse_options(info).language
        if column not in info.reads:
            return info
        languages = sorted({str(cell) for cell in seen_cells(source, column)})
        if not languages:
            raise UnitxError(f"task '{info.name}': the column '{column}' names no language")
        return replace(info, facts={**info.facts, "languages": languages})

    @classmethod
    def examples(cls, info: TaskInfo, row: dict[str, Any]) -> list[Example]:
        """Of a row with a language and nothing to translate to it, none."""
        alone = info.parts({**row, cls.parse_options(info).language: None})
        return super().examples(info, row) if alone else []

    @classmethod
    def asked(cls, info: TaskInfo, row: dict[str, Any]) -> list[tuple[str, Any]]:
        languages, column = info.facts.get("languages"), cls.parse_options(info).language
        tag = row.get(column)
        if languages and tag not in languages:
            what = "no language is asked for" if tag is None else f"the model does not write '{tag}'"
            raise BadItem(f"{what}: give '{column}', one of {', '.join(languages)}")
        return info.parts(row)

    def measure(self, texts: list[str], references: list[str]) -> dict[str, float]:
        return chrf_and_bleu(texts, references) | super().measure(texts, references)
