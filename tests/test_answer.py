from __future__ import annotations

from dataclasses import replace

import pytest
from small_models import picture, small_model, sound

from unitx.errors import BadItem
from unitx.task import TaskInfo
from unitx.tasks.answer import QuestionAnswering

ASKED = TaskInfo("ask", "answer", {"image": "image", "audio": "audio", "question": "text"}, "answer")


def test_a_question_stands_behind_what_it_is_about() -> None:
    row = {"image": picture(0), "audio": None, "question": "what is it?", "answer": "a cat"}
    (example,) = QuestionAnswering.examples(ASKED, row)
    assert [modality for modality, _ in example.parts] == ["image", "text", "text"]
    assert example.prefix_parts == 2 and example.target == "a cat"
    (example,) = QuestionAnswering.examples(ASKED, {**row, "audio": sound(0)})
    assert [modality for modality, _ in example.parts] == ["image", "audio", "text", "text"]


def test_a_question_about_nothing_is_left_out() -> None:
    assert QuestionAnswering.examples(ASKED, {"image": None, "question": "what is it?", "answer": "a cat"}) == []
    with pytest.raises(BadItem, match="give the question and what it is about"):
        small_model(replace(ASKED, facts={"longest": 4})).predict([{"question": "what is it?"}])
