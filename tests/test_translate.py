from __future__ import annotations

from dataclasses import replace

import pytest
from small_models import small_model

from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.task import TaskInfo
from unitx.tasks.translate import Translate

INFO = TaskInfo("say", "translate", {"language": "text", "source": "text"}, "target")
ROWS = [
    {"language": "fr", "source": "cat", "target": "chat"},
    {"language": "es", "source": "cat", "target": "gato"},
    {"language": "fr", "source": "dog", "target": "chien"},
]


def test_the_languages_of_the_training_rows_are_known() -> None:
    info = Translate.fit(INFO, open_source(ROWS, INFO.reads))
    assert info.facts == {"longest": 5, "languages": ["es", "fr"]}
    (example,) = Translate.examples(info, ROWS[0])
    assert example.parts == [("text", "fr"), ("text", "cat"), ("text", "chat")] and example.prefix_parts == 2
    assert Translate.examples(info, {**ROWS[0], "source": None}) == []


def test_one_language_needs_no_tag() -> None:
    info = TaskInfo("say", "translate", {"source": "text"}, "target")
    info = Translate.fit(info, open_source([{"source": "cat", "target": "gato"}], info.reads))
    assert "languages" not in info.facts
    assert Translate.asked(info, {"source": "dog"}) == [("text", "dog")]


def test_languages_that_were_never_taught_are_refused() -> None:
    model = small_model(Translate.fit(INFO, open_source(ROWS, INFO.reads)))
    assert len(model.predict([{"language": "fr", "source": "cat"}])[0]) == 1
    with pytest.raises(BadItem, match="the model does not write 'de': give 'language', one of es, fr"):
        model.predict([{"language": "de", "source": "cat"}])
    with pytest.raises(BadItem, match="'fr' is asked for, and there is no text"):
        model.predict([{"language": "fr"}])
    with pytest.raises(BadItem, match="no language is asked for"):
        model.predict([{"source": "cat"}])
    with pytest.warns(UserWarning, match="1 of 2 items could not be read; the first: the model does not write 'de'"):
        found = model.predict([{"language": "de", "source": "a"}, {"language": "es", "source": "a"}], on_error="skip")
    assert found[0] == [] and len(found[1]) == 1


def test_the_usual_column_of_languages_is_known_beside_another_that_the_recipe_names() -> None:
    info = replace(INFO, options={"language": "to"})
    assert Translate.fit(info, open_source(ROWS, info.reads)).facts["languages"] == ["es", "fr"]


def test_an_empty_column_of_languages_is_an_error() -> None:
    rows = [{"language": None, "source": "cat", "target": "chat"}]
    with pytest.raises(UnitxError, match="'language' names no language"):
        Translate.fit(INFO, open_source(rows, INFO.reads))
