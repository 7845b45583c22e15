from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from small_models import CLASSES, PAIRS, SPACE, STORIES, picture, small_model, sound

from unitx import embedding
from unitx.errors import BadItem, UnitxError
from unitx.model import Model
from unitx.task import Answer, TaskInfo
from unitx.tokenizers.image import ImageProcessor

BOTH = TaskInfo("both", "classify", {"title": "text", "photo": "image"}, "kind", ["a", "b", "c"])
ALSO = replace(CLASSES, name="also")
ITEMS = ["a cat", picture(0), sound(0), "a much longer text than fits", picture(1, 20, 6), {"image": picture(2)}]
TASKS = [(CLASSES,), (SPACE,)]


@pytest.fixture(params=TASKS, ids=["mean", "align"])
def model(request: pytest.FixtureRequest) -> Model:
    return small_model(*request.param)


def cut_short(folder: Path) -> Path:
    """A PNG that ends in its middle."""
    path = folder / "broken.png"
    picture(0, 64, 64).save(path)
    path.write_bytes(path.read_bytes()[:500])
    return path


def test_rows_come_in_the_order_given_whatever_stands_beside_them(model: Model) -> None:
    together = model.embed(ITEMS)
    assert together.shape == (6, 32) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    one_by_one = np.concatenate([model.embed([item]) for item in ITEMS])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    np.testing.assert_allclose(model.embed(ITEMS, batch_tokens=5), together, atol=1e-5)
    np.testing.assert_allclose(model.embed(item for item in ITEMS[::-1]), together[::-1], atol=1e-5)
    assert np.abs(together[:, None] - together[None]).max(-1)[np.triu_indices(6, 1)].min() > 1e-3


def test_without_an_align_head_it_is_the_mean_of_the_hidden_states() -> None:
    model = small_model(CLASSES)
    means = torch.stack([states.mean(0) for states in model.hidden_states(ITEMS)])
    np.testing.assert_allclose(model.embed(ITEMS, normalize=False), means, atol=1e-5)
    np.testing.assert_allclose(model.embed(ITEMS), torch.nn.functional.normalize(means, dim=-1), atol=1e-5)


def test_of_several_align_heads_the_last_one_embeds() -> None:
    wide = TaskInfo("wide", "align", {"image": "image", "text": "text"}, options={"dim": 48})
    vectors = small_model(PAIRS, wide, CLASSES).embed(["a"])
    assert vectors.shape == (1, 48) and small_model(wide, PAIRS).embed(["a"]).shape == (1, 32)


def windows_of(model: Model, modality: str, item: Any) -> list[Any]:
    processor = model.processors[modality]
    return processor.windows(processor.features(processor.read(item)))


@pytest.mark.parametrize("modality, item", [("text", "a text of more than twelve bytes"), ("audio", sound(3, 2.2))])
def test_windows_of_long_items_are_averaged_by_their_lengths(model: Model, modality: str, item: Any) -> None:
    windows = windows_of(model, modality, item)
    assert len(windows) >= 3 and len(windows[-1]) < len(windows[0])
    total = np.zeros(32)
    for window in windows:
        tokens = model.encode(embedding.collate([embedding.Prepared([(modality, window)])], model.modalities))
        head = model.heads["space"] if "space" in model.tasks else None
        vector = (head.outputs(tokens, torch.tensor([0])) if head else tokens.mean()).detach().numpy()[0]
        total += len(window) * vector
    for batch_tokens in (4, 10_000):
        found = model.embed([picture(0), item, "x"], batch_tokens=batch_tokens, normalize=False)[1]
        np.testing.assert_allclose(found, total / sum(len(w) for w in windows), atol=1e-5)


def test_hidden_states_of_windows_stand_in_the_order_of_the_item(model: Model) -> None:
    text = "a text of more than twelve bytes"
    parts = [torch.from_numpy(window.values) for window in windows_of(model, "text", text)]
    expected = torch.cat(model.hidden_states(parts))
    for batch_tokens in (4, 10_000):
        (states,) = model.hidden_states([text], batch_tokens=batch_tokens)
        assert states.shape == (len(text) + 2, 32)
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_a_language_model_reads_as_it_was_trained() -> None:
    ids = torch.tensor(list(b"a cat sat"))
    for tasks, looks_ahead in (([STORIES], False), ([STORIES, CLASSES], True)):
        whole, part = small_model(*tasks).hidden_states([ids, ids[:5]])
        assert torch.allclose(whole[:5], part, atol=1e-5) != looks_ahead


def test_hidden_states_can_be_trained_on(model: Model) -> None:
    probe = torch.nn.Linear(32, 2)
    probe(model.hidden_states(["a", "bc"])[1]).sum().backward()
    assert probe.weight.grad is not None and probe.weight.grad.any()


def test_hidden_states_take_ids_and_pixel_values(model: Model) -> None:
    ids = torch.tensor([256, 97, 98, 257])
    pixels = model.processors["image"].features(picture(0))
    values = [ids, torch.from_numpy(pixels)]
    for found, expected in zip(model.hidden_states(values), model.hidden_states(["ab", picture(0)]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert model.embed(values).shape == (2, 32)


def test_a_dictionary_is_one_sequence(model: Model) -> None:
    item = {"image": picture(0), "text": "a cat", "audio": None}
    (states,) = model.hidden_states([item])
    assert len(states) == 4 + 7
    apart = torch.cat(model.hidden_states([picture(0), "a cat"]))
    assert not torch.allclose(states, apart, atol=1e-3)  # they see each other
    reversed_order = model.hidden_states([{"text": "a cat", "image": picture(0)}])[0]
    assert not torch.allclose(states[4:], reversed_order[:7], atol=1e-3)


def test_the_modality_settles_what_a_string_is(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(0).save("cat.png")
    as_image, as_text = model.embed(["cat.png"]), model.embed(["cat.png"], "text")
    np.testing.assert_allclose(as_image, model.embed([picture(0)]), atol=1e-6)
    np.testing.assert_allclose(as_text, model.embed([b"cat.png"], modality="text"), atol=1e-6)
    soundfile.write("meow.wav", *sound(0), subtype="FLOAT")
    np.testing.assert_allclose(model.embed(["meow.wav"]), model.embed([sound(0)]), atol=1e-5)
    assert np.abs(as_image - as_text).max() > 1e-2


def test_unreadable_items_are_skipped_with_one_warning(model: Model, tmp_path: Path) -> None:
    items = ["a", cut_short(tmp_path), picture(0), tmp_path / "none.png", "b"]
    with pytest.warns(UserWarning, match=r"2 of 5 items could not be read; the first: .*broken\.png") as caught:
        vectors = model.embed(items, on_error="skip")
    assert len(caught) == 1 and np.isnan(vectors).all(1).tolist() == [False, True, False, True, False]
    np.testing.assert_allclose(vectors[[0, 2, 4]], model.embed(["a", picture(0), "b"]), atol=1e-5)
    with pytest.warns(UserWarning, match="2 of 5"):
        assert [len(states) for states in model.hidden_states(items, on_error="skip")] == [3, 0, 4, 0, 3]
    with pytest.raises(BadItem, match=r"broken\.png"):
        model.embed(items)
    with pytest.raises(UnitxError, match="on_error is 'ignore'"):
        model.embed(items, on_error="ignore")


def test_a_list_without_any_readable_item_keeps_its_rows(tmp_path: Path) -> None:
    narrow = TaskInfo("space", "align", {"image": "image", "text": "text"}, "concept", ["a"], options={"dim": 5})
    model, items = small_model(narrow, CLASSES), [tmp_path / "a.png", tmp_path / "b.png"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = model.embed(items, on_error="skip")
        assert vectors.shape == (2, 5) and np.isnan(vectors).all()
        assert model.predict(items, "kind", on_error="skip") == [[], []]
        shares = model.predict_proba(items, "kind", on_error="skip")
        assert shares.shape == (2, 3) and np.isnan(shares).all()


def test_one_picture_is_no_list_of_pictures(model: Model) -> None:
    with pytest.raises(UnitxError, match="give a list of items, not one"):
        model.embed(np.asarray(picture(0)))
    assert len(model.embed(np.stack([np.asarray(picture(0))] * 2))) == 2


def test_an_empty_list_gives_no_rows(model: Model) -> None:
    task = model.tasks[0]
    assert model.embed([]).shape == (0, 32) and model.hidden_states([]) == [] and model.predict([], task) == []
    assert model.predict_proba([], task).shape == (0, len(model.labels(task)))


BAD: list[tuple[Callable[[Model], Any], str]] = [
    (lambda m: m.embed("cat.png"), r"give a list of items, not one: \[cat.png\]"),
    (lambda m: m.embed({"text": "a"}), "give a list"),
    (lambda m: m.embed(b"cat"), "give a list"),
    (lambda m: m.embed(picture(0)), "give a list"),
    (lambda m: m.embed(["a"], "video"), "does not read 'video'; it reads: audio, image, text"),
    (lambda m: m.embed([{"video": "a.mp4"}]), "does not read 'video'"),
    (lambda m: m.embed([{"text": None}]), "without any part"),
    (lambda m: m.embed([b"bytes"]), "cannot tell what bytes of length 5 is: pass modality="),
    (lambda m: m.embed([3.5]), "cannot tell what"),
    (lambda m: m.embed([Path("clip.mp4")]), "does not read 'video'"),
    (lambda m: m.embed([{"text": "a"}], "image"), "dict"),
]


@pytest.mark.parametrize("call, says", BAD)
def test_what_cannot_be_embedded_is_named(call: Callable[[Model], Any], says: str, model: Model) -> None:
    with pytest.raises(UnitxError, match=says) as error:
        call(model)
    assert "\n" not in str(error.value)


def test_many_items_go_through_in_chunks() -> None:
    model = small_model(CLASSES)
    items = [f"{i}" for i in range(2 * embedding.CHUNK + 5)]
    vectors = model.embed(items)
    assert vectors.shape == (len(items), 32) and len(np.unique(vectors.round(5), axis=0)) == len(items)
    for i in (0, embedding.CHUNK - 1, embedding.CHUNK, len(items) - 1):
        np.testing.assert_allclose(vectors[i], model.embed([items[i]])[0], atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(training: bool, model: Model, tmp_path: Path) -> None:
    expected = model.embed(ITEMS)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    model.train(training)
    np.testing.assert_array_equal(model.embed(ITEMS), expected)
    assert model.training == training and model.backbone.training == training
    with pytest.raises(BadItem):
        model.embed(["a", cut_short(tmp_path)])
    assert model.training == training
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


def test_predictions_are_the_heads_best_answers() -> None:
    model = small_model(CLASSES)
    pictures = [picture(i) for i in range(4)]
    shares = model.predict_proba(pictures)
    head = model.heads["kind"].head
    means = torch.stack([states.mean(0) for states in model.hidden_states(pictures)])
    expected = (means @ head.weight.T + head.bias).softmax(-1).detach()
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    assert shares.dtype == np.float32 and shares.shape == (4, len(model.labels()))
    for row, answers in zip(shares, model.predict(pictures, top=2), strict=True):
        best = np.argsort(-row)[:2]
        assert [answer.label for answer in answers] == [model.labels()[i] for i in best]
        np.testing.assert_allclose([answer.score for answer in answers], row[best], rtol=1e-6)
    assert [len(answers) for answers in model.predict(pictures, top=9)] == [3] * 4


def test_logits_of_windows_are_averaged() -> None:
    texts = TaskInfo("texts", "classify", {"text": "text"}, "kind", ["a", "b"])
    model, long = small_model(texts), "a text of more than twelve bytes"
    parts = [torch.from_numpy(window.values) for window in windows_of(model, "text", long)]
    logits = np.log(model.predict_proba(parts))
    logits -= logits.mean(1, keepdims=True)
    mean = np.average(logits, axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(model.predict_proba([long])[0], np.exp(mean) / np.exp(mean).sum(), atol=1e-5)


def test_several_columns_are_given_by_their_names_or_modalities() -> None:
    model = small_model(BOTH)
    items = [{"title": "a", "photo": picture(0)}, {"photo": picture(0), "title": "a", "more": 3}]
    items += [{"text": "a", "image": picture(0)}, {"title": "a"}]
    shares = model.predict_proba(items)
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-6)
    np.testing.assert_allclose(shares[0], shares[2], atol=1e-6)
    assert np.abs(shares[0] - shares[3]).max() > 1e-3
    two = small_model(replace(BOTH, reads={"text": "text", "title": "text", "photo": "image"}))
    alone = two.predict_proba([{"text": "a"}, {"text": "a", "title": None}, {"text": "a", "title": "a"}])
    np.testing.assert_allclose(alone[0], alone[1], atol=1e-6)  # what is called text is no title
    assert np.abs(alone[0] - alone[2]).max() > 1e-3
    for item, says in [("a", r"give each item as \{'title': …, 'photo': …\}"), ({"name": "a"}, "the item has name")]:
        with pytest.raises(UnitxError, match=says):
            model.predict([item])


def test_an_align_task_answers_with_its_concepts() -> None:
    model = small_model(SPACE, CLASSES)
    items = [picture(0), "a cat", sound(0)]
    vectors = model.embed(items)
    proxies = torch.nn.functional.normalize(model.heads["space"].proxies.detach(), dim=-1).numpy()
    scores = np.exp(vectors @ proxies.T / 0.15)
    np.testing.assert_allclose(model.predict_proba(items, "space"), scores / scores.sum(1, keepdims=True), atol=1e-5)
    for answers, row in zip(model.predict(items, "space"), scores, strict=True):
        assert [answer.label for answer in answers] == [["cat", "dog"][row.argmax()]]


def test_an_align_task_takes_its_columns_as_one_sequence_too() -> None:
    model = small_model(TaskInfo("space", "align", {"photo": "image", "title": "text"}, "concept", ["cat", "dog"]))
    by_column, by_modality = {"photo": picture(0), "title": "a", "id": 7}, {"image": picture(0), "text": "a"}
    np.testing.assert_array_equal(model.predict_proba([by_column]), model.predict_proba([by_modality]))


def test_a_row_of_empty_cells_is_an_item_that_cannot_be_read() -> None:
    with pytest.raises(BadItem, match="nothing in title, photo: fill one of them"):
        small_model(BOTH).predict([{"title": None, "photo": []}])
    with pytest.warns(UserWarning, match="1 of 2"):
        answers = small_model(BOTH).predict([{"title": None, "photo": None}, {"title": "a"}], on_error="skip")
    assert [len(found) for found in answers] == [0, 1]


def test_predictions_skip_what_cannot_be_read(tmp_path: Path) -> None:
    model = small_model(CLASSES)
    with pytest.warns(UserWarning, match="1 of 3"):
        answers = model.predict([picture(0), cut_short(tmp_path), picture(1)], on_error="skip")
    assert [len(found) for found in answers] == [1, 0, 1] and isinstance(answers[0][0], Answer)
    with pytest.warns(UserWarning, match="1 of 2"):
        assert np.isnan(model.predict_proba([cut_short(tmp_path), picture(1)], on_error="skip")[0]).all()


@pytest.mark.parametrize(
    "tasks, arguments, says",
    [
        ((CLASSES,), {"task": "kinds"}, "has no task 'kinds'"),
        ((CLASSES,), {"top": 0}, "top is 0"),
        ((CLASSES, ALSO), {}, r"2 tasks of the model could be meant; say which, task= \(kind, also\)"),
        ((SPACE, STORIES), {}, "has no task that classifies; its tasks are: space, stories"),
        ((PAIRS,), {}, r"'pairs' \(align\) does not predict labels"),
        ((), {}, "has no"),
    ],
)
def test_what_cannot_be_predicted_is_named(tasks: tuple, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UnitxError, match=says):
        small_model(*tasks).predict([picture(0)], **arguments)


def test_of_several_tasks_the_one_that_reads_the_item_is_meant() -> None:
    model = small_model(CLASSES, BOTH)
    assert model.predict([picture(0)]) == model.predict([picture(0)], "kind")
    row = {"title": "a", "photo": picture(0)}
    assert model.predict([row]) == model.predict([row], "both")


def test_a_language_model_does_not_predict_labels() -> None:
    with pytest.raises(UnitxError, match=r"'stories' \(next_token\) does not predict labels"):
        small_model(STORIES).predict(["a"])


def test_what_a_reader_did_not_think_of_is_one_bad_item(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: ImageProcessor, item: Any) -> Any:
        return float("three") if item.size == (5, 5) else plain(self, item)

    plain = ImageProcessor.read
    monkeypatch.setattr(ImageProcessor, "read", read)
    items = [picture(0), picture(1, 5, 5)]
    with pytest.raises(BadItem, match=r"PIL image 5x5 RGB cannot be read: could not convert string to float: 'three'"):
        small_model().embed(items)
    with pytest.warns(UserWarning, match="1 of 2 items"):
        assert np.isnan(small_model().embed(items, on_error="skip")[1]).all()


def test_a_mistyped_path_is_no_text(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(BadItem, match=r"there is no file no/such\.png"):
        model.embed(["a cat", "no/such.png"])
    with pytest.warns(UserWarning, match="1 of 2 items"):
        z = model.embed(["a cat", "no/such.png"], on_error="skip")
    assert np.isfinite(z[0]).all() and np.isnan(z[1]).all()
    assert np.isfinite(model.embed(["no/such.png"], modality="text")).all()


def test_a_part_that_is_cut_is_counted() -> None:
    model = small_model(max_tokens=8)
    with pytest.warns(UserWarning, match="1 of 2 items had a part longer than max_tokens"):
        model.embed([{"image": picture(0), "text": "far too long for eight"}, {"image": picture(1), "text": "cat"}])


def test_a_text_file_is_read_as_other_files_are(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("a cat")
    of_text = model.embed(["a cat"])
    np.testing.assert_allclose(model.embed([str(file)]), of_text, atol=1e-6)
    np.testing.assert_allclose(model.embed([file]), of_text, atol=1e-6)
    assert not np.allclose(model.embed([str(file)], modality="text"), of_text, atol=1e-3)  # the string itself
    reader = small_model(TaskInfo("tone", "classify", {"letter": "text"}, "tone", ["kind", "stern"]))
    np.testing.assert_allclose(reader.predict_proba([str(file)]), reader.predict_proba(["a cat"]), atol=1e-6)
    picture(0).save(tmp_path / "cat.png")
    with pytest.raises(BadItem, match=r"cat\.png is no text, which task 'tone' reads"):
        reader.predict([str(tmp_path / "cat.png")])


def test_an_empty_item_among_others_is_skipped(model: Model) -> None:
    with pytest.warns(UserWarning, match="1 of 2 items could not be read"):
        found = model.embed([{"image": None}, "a cat"], on_error="skip")
    assert np.isnan(found[0]).all() and not np.isnan(found[1]).any()


def test_a_task_without_labels_says_so_before_any_item_is_read() -> None:
    for call in (Model.predict, Model.predict_proba):
        with pytest.raises(UnitxError, match=r"'pairs' .* does not predict labels"):
            call(small_model(PAIRS), [Path("nowhere.png")])


def test_an_item_may_stand_in_a_list_several_times(model: Model, tmp_path: Path) -> None:
    picture(0, 900, 900).save(tmp_path / "large.png")
    with Image.open(tmp_path / "large.png") as lazy:  # not decoded yet
        found = model.embed([lazy] * 12)
    np.testing.assert_allclose(found, model.embed([tmp_path / "large.png"]).repeat(12, 0), atol=1e-6)
