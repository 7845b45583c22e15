"""What tasks share that write text behind what they read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from published_models import byte_level, drawn
from small_models import CAPTION, batch_of, picture, small_model, small_processors

import tokenizers as fast
import unitx
from unitx.batches import Feed, Preparer
from unitx.config import BackboneConfig
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.evaluation import task_outputs
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe
from unitx.task import TaskInfo
from unitx.tasks.caption import Caption
from unitx.tasks.translate import Translate
from unitx.writing import Written, exact_match

NAMES = ["cat", "été", "a"]


@torch.no_grad()
def test_the_loss_is_that_of_each_token_of_the_text_from_what_stands_before_it() -> None:
    model = small_model(CAPTION)
    rows = [{"image": picture(i, 4 * (i + 1), 8), "name": name} for i, name in enumerate(NAMES)]
    batch = batch_of(model, [("caption", row) for row in rows])
    head, tokens, targets = model.heads["caption"], model.encode(batch), batch.targets["caption"]
    text, expected = model.processors["text"], []
    for row in rows:
        ids = text.features(row["name"])
        states = model.encode(batch_of(model, [("caption", row)])).vectors
        logits = (states[-len(ids) :] @ head.head.weight.T).log_softmax(-1)
        expected.append(-logits[range(len(ids) - 1), ids[1:]])
    found = head.loss(tokens, targets)
    assert targets.values == NAMES
    assert targets.count == sum(len(name.encode()) + 1 for name in NAMES)
    assert float(found.sum) == pytest.approx(float(torch.cat(expected).sum()), rel=1e-4)
    outputs = head.outputs(tokens, targets.rows)
    torch.testing.assert_close(outputs[:, 0], torch.stack([each.sum() for each in expected]), rtol=1e-4, atol=1e-4)
    assert outputs[:, 1].tolist() == [len(name.encode()) for name in NAMES]
    scores = head.score(Written(outputs, ["Cat ", "ete", "b"]), NAMES)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    bits = float(torch.cat(expected).sum()) / math.log(2) / sum(len(name.encode()) for name in NAMES)
    assert scores["bits_per_byte"] == pytest.approx(bits, rel=1e-4)


@torch.no_grad()
def test_a_picture_sees_itself_freely_and_never_the_text() -> None:
    model = small_model(CAPTION)
    states = []
    for name in ("cat", "dog"):
        tokens = model.encode(batch_of(model, [("caption", {"image": picture(0), "name": name})]))
        states.append(tokens.vectors)
        assert tokens.layout.prefix == [4] and len(tokens.vectors) == 4 + 5
    torch.testing.assert_close(states[0][:5], states[1][:5])
    assert not torch.allclose(states[0][5], states[1][5])


def test_rows_without_a_picture_or_a_text_are_left_out() -> None:
    for row in ({"image": picture(0)}, {"name": "cat"}, {"image": picture(0), "name": "  "}):
        assert Caption.examples(CAPTION, row) == []
    (example,) = Caption.examples(CAPTION, {"image": picture(0), "name": 7})
    assert example.target == "7" and example.parts[-1] == ("text", "7") and example.prefix_parts == 1


def test_several_texts_in_a_cell_are_no_text() -> None:
    row = {"image": picture(0), "name": ["a dog", "a dog runs"]}
    with pytest.raises(BadItem, match="give one text, and of several each a row of its own"):
        Caption.examples(CAPTION, row)
    with pytest.raises(UnitxError, match="and so 2 of 3 cells"):
        Caption.fit(CAPTION, open_source([row, row, {**row, "name": "a dog"}], CAPTION.reads))


def test_exact_matches_do_not_mind_case_and_spaces() -> None:
    assert exact_match(["A  Cat", "dog", "", "cow"], ["a cat", "dogs", "", "cow"]) == 0.75
    assert exact_match([], []) == 0.0


def test_a_text_to_be_written_needs_a_column() -> None:
    table = open_source([{"image": picture(0), "name": "cat"}])
    with pytest.raises(UnitxError, match="name the column that holds it with --label"):
        Caption.fit(TaskInfo("caption", "caption", {"image": "image"}), table)


def test_a_vocabulary_without_an_end_is_refused() -> None:
    bare = fast.Tokenizer(fast.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    for text, why in (
        ({"vocabulary": "huggingface", "json": bare.to_str().encode()}, "marks no end"),
        ({"padding": 0}, "fills texts up"),
    ):
        with pytest.raises(UnitxError, match=why):
            Model(BackboneConfig(dim=32, depth=1, heads=2), small_processors(**text), [CAPTION])


@pytest.mark.parametrize(
    ("begin", "end", "framed"), [("", "", "<e> a b <e>"), ("<s> ", "", "<s> a b <e>"), ("<s> ", " <e>", "<s> a b <e>")]
)
def test_a_text_that_is_written_has_a_begin_and_an_end(begin: str, end: str, framed: str) -> None:
    """Whatever a published vocabulary's template puts around texts."""
    ids = {token: i for i, token in enumerate(("<s>", "<e>", "a", "b"))}
    made = fast.Tokenizer(fast.models.WordLevel(ids, unk_token="a"))
    made.pre_tokenizer = fast.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>", "<e>"])
    made.post_processor = fast.processors.TemplateProcessing(f"{begin}$A{end}", None, [("<s>", 0), ("<e>", 1)])
    text = small_processors(vocabulary="huggingface", json=made.to_str().encode(), end=(1,))["text"]
    expected = [ids[token] for token in framed.split()]
    assert text.framed(text.features("a b")).tolist() == expected
    assert text.framed(np.array(expected)).tolist() == expected  # ready ids that have both
    assert text.prompt("").tolist() == expected[:1]


def test_a_published_language_model_learns_to_caption(tmp_path: Path) -> None:
    """GPT-2 puts nothing around texts; what its head knows of its language is where the new one begins."""
    config = hf.GPT2Config(vocab_size=400, n_positions=60, n_embd=32, n_layer=2, n_head=2, eos_token_id=0)
    drawn(hf.GPT2LMHeadModel, config).save_pretrained(tmp_path / "base")
    byte_level().save_pretrained(tmp_path / "base")
    base = Model.from_pretrained(tmp_path / "base", "cpu")
    base.add_tokenizer("image", small_processors()["image"].with_positions())
    base.add_task(replace(CAPTION, facts={"longest": 20}))
    new, old = base.head("caption").head.weight, base.head("language-model").head.weight
    assert new is not old and torch.equal(new, old)
    rows = [{"image": np.full((16, 16, 3), 60 * i, np.uint8), "name": f"number {i}"} for i in range(4)]
    run = unitx.finetune(
        tmp_path / "base", "caption", data=rows * 10, test=rows, label="name", reads="image", out=str(tmp_path / "run"),
        steps=60, evaluations=1, lr=3e-3, augment="none", workers=0, echo=False, precision="fp32",
        **{"tokenizers.image": {"patch": 8, "max_tokens": 4}},
    )  # fmt: skip
    assert run.metrics["caption/exact_match"] == 1.0
    again = Model.from_pretrained(run.folder, "cpu")
    assert [found[0].label for found in again.predict([row["image"] for row in rows])] == [r["name"] for r in rows]


def test_what_is_read_to_be_answered_is_read_from_its_beginning() -> None:
    info = TaskInfo("say", "translate", {"source": "text"}, "target", facts={"longest": 4})
    preparer = Preparer(small_processors(max_tokens=6))
    row = {"source": "abcdefghij", "target": "x"}
    (example,) = Translate.examples(info, row)
    features = preparer.features(preparer.read([example]))[0]
    for seed in range(20):
        cut = preparer.cut(example, features, np.random.default_rng(seed))
        assert preparer.processors["text"].decode(cut.parts[0][1].values) == "abcde"


def test_evaluation_judges_what_is_written_row_by_row() -> None:
    model = small_model(CAPTION)
    rows = [{"image": picture(i, 4 * (1 + i % 3), 8), "name": NAMES[i % 3]} for i in range(10)]
    outputs, targets, tally = task_outputs(model, Preparer(model.processors), Feed(CAPTION, open_source(rows), 4))
    assert targets == [row["name"] for row in rows] and tally.rows == list(range(10))
    expected = [found[0].label for found in model.predict([row["image"] for row in rows], "caption")]
    alone = [task_outputs(model, Preparer(model.processors), Feed(CAPTION, open_source([row]), 1))[0] for row in rows]
    assert outputs.texts == [one.texts[0] for one in alone]
    assert len(expected) == 10


def test_a_run_learns_to_write_and_its_model_goes_on(tmp_path) -> None:
    rng = np.random.default_rng(0)
    colours = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
    rows = []
    for i in range(120):
        name = list(colours)[i % 3]
        noise = rng.integers(-25, 25, (16, 16, 3))
        photo = np.clip(np.array(colours[name]) + noise, 0, 255).astype(np.uint8)
        rows.append({"photo": photo, "said": f"it is {name}"})
    task = TaskRecipe("caption", reads="photo:image", label="said")
    tokenizers = {"image": {"patch": 8, "max_tokens": 4}, "text": {"max_tokens": 32}}
    recipe = Recipe(tasks={"say": task}, tokenizers=tokenizers, augment="none")
    run = unitx.train(recipe, data=rows, steps=60, evaluations=2, out=str(tmp_path / "run"), echo=False)
    assert run.metrics["say/exact_match"] == 1.0 and run.metrics["say/chrf"] == pytest.approx(100)
    answers = run.model.predict([row["photo"] for row in rows[:3]], top=2)
    assert [found[0].label for found in answers] == ["it is red", "it is green", "it is blue"]
    assert all(0 < found[1].score < found[0].score <= 1 for found in answers)
    again = unitx.Model.from_pretrained(tmp_path / "run")
    assert again.predict([rows[4]["photo"]])[0][0].label == "it is green"
    assert again.generate([rows[4]["photo"]], temperature=0) == ["it is green"]
    report = unitx.evaluate(again, rows[:30], folder=tmp_path / "report")
    assert report.scores["exact_match"] == 1.0 and report.scored == 30
    assert (tmp_path / "report" / "report.png").stat().st_size > 5_000
