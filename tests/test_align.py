from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_models import PAIRS, SPACE, batch_of, picture, small_model, sound
from torch import Tensor

from unitx import contrast as of_columns
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tasks.align import Align
from unitx.tokens import Targets

THREE = replace(SPACE, label=None, labels=[])
ROWS: list[dict[str, Any]] = [
    {"image": picture(0), "text": "a cat", "audio": sound(0)},
    {"image": picture(1), "text": "a dog", "audio": None},
    {"image": picture(2), "text": "a cat", "audio": sound(2)},
    {"image": None, "text": "an owl", "audio": sound(0)},
    {"image": picture(4), "text": None, "audio": None},
    {"image": [picture(5), picture(6)], "text": [], "audio": sound(5)},
]


def embedded(model: Model, task: str, rows: list[dict[str, Any]]) -> tuple[Tensor, Targets, Any]:
    batch = batch_of(model, [(task, row) for row in rows])
    return model.heads[task].outputs(model.encode(batch), batch.targets[task].rows), batch.targets[task], batch


def meaning(cell: Any) -> Any:
    """What two cells must share to be positives; None for an empty one."""
    if isinstance(cell, list):
        return tuple(meaning(part) for part in cell) or None
    if isinstance(cell, Image.Image):
        return cell.tobytes()
    return cell[0].tobytes() if isinstance(cell, tuple) else cell


def contrast(z: Tensor, rows: list[dict[str, Any]], info: TaskInfo, temperature: float) -> float:
    """By the definition, one item and one column at a time."""
    items = [(r, c) for r, row in enumerate(rows) for c in info.reads if row[c] not in (None, [])]
    assert len(items) == len(z)
    total = 0.0
    for i, (row, own) in enumerate(items):
        for column in info.reads:
            gallery = [j for j, (_, c) in enumerate(items) if c == column]
            if column == own or not gallery:
                continue
            cosines = {j: float(z[i] @ z[j]) / temperature for j in gallery}
            whole = math.log(sum(math.exp(s) for s in cosines.values()))
            same = [
                j
                for j in gallery
                if any(meaning(rows[row][c]) == meaning(rows[items[j][0]][c]) is not None for c in info.reads)
            ]
            total -= sum(cosines[j] - whole for j in same) / max(len(same), 1)
    return total


@pytest.mark.parametrize("info, rows", [(THREE, ROWS), (PAIRS, ROWS), (THREE, ROWS[1:2]), (THREE, ROWS[4:5])])
def test_contrast_equals_a_loop_over_items_and_columns(info: TaskInfo, rows: list[dict[str, Any]]) -> None:
    model = small_model(info)
    z, targets, batch = embedded(model, info.name, rows)
    found = model.heads[info.name].loss(model.encode(batch), targets)
    assert targets.count == len(z) == len(targets.rows)
    assert found.sum.item() == pytest.approx(contrast(z.detach(), rows, info, 0.15), rel=1e-4, abs=1e-5)
    found.sum.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_rows_share_what_they_show_and_empty_cells_share_nothing() -> None:
    wave, _ = sound(0)
    rows = [
        {"image": picture(0), "text": None, "audio": []},
        {"image": picture(0), "text": None, "audio": [None]},
        {"image": np.asarray(picture(0)), "text": "a", "audio": (wave, 16_000)},
        {"image": torch.from_numpy(np.array(picture(1))), "text": "b", "audio": (wave.copy(), 16_000)},
        {"image": b"bytes", "text": "b", "audio": Path("a.wav")},
        {"image": None, "text": "c", "audio": "a.wav"},
    ]
    keys = torch.tensor([Align.examples(THREE, row)[0].target[2] for row in rows])
    shared = {(i, j) for i in range(6) for j in range(i) if ((keys[i] == keys[j]) & (keys[i] != -1)).any()}
    assert shared == {(1, 0), (2, 0), (2, 1), (3, 2), (4, 3), (5, 4)}


def test_a_picture_that_cannot_be_decoded_is_a_bad_item(tmp_path: Path) -> None:
    picture(0, 64, 64).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    with pytest.raises(BadItem, match=r"PIL image 64x64.*cannot be read"):
        Align.examples(THREE, {"image": Image.open(tmp_path / "cut.png"), "text": "a", "audio": None})


def test_proxies_equal_cross_entropy_over_cosines() -> None:
    model = small_model(SPACE)
    rows = [row | {"concept": name} for row, name in zip(ROWS[:4], ["cat", " dog", "dog", "wolf"], strict=True)]
    head = model.requires_grad_(False).heads["space"]
    z, targets, batch = embedded(model, "space", rows)
    found = head.loss(model.encode(batch), targets)
    concepts = [0, 0, 0, 1, 1, 1, 1, 1]  # the dog of the second row makes no sound, and the wolf is none of them
    total, correct = 0.0, 0
    for vector, concept in zip(z, concepts, strict=True):
        scores = [float(F.cosine_similarity(vector, proxy, dim=0)) / 0.15 for proxy in head.proxies]
        total += math.log(sum(math.exp(s) for s in scores)) - scores[concept]
        correct += int(np.argmax(scores)) == concept
    assert targets.count == 8 and found.sum.item() == pytest.approx(total, rel=1e-5)
    assert found.metrics["accuracy"].item() == correct
    shares = head.probabilities(z)
    for vector, row in zip(z, shares, strict=True):
        scores = torch.stack([F.cosine_similarity(vector, proxy, dim=0) / 0.15 for proxy in head.proxies])
        torch.testing.assert_close(row, scores.softmax(0), rtol=1e-4, atol=1e-5)


def test_each_modality_is_normed_by_its_own_statistics_while_training() -> None:
    model = small_model(PAIRS)
    head = model.heads["pairs"].train()
    rows = [{"image": picture(i), "text": f"text {i}"} for i in range(5)]
    batch = batch_of(model, [("pairs", row) for row in rows])
    tokens = model.encode(batch)
    before = {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in head.norms.items()}
    z = head.outputs(tokens, batch.targets["pairs"].rows)
    means = torch.stack([sequence.mean(0) for sequence in tokens.to_list()])
    for view, name in enumerate(["image", "text"]):
        mean, variance = (x.clone() for x in before[name])
        norm = head.norms[name]
        y = F.batch_norm(means[view::2], mean, variance, norm.weight, norm.bias, training=True)
        torch.testing.assert_close(z[view::2], F.normalize(head.project(y), dim=-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
    assert torch.equal(head.norms["audio"].running_mean, before["audio"][0])


def test_a_frozen_norm_keeps_what_it_has_seen_while_others_learn() -> None:
    model = small_model(PAIRS)
    head = model.heads["pairs"]
    rows = [{"image": picture(i), "text": f"text {i}"} for i in range(5)]
    calm, _, _ = embedded(model, "pairs", rows)
    head.norms["text"].requires_grad_(False)
    head.train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    z, _, _ = embedded(model, "pairs", rows)
    torch.testing.assert_close(z[1::2], calm[1::2])
    moved = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"norms.image.running_mean", "norms.image.running_var"} and not torch.allclose(z[::2], calm[::2])


def test_concepts_that_no_column_names_are_not_what_is_learned_from() -> None:
    info = replace(SPACE, label=None)
    model = small_model(info)
    z, targets, batch = embedded(model, "space", ROWS)
    found = model.heads["space"].loss(model.encode(batch), targets)
    assert found.sum.item() == pytest.approx(contrast(z.detach(), ROWS, info, 0.15), rel=1e-4, abs=1e-5)
    found.sum.backward()
    assert model.heads["space"].proxies.grad is None
    assert model.predict(["a cat"], "space")[0][0].label in info.labels


def test_other_tasks_in_the_batch_do_not_change_the_statistics() -> None:
    texts = TaskInfo("texts", "classify", {"text": "text"}, "kind", ["a", "b"])
    model = small_model(PAIRS, texts)
    head, pairs = model.heads["pairs"].train(), [("pairs", {"image": picture(i), "text": f"t{i}"}) for i in range(4)]
    others = [("texts", {"text": "something else", "kind": "a"})] * 3
    found = []
    for rows in (pairs, others + pairs):
        batch = batch_of(model, rows)
        found.append(head.loss(model.encode(batch), batch.targets["pairs"]).sum)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_a_single_row_takes_the_running_statistics_while_training() -> None:
    model = small_model(PAIRS)
    row = {"image": picture(0), "text": "a"}
    calm, _, _ = embedded(model, "pairs", [row])
    model.heads["pairs"].train()
    torch.testing.assert_close(embedded(model, "pairs", [row])[0], calm)


def test_in_a_mixed_sequence_each_modality_counts_once() -> None:
    model = small_model(PAIRS)
    head, item = model.heads["pairs"], {"image": picture(0), "text": "a cat"}
    (states,) = model.hidden_states([item])
    parts = {"image": states[:4].mean(0), "text": states[4:].mean(0)}
    total = torch.zeros(32)
    for name, mean in parts.items():
        norm = head.norms[name]
        centred = (mean - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        total = total + centred * norm.weight + norm.bias
    expected = F.normalize(head.project(total), dim=-1).detach()
    np.testing.assert_allclose(model.embed([item])[0], expected, rtol=1e-4, atol=1e-5)


def test_zero_rows_give_zero_loss_and_zero_gradients() -> None:
    for info in (SPACE, PAIRS):
        model = small_model(info).train()
        head = model.heads[info.name]
        batch = batch_of(model, [(info.name, ROWS[0] | {"concept": "cat"})])
        none = Targets(torch.zeros(0, dtype=torch.long), head.collate(info, []), 0)
        loss = head.loss(model.encode(batch), none).sum
        loss.backward()
        assert loss.item() == 0 and all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_recall_without_labels_is_by_what_rows_share() -> None:
    head = small_model(THREE).heads["space"]
    targets = Align.collate(THREE, [e.target for row in ROWS for e in Align.examples(THREE, row)])
    z = F.normalize(torch.randn(len(targets["view"]), 32), dim=-1)
    items = [(r, c) for r, row in enumerate(ROWS) for c in THREE.reads if row[c] not in (None, [])]
    scores = head.score(z, targets)
    for asking in THREE.reads:
        for wanted in THREE.reads:
            if asking == wanted:
                continue
            hits = []
            for i, (r, _) in [(i, item) for i, item in enumerate(items) if item[1] == asking]:
                gallery = [j for j, (_, c) in enumerate(items) if c == wanted]
                best = items[max(gallery, key=lambda j: float(z[i] @ z[j]))][0]
                hits.append(any(meaning(ROWS[r][c]) == meaning(ROWS[best][c]) is not None for c in THREE.reads))
            assert scores[f"{asking}→{wanted}"] == pytest.approx(np.mean(hits))
    each = [value for name, value in scores.items() if "→" in name]
    assert len(each) == 6 and 0 < scores["recall@1"] < 1 and scores["recall@1"] == pytest.approx(np.mean(each))


def test_recall_with_labels_is_among_one_item_a_concept() -> None:
    info = replace(SPACE, reads={"image": "image", "text": "text"}, labels=["a", "b", "c"])
    head = small_model(info).heads["space"]
    concepts = [0, 1, 2, 0, 1, 2, 2]
    targets = {"view": torch.tensor([0, 1] * 7), "concept": torch.tensor(concepts).repeat_interleave(2)}
    z = F.normalize(torch.randn(14, 32), dim=-1)
    scores = head.score(z, targets)
    for name, ask, answer in (("image→text", 0, 1), ("text→image", 1, 0)):
        gallery = {c: z[2 * concepts.index(c) + answer] for c in (0, 1, 2)}
        nearest = [max(gallery, key=lambda c: float(z[2 * r + ask] @ gallery[c])) for r in range(7)]
        assert scores[name] == pytest.approx(np.mean([n == c for n, c in zip(nearest, concepts, strict=True)]))


def test_another_modality_joins_without_changing_the_old_embeddings() -> None:
    processors = small_model().processors
    sound_processor = processors.pop("audio")
    model = Model(small_model().backbone.config, processors, [PAIRS]).eval()
    items = ["a cat", picture(0), {"image": picture(1), "text": "a dog"}]
    before = model.embed(items)
    model.add_tokenizer("audio", sound_processor)
    assert list(model.heads["pairs"].norms) == model.modalities == ["audio", "image", "text"]
    np.testing.assert_array_equal(model.embed(items), before)
    assert np.linalg.norm(model.embed([sound(0)])) == pytest.approx(1)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"options": {"temperature": 0}}, "temperature is 0"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"options": {"dim": 0.5}}, "dim"),
        ({"reads": {"image": "image"}, "label": None}, "reads one column"),
    ],
)
def test_bad_options_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnitxError, match=says):
        Align.fit(replace(SPACE, **change), open_source([{"image": "x.png", "concept": "a"}], {"image": "image"}))


def test_the_concepts_are_learned_from_the_label_column() -> None:
    rows = [{"text": "x", "image": "a.png", "concept": name} for name in ("dog", "cat", "dog")]
    source = open_source(rows, {"text": "text"})
    assert Align.fit(replace(SPACE, labels=[]), source).labels == ["cat", "dog"]
    known = ["owl", "dog", "cat"]  # of a head that goes on
    assert Align.fit(replace(SPACE, labels=known), source).labels == known
    with pytest.raises(UnitxError, match=r"'concept' names others \(cat\)"):
        Align.fit(replace(SPACE, labels=["dog"]), source)


def test_a_picture_that_breaks_while_it_is_decoded_is_a_bad_item() -> None:
    file = BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "png")
    data = file.getvalue()
    pixels = data.index(b"IDAT")
    broken = data[: pixels - 4] + (500).to_bytes(4, "big") + data[pixels:]  # a chunk said to be shorter than it is
    row = {"image": Image.open(BytesIO(broken)), "text": "x"}
    with pytest.raises(BadItem, match="cannot be read"):
        Align.examples(PAIRS, row)


def test_a_large_gallery_is_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    head = small_model(PAIRS).head("pairs")
    z = F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    keys = torch.arange(60) // 2
    targets = {
        "view": torch.arange(60) % 2,
        "concept": torch.full((60,), -1),
        "keys": torch.stack([keys, keys], dim=1),
    }
    whole = head.score(z, targets)
    monkeypatch.setattr(of_columns, "QUERIES", 7)
    assert head.score(z, targets) == whole
    images, texts = z[::2], z[1::2]
    right = (images @ texts.T).argmax(1) == torch.arange(30)
    assert whole["image→text"] == pytest.approx(float(right.float().mean()))
    order = [x.argsort(1, descending=True)[:, :10].tolist() for x in (images @ texts.T, texts @ images.T)]
    assert whole["recall@10"] == pytest.approx(np.mean([i in ten[i] for ten in order for i in range(30)]))
