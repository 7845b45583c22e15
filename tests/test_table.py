"""Rows of columns: a token a column, told by its slot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import unitx
from unitx.errors import BadItem, UnitxError
from unitx.recipe import Recipe, TaskRecipe
from unitx.tokenizers.table import TableProcessor, TableTokenizer

ROWS = [
    {"age": 30, "height": "1.7", "city": "Rome", "member": True},
    {"age": 50, "height": 1.9, "city": "Oslo", "member": None},
    {"age": None, "height": 1.8, "city": None, "member": False, "late": None},
]


def fitted() -> TableProcessor:
    return TableProcessor.fit({}, iter(ROWS))


def test_columns_are_learned_from_the_rows() -> None:
    processor = fitted()
    assert [name for name, *_ in processor.numbers] == ["age", "height", "member"]
    assert processor.numbers[0] == ("age", 40.0, 10.0) and processor.numbers[1][1] == pytest.approx(1.8)
    assert processor.names == (("city", ("Oslo", "Rome")),)
    assert processor.slots == 2 * 3 + 3
    again = TableProcessor(**json.loads(json.dumps({"numbers": processor.numbers, "names": processor.names})))
    assert again == processor and hash(again) == hash(processor)


def test_every_column_is_a_token() -> None:
    processor = fitted()
    pieces = processor.prepare({"age": 60, "city": "Rome", "member": 1, "unknown": 7})
    # age 60 is two deviations up, height is missing, member is a number, Rome the second name of the fourth column.
    member = (1 - 0.5) / 0.5
    np.testing.assert_allclose(pieces.values, [[0, 2], [3, 0], [4, member], [8, 0]])
    assert pieces.positions.tolist() == [[i] * 3 for i in range(4)]
    np.testing.assert_allclose(processor.prepare({"city": "Paris"}).values, [[1, 0], [3, 0], [5, 0], [6, 0]])


@torch.no_grad()
def test_a_vector_is_the_slots_and_the_numbers() -> None:
    tokenizer = TableTokenizer(fitted(), 8)
    values = torch.tensor([[0, 2.0], [8, 0.0]])
    found = tokenizer(values, [2])
    expected = tokenizer.embed.weight[0] + tokenizer.scale.weight[0] * np.arcsinh(2.0)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], tokenizer.embed.weight[8])


def test_a_column_of_numbers_may_have_gaps_however_they_are_written() -> None:
    ages = [1, "NA", "2.5", " nan ", None, "-"]
    rows = [{"age": age, "code": code} for age, code in zip(ages, "1a2b3c", strict=True)]
    processor = TableProcessor.fit({}, iter(rows))
    assert processor.numbers == (("age", 1.75, 0.75),) and [name for name, _ in processor.names] == ["code"]
    assert processor.notes(len(rows)) == ["the table has numbers in age; names in code"]
    gaps = [processor.features(processor.read({"age": age, "code": "1"})) for age in (None, "n/a", float("nan"), "?")]
    for gap in gaps:
        np.testing.assert_array_equal(gap, gaps[0])
    assert processor.features(processor.read({"age": "2.5"}))[0, 1] == 1.0


def test_all_columns_are_read() -> None:
    row = {f"c{i}": float(i) for i in range(300)}
    processor = TableProcessor.fit({}, iter([row, {**row, "c0": 3.0}]))
    assert len(processor.prepare(row)) == 300 and not processor.prepare(row).shortened
    assert len(TableProcessor.fit({"max_tokens": 8}, iter([row])).prepare(row)) == 8


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("a text", "is no row of the table: give {column: cell} with age, height, member, city"),
        ({}, "is no row of the table"),
        ({"age": None, "street": "Main"}, "is no row of the table"),
        ({"age": "old"}, "the column 'age' holds text 'old', and held numbers in training"),
        ({"age": float("inf")}, "the column 'age' holds float inf, and held numbers in training"),
    ],
)
def test_what_is_no_row_is_named(item: object, says: str) -> None:
    with pytest.raises(BadItem, match=says):
        fitted().prepare(item)


@pytest.mark.parametrize("given", ["id", ("id",), ["id", "hint"]])
def test_a_column_may_be_left_out(given: object) -> None:
    rows = [{"id": i, "b": 1.5 * i, "hint": "x", "a": "red"} for i in range(4)]
    processor = TableProcessor.fit({"leave_out": given}, iter(rows))
    assert processor.columns == (["b", "a"] if "hint" in given else ["b", "hint", "a"])
    assert len(processor.prepare(rows[0])) == len(processor.columns)
    with pytest.raises(UnitxError, match="leave_out names idd; the table has id, b, hint, a"):
        TableProcessor.fit({"leave_out": "idd"}, iter(rows))


def test_a_table_needs_columns() -> None:
    with pytest.raises(UnitxError, match="a table needs a column"):
        TableProcessor.fit({}, iter(["text", None]))


def test_a_run_learns_from_rows_and_names_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["x,kind,place,answer"]
    for _ in range(240):
        x, kind, place = rng.normal(5, 3), rng.choice(["a", "b"]), rng.choice(["", "north", "south"])
        answer = "yes" if (x > 5) == (kind == "a") else "no"
        lines.append(f"{x:.3f},{kind},{place},{answer}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    recipe = Recipe(tasks={"answer": TaskRecipe("classify", reads="*:table", label="answer")}, augment="none")
    run = unitx.train(recipe, data=str(table), epochs=20, evaluations=1, out=str(tmp_path / "run"), echo=False)
    assert run.metrics["answer/accuracy"] > 0.85
    model = unitx.Model.from_pretrained(tmp_path / "run")
    found = model.predict([{"x": 12, "kind": "a", "place": "north"}, {"x": 12, "kind": "b"}])
    assert [answers[0].label for answers in found] == ["yes", "no"]
    assert unitx.evaluate(model, str(table)).scores["accuracy"] > 0.85
    assert model.embed([{"x": 1, "kind": "a"}], modality="table").shape == (1, 128)


def test_numbers_with_a_comma_are_told() -> None:
    rows = [{"price": f"1,{100 + i}", "name": "ab"[i % 2]} for i in range(30)]
    processor = TableProcessor.fit({}, iter(rows))
    said, advice = processor.notes(30)
    assert said == "the table has names in price, name"
    assert advice == "price: '1,100' is not read as a number, for its comma: write 1234.5"
    processor = TableProcessor.fit({}, iter([{"price": 3.5}, {"price": 4}]))
    with pytest.raises(BadItem, match=r"holds text '1,125', and held numbers in training; .*write 1234\.5"):
        processor.read({"price": "1,125"})


def test_what_differs_in_most_rows_is_told() -> None:
    rows = [{"id": f"P{i}", "kind": "ab"[i % 2]} for i in range(20)]
    for turns in (1, 2):  # of as many tasks on the same rows
        processor = TableProcessor.fit({}, (row for row in rows for _ in range(turns)))
        _, advice = processor.notes(20)
        assert advice.startswith("id differs in most rows") and "--tokenizers.table.leave_out id" in advice
    assert len(TableProcessor.fit({}, iter(rows[:19])).notes(19)) == 1
    many = TableProcessor.fit({}, iter([{"id": str(i) + "x"} for i in range(3_000)]))
    assert len(many.notes(3_000)) == 2
