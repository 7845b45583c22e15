"""Masked modelling: what is hidden never reaches the backbone, and the loss is that of what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import picture, small_model, small_processors, sound

import unitx
from unitx.batches import Drawn, Preparer
from unitx.config import BackboneConfig
from unitx.errors import UnitxError
from unitx.model import Model
from unitx.recipe import Recipe, TaskRecipe
from unitx.task import TaskInfo
from unitx.tasks.masked import EPS, Masked, _choose
from unitx.tokens import Batch, Pieces, Prepared, Tokens, line_positions

INFO = TaskInfo("fill", "masked", {"image": "image", "audio": "audio", "text": "text"})
ROWS = [
    {"image": picture(0, 12, 8)},
    {"text": "some words"},
    {"audio": sound(0, 0.5)},
    {"image": picture(1, 4, 20), "text": "abc"},
    {"image": picture(2, 4, 4)},
]


def hidden_batch(model: Model, rows: list[dict], seed: int = 0) -> tuple[Batch, list[Prepared], list[Prepared]]:
    """The batch of what is left, and each sequence whole and without what is hidden."""
    preparer, info = Preparer(model.processors), model.heads["fill"].info
    whole, left = [], []
    for i, row in enumerate(rows):
        (example,) = Masked.examples(info, row)
        features = preparer.features(preparer.read([example]))[0]
        rng = np.random.default_rng([seed, i])
        whole.append(preparer.cut(example, features, None))
        left.append(preparer.cut_drawn(Drawn(i, rng, info, example, features), None))
    return preparer.batch([(info, prepared) for prepared in left]), whole, left


def test_what_is_hidden_and_what_is_left_are_the_whole() -> None:
    _, whole, left = hidden_batch(small_model(INFO), ROWS)
    for before, after in zip(whole, left, strict=True):
        begin = 0
        for (modality, pieces), (_, seen), hidden in zip(before.parts, after.parts, after.target, strict=True):
            assert hidden.modality == modality and len(seen) >= 1
            values = {tuple(np.ravel(value)): tuple(p) for value, p in zip(seen.values, seen.positions, strict=True)}
            values |= {
                tuple(np.ravel(v)): tuple(p - begin) for v, p in zip(hidden.values, hidden.positions, strict=True)
            }
            expected = {tuple(np.ravel(v)): tuple(p) for v, p in zip(pieces.values, pieces.positions, strict=True)}
            if modality != "text":  # where an id may stand in several places
                assert values == expected
            assert len(seen) + len(hidden.values) == len(pieces)
            begin += int(seen.positions.max()) + 1
    shares = [len(one.target[0].values) / len(two.parts[0][1]) for one, two in zip(left, whole, strict=True)]
    assert shares == pytest.approx([0.75, 0.3, 0.75, 0.75, 0.75], abs=0.1)


@torch.no_grad()
def test_the_loss_is_that_of_each_sequence_by_itself() -> None:
    model = small_model(INFO)
    head = model.heads["fill"]
    batch, _, left = hidden_batch(model, ROWS)
    tokens, targets = model.encode(batch), batch.targets["fill"]
    found, nats, errors, ids, patches = head.loss(tokens, targets), 0.0, 0.0, 0, 0
    judged = head.judged(tokens, targets)
    for i, prepared in enumerate(left):
        alone = Preparer(model.processors).batch([(head.info, prepared)])
        states = model.encode(alone).to_list()[0]
        marks = [head.mask_tokens[part.modality].expand(len(part.values), -1) for part in prepared.target]
        places = np.concatenate([alone.layout.positions.numpy(), *(part.positions for part in prepared.target)])
        sequence = torch.cat([states @ head.decoder_embed.weight.T + head.decoder_embed.bias, *marks])
        out = head.decoder(Tokens.from_list([sequence], positions=[places])).vectors[len(states) :]
        mine = [0.0, 0.0]
        for part, vectors in zip(prepared.target, out.split([len(p.values) for p in prepared.target]), strict=True):
            told, there = head.heads[part.modality](vectors), torch.from_numpy(part.values)
            if part.modality == "text":
                mine[0] += float(F.cross_entropy(told, there, reduction="sum"))
                ids += len(there)
            elif len(there):
                mean, variance = there.mean(1, keepdim=True), there.var(1, correction=0, keepdim=True)
                mine[1] += float((told - (there - mean) / (variance + EPS).sqrt()).square().mean(1).sum())
                patches += len(there)
        assert judged[i, [0, 2]].tolist() == pytest.approx(mine, rel=1e-3, abs=1e-4)
        nats, errors = nats + mine[0], errors + mine[1]
    assert targets.count == ids + patches
    assert float(found.sum) == pytest.approx(nats + errors, rel=1e-3)
    scores = head.score(judged, None)
    assert scores["mse"] == pytest.approx(errors / patches, rel=1e-3)
    assert scores["bits"] == pytest.approx(nats / ids / np.log(2), rel=1e-3)
    assert scores["loss"] == pytest.approx((nats + errors) / (ids + patches), rel=1e-3)


def test_a_new_head_tells_the_mean_of_a_patch() -> None:
    model = Model(BackboneConfig(dim=32, depth=1, heads=2), small_processors(), [INFO])
    batch, *_ = hidden_batch(model, ROWS[:1])
    scores = model.heads["fill"].score(model.heads["fill"].judged(model.encode(batch), batch.targets["fill"]), None)
    assert scores["mse"] == pytest.approx(1, abs=0.01)


def test_texts_lose_runs_and_pictures_single_patches() -> None:
    rng = np.random.default_rng(0)
    runs = []
    for modality in ("text", "image"):
        gone = _choose(modality, 4_000, 0.3, rng)
        assert gone.sum() == 1_200
        runs.append(1_200 / (np.diff(gone.astype(int)) == 1).sum())
    assert runs[0] > 2.5 * runs[1]
    assert not _choose("image", 1, 0.75, rng).any() and _choose("text", 2, 0.1, rng).sum() == 1


def test_a_backbone_of_any_width_has_a_decoder() -> None:
    model = small_model(INFO, shape=BackboneConfig(dim=176, depth=1, heads=4))
    assert model.head(INFO.name).decoder.config.head_dim == 44


def test_options_and_tokenizers_that_cannot_be_used_are_refused() -> None:
    for options in ({"mask_ratio": 1.0}, {"mask_ratio": 0.0}, {"depth": 0}):
        with pytest.raises(UnitxError, match="mask_ratio must lie between 0 and 1"):
            small_model(TaskInfo("fill", "masked", {"text": "text"}, options=options))
    with pytest.raises(UnitxError, match="hides parts of text, and the model's text tokenizer must see all of it"):
        small_model(TaskInfo("fill", "masked", {"text": "text"}), positions=12)


def test_parts_of_pieces_are_what_tokenizers_take() -> None:
    model = small_model(INFO)
    left = Pieces(np.array([5, 9]), line_positions(4)[[1, 3]])
    batch = Preparer(model.processors).batch([(INFO, Prepared([("text", left)], target=[]))])
    assert batch.layout.positions[:, 0].tolist() == [1, 3]


def test_a_run_learns_to_fill_stripes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(160):
        level, across = rng.integers(0, 200, 2), bool(rng.integers(2))
        wave = np.where(np.arange(16) % 4 < 2, *level)[:, None] * np.ones((1, 16))
        pixels = np.repeat((wave.T if across else wave)[..., None], 3, axis=2)
        rows.append({"image": pixels.astype(np.uint8)})
    recipe = Recipe(
        tasks={"fill": TaskRecipe("masked", reads="image")},
        tokenizers={"image": {"patch": 4, "max_tokens": 16}}, augment="none", batch_tokens=256,
    )  # fmt: skip
    run = unitx.train(recipe, data=rows, steps=120, evaluations=1, out=str(tmp_path / "run"), echo=False)
    assert run.metrics["fill/mse"] < 0.2
    report = unitx.evaluate(tmp_path / "run", rows[:20])
    assert report.scores["mse"] < 0.2
    assert (tmp_path / "run" / "evaluation" / "report.png").stat().st_size > 5_000
    with pytest.raises(UnitxError, match="does not predict labels"):
        run.model.predict([rows[0]["image"]])
