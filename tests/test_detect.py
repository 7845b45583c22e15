"""Detection: which patch answers for what, boxes and names against plain loops, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from small_models import batch_of, picture, small_model
from torchvision.ops import sigmoid_focal_loss

import unitx
from unitx.augment import Augment
from unitx.batches import Feed, Preparer, Steps
from unitx.data import open_source
from unitx.errors import BadItem, UnitxError
from unitx.media import picture_size
from unitx.recipe import Recipe, TaskRecipe
from unitx.report import evaluate
from unitx.task import TaskInfo
from unitx.tasks.detect import CORE, Detect, Found, Objects, Patches, assign
from unitx.tokenizers.image import ImageProcessor

INFO = TaskInfo("find", "detect", {"image": "image"}, "objects", ["cat", "dog"])


def grid_patches(grids: list[tuple[int, int]]) -> Patches:
    middles, sides, owners = [], [], []
    for number, (rows, columns) in enumerate(grids):
        for row in range(rows):
            for column in range(columns):
                middles.append(((column + 0.5) / columns, (row + 0.5) / rows))
                sides.append((1 / columns, 1 / rows))
                owners.append(number)
    return Patches(torch.arange(len(owners)), torch.tensor(owners), torch.tensor(middles), torch.tensor(sides))


def random_objects(seed: int, count: int) -> Objects:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 0.7, (count, 2)), rng.uniform(0.05, 0.3, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    return Objects(boxes, rng.integers(0, 2, count), np.zeros(count, dtype=bool))


@pytest.mark.parametrize("seed", range(5))
def test_patches_answer_for_the_smallest_object_around_their_middle(seed: int) -> None:
    grids = [(4, 6), (8, 3), (1, 1)]
    patches, targets = grid_patches(grids), [random_objects(seed, 4), random_objects(seed + 9, 3), random_objects(7, 0)]
    names, boxes, share = assign(patches, targets)
    for m, owner in enumerate(patches.owners.tolist()):
        best, at, side = None, patches.middles[m].numpy(), patches.sides[m].numpy()
        for box, name in zip(targets[owner].boxes, targets[owner].names, strict=True):
            size, middle = box[2:] - box[:2], (box[:2] + box[2:]) / 2
            near = all(abs(at[k] - middle[k]) <= CORE / 2 * size[k] for k in (0, 1))
            holds = all(abs(at[k] - middle[k]) <= side[k] / 2 for k in (0, 1))
            if (near or holds) and (best is None or size.prod() < best[0]):
                best = size.prod(), name, box
        assert names[m] == (-1 if best is None else best[1])
        if best is not None:
            np.testing.assert_allclose(boxes[m], best[2])
            same = [k for k in range(len(names)) if patches.owners[k] == owner and torch.equal(boxes[k], boxes[m])]
            same = [k for k in same if names[k] >= 0]
            assert share[m] == pytest.approx(1 / len(same))
        else:
            assert share[m] == 0


@torch.no_grad()
def test_patches_know_their_places_in_pictures_of_any_shape() -> None:
    model = small_model(INFO)
    shapes = [(8, 8), (12, 4), (4, 24)]  # widths and heights
    rows = [{"image": picture(i, *shape), "objects": []} for i, shape in enumerate(shapes)]
    batch = batch_of(model, [("find", row) for row in rows])
    patches = model.heads["find"]._patches(batch.layout, batch.targets["find"].rows)
    expected = grid_patches([model.processors["image"].prepare(row["image"]).grid for row in rows])
    order = patches.owners.argsort(stable=True)
    torch.testing.assert_close(patches.owners[order], expected.owners)
    torch.testing.assert_close(patches.middles[order], expected.middles)
    torch.testing.assert_close(patches.sides[order], expected.sides)


@torch.no_grad()
def test_of_boxes_that_show_the_same_the_surest_is_kept() -> None:
    model = small_model(INFO)
    head = model.heads["find"]
    batch = batch_of(model, [("find", {"image": picture(i, 8, 12), "objects": []}) for i in range(3)])
    tokens, rows = model.encode(batch), batch.targets["find"].rows
    found = head.outputs(tokens, rows)
    patches = head._patches(tokens.layout, rows)
    logits, boxes = head._heads(tokens, patches)
    for i in range(3):
        mine = (patches.owners == i).nonzero()[:, 0]
        every = [(float(logits[m, k].sigmoid()), k, boxes[m].clamp(0, 1)) for m in mine for k in range(2)]
        kept: list[tuple[float, int, torch.Tensor]] = []
        for score, name, box in sorted(every, key=lambda each: -each[0]):
            if all(k != name or overlap(box, other) <= 0.5 for _, k, other in kept):
                kept.append((score, name, box))
        assert int((found[i, :, 4] > 0).sum()) == len(kept)
        for line, (score, name, box) in zip(found[i], kept, strict=False):
            torch.testing.assert_close(line, torch.tensor([*box.tolist(), score, name]), atol=1e-5, rtol=1e-5)
    assert head.answers(found, 2)[0][0] == Found(INFO.labels[int(found[0, 0, 5])], float(found[0, 0, 4]),
                                                 tuple(found[0, 0, :4].tolist()))  # fmt: skip


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    both = float(sides.prod())
    return both / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both + 1e-12)


def test_answers_that_are_right_have_a_precision_of_one() -> None:
    head = small_model(INFO).heads["find"]
    targets = [random_objects(seed, 3) for seed in range(4)]
    outputs = torch.zeros(4, 100, 6)
    for i, objects in enumerate(targets):
        outputs[i, :3, :4] = torch.from_numpy(objects.boxes)
        outputs[i, :3, 4], outputs[i, :3, 5] = 0.9, torch.from_numpy(objects.names).float()
    assert head.score(outputs, targets) == pytest.approx({"map": 1, "map_50": 1})
    outputs[:, :3, 5] = 1 - outputs[:, :3, 5]
    assert head.score(outputs, targets) == pytest.approx({"map": 0, "map_50": 0}, abs=0.02)


def coco_eval(outputs: torch.Tensor, targets: list[Objects]) -> dict[str, float]:
    """COCO's own way, from its JSON."""
    corners = [boxes * 1000 for boxes in (objects.boxes for objects in targets)]
    annotations = [
        {"image_id": i, "category_id": int(name), "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
         "area": float((box[2:] - box[:2]).prod()), "iscrowd": int(crowd)}
        for i, objects in enumerate(targets)
        for box, name, crowd in zip(corners[i], objects.names, objects.crowds, strict=True)
    ]  # fmt: skip
    truth = COCO({
        "images": [{"id": i} for i in range(len(targets))], "categories": [{"id": i} for i in range(2)],
        "annotations": [{"id": k + 1, **each} for k, each in enumerate(annotations)],
    })  # fmt: skip
    found = [
        {"image_id": i, "category_id": int(line[5]), "score": float(line[4]),
         "bbox": [*(1000 * line[:2]).tolist(), *(1000 * (line[2:4] - line[:2])).tolist()]}
        for i, of_one in enumerate(outputs) for line in of_one if line[4] > 0
    ]  # fmt: skip
    judge = COCOeval_faster(truth, truth.loadRes(found), "bbox")
    judge.run()
    return {"map": float(judge.stats[0]), "map_50": float(judge.stats[1])}


@pytest.mark.parametrize("seed", range(4))
def test_precision_is_cocos_crowds_among_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = [random_objects(10 * seed + i, 5) for i in range(4)]
    targets = [objects._replace(crowds=rng.random(5) < 0.3) for objects in targets]
    outputs = torch.zeros(4, 100, 6)
    for i, objects in enumerate(targets):
        near = objects.boxes.repeat(2, 0) + rng.normal(0, 0.02, (10, 4))
        outputs[i, :10, :4] = torch.from_numpy(near.astype(np.float32))
        outputs[i, :10, 4] = torch.from_numpy(rng.random(10))
        outputs[i, :10, 5] = torch.from_numpy(objects.names.repeat(2)).float()
    assert small_model(INFO).heads["find"].score(outputs, targets) == pytest.approx(coco_eval(outputs, targets), 1e-4)


def test_of_seven_tenths_found_the_precision_is_cocos() -> None:
    """Ten objects of which the first seven are found: a recall of 0.7 counts, as in COCO's tool."""
    targets = [random_objects(seed, 1)._replace(names=np.zeros(1, dtype=np.int64)) for seed in range(10)]
    outputs = torch.zeros(10, 100, 6)
    for i in range(7):
        outputs[i, 0, :4], outputs[i, 0, 4] = torch.from_numpy(targets[i].boxes[0]), 0.9 - 0.01 * i
    assert small_model(INFO).heads["find"].score(outputs, targets) == pytest.approx(coco_eval(outputs, targets), 1e-4)


@torch.no_grad()
def test_of_a_crowd_nothing_is_asked() -> None:
    """Neither what stands in it nor that nothing does, but for an object of its own."""
    model, seen = small_model(INFO), picture(0, 12, 8)
    cat, crowd = {"name": "cat", "box": [0, 0, 4, 4]}, {"name": "dog", "box": [4, 0, 8, 8], "iscrowd": True}
    (example,) = Detect.examples(INFO, {"image": seen, "objects": [cat, crowd]})
    names, _, _ = assign(grid_patches([(2, 3)]), [example.target])
    assert names.tolist() == [0, -2, -2, -1, -2, -2]
    assert Detect.count(INFO, [example]) == 1
    batch = batch_of(model, [("find", {"image": seen, "objects": objects}) for objects in ([cat, crowd], [cat])])
    head, tokens, targets = model.heads["find"], model.encode(batch), batch.targets["find"]
    each = [targets._replace(rows=targets.rows[[i]], values=[targets.values[i]]) for i in range(2)]
    losses = [float(head.loss(tokens, of_one).sum) for of_one in each]
    patches = head._patches(tokens.layout, targets.rows[:1])
    logits, _ = head._heads(tokens, patches)
    free = logits[torch.tensor([1, 2, 4, 5])]
    assert losses[1] - losses[0] == pytest.approx(float(sigmoid_focal_loss(free, free * 0, reduction="sum")), rel=1e-4)


def test_names_that_the_model_does_not_know_are_counted() -> None:
    def row(*names: str) -> dict:
        return {"image": picture(0), "objects": [{"name": name, "box": [0, 0, 4, 4]} for name in names]}

    report = evaluate(small_model(INFO), [row("cat", "cow"), row("cow", "cow"), row(" dog ")])
    assert report.scored == 3 and report.unknown_labels == {"cow": 2}
    assert "labels that the model does not know: 1: cow (2)" in str(report)
    with pytest.raises(UnitxError, match="knows none of the labels in 'objects'"):
        evaluate(small_model(INFO), [row("cow")])


def test_boxes_are_shares_of_the_pictures_sides() -> None:
    objects = [{"name": "dog", "box": [10, 5, 20, 10]}, {"name": "cow", "box": [0] * 4}]
    row = {"image": picture(0, 40, 20), "objects": objects}
    (example,) = Detect.examples(INFO, row)
    np.testing.assert_allclose(example.target.boxes, [[0.25, 0.25, 0.75, 0.75]])  # cows it does not know
    assert example.target.names.tolist() == [1]
    partly = Detect.examples(INFO, {**row, "objects": [{"name": "cat", "box": [30, -5, 20, 10]}]})[0].target
    np.testing.assert_allclose(partly.boxes, [[0.75, 0, 1, 0.25]])
    assert Detect.examples(INFO, {**row, "objects": None}) == []
    assert len(Detect.examples(INFO, {**row, "objects": []})) == 1


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ([{"name": "cat", "box": [50, 5, 10, 10]}], "outside the picture of 40 x 20 pixels"),
        ([{"name": "cat", "box": [5, 5, 0, 10]}], "empty or outside"),
        ([{"name": "cat", "box": [5, 5, float("nan"), 10]}], "empty or outside"),
        ([{"name": "cat"}], "give a list of objects"),
        ([{"name": None, "box": [0, 0, 4, 4]}], "give a list of objects"),
        ([{"name": " ", "box": [0, 0, 4, 4]}], "give a list of objects"),
        ([{"name": "cat", "box": [1, 2, 3]}], "give a list of objects"),
        ("cat", "give a list of objects"),
    ],
)
def test_bad_boxes_are_named(objects: object, says: str) -> None:
    with pytest.raises(BadItem, match=says):
        Detect.examples(INFO, {"image": picture(0, 40, 20), "objects": objects})


def test_boxes_that_reach_out_of_their_pictures_are_told_before_a_run() -> None:
    boxes = [[20, 10, 30, 20], [4, 2, 8, 8], [0, 0, 40.5, 20]]  # the first as corners; the last by rounding
    rows = [{"image": picture(i, 40, 20), "objects": [{"name": "cat", "box": box}]} for i, box in enumerate(boxes)]
    broken = {"image": "missing.png", "objects": [{"name": "cat", "box": [0, 0, 4, 4]}]}
    (said,) = Detect.remarks(INFO, open_source([*rows, broken]))
    assert "1 of the first 3 boxes" in said and "not two corners" in said
    assert Detect.remarks(INFO, open_source([rows[1], rows[2], broken])) == []


def test_only_a_picture_can_be_searched() -> None:
    with pytest.raises(UnitxError, match="finds things in a picture and cannot read sound:audio"):
        small_model(TaskInfo("find", "detect", {"sound": "audio"}, "objects", ["cat"]))
    pair = {"image": [picture(0), picture(1)], "objects": []}
    with pytest.raises(BadItem, match="boxes lie in one picture, and the row has 2"):
        Detect.examples(INFO, pair)
    with pytest.raises(UnitxError, match="names no object"):
        Detect.fit(INFO, open_source([{"image": picture(0), "objects": []}], INFO.reads))


def test_the_size_of_a_picture_is_that_of_what_is_shown(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg") == (20, 30) == model_sees(tmp_path / "a.jpg")
    assert picture_size(np.zeros((20, 30, 3), np.uint8)) == (30, 20)
    assert picture_size(image) == (30, 20)
    image.save(tmp_path / "a.tif", exif=exif)
    assert picture_size(tmp_path / "a.tif") == model_sees(tmp_path / "a.tif")
    for name in ("a.jpg", "a.tif"):
        with Image.open(tmp_path / name) as opened:
            assert picture_size(opened) == (20, 30)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(BadItem, match="is not a picture that Pillow can read"):
        picture_size(tmp_path / "b.jpg")


def model_sees(path: Path) -> tuple[int, int]:
    from unitx.tokenizers.image import ImageProcessor

    return ImageProcessor().read(path).size


def test_a_run_learns_to_find_squares(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        pixels, objects = np.full((32, 32, 3), 255, np.uint8), []
        for half in range(int(rng.integers(1, 3))):
            red, side = bool(rng.integers(2)), int(rng.integers(8, 14))
            left, top = 16 * half + int(rng.integers(0, 17 - side)), int(rng.integers(0, 33 - side))
            pixels[top : top + side, left : left + side] = (220, 30, 30) if red else (30, 30, 220)
            objects.append({"name": "red" if red else "blue", "box": [left, top, side, side]})
        rows.append({"image": pixels, "objects": objects})
    task = TaskRecipe("detect", reads="image", label="objects")
    recipe = Recipe(tasks={"find": task}, tokenizers={"image": {"patch": 8, "max_tokens": 16}}, batch_tokens=768)
    run = unitx.train(recipe, data=rows, steps=120, evaluations=1, out=str(tmp_path / "run"), echo=False)
    assert run.metrics["find/map_50"] > 0.8
    answers = run.model.predict([row["image"] for row in rows])
    named = [sorted(answer.label for answer in found) for found in answers]
    right = [names == sorted(each["name"] for each in row["objects"]) for names, row in zip(named, rows, strict=True)]
    assert np.mean(right) > 0.8
    report = unitx.evaluate(tmp_path / "run", rows[:40])
    assert report.scores["map_50"] > 0.8
    assert (tmp_path / "run" / "evaluation" / "report.png").stat().st_size > 5_000


def test_training_varies_pictures_and_what_is_in_them_alike() -> None:
    """A white block on black: after crop, mirror and colours the bright pixels are still those in its box."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[8:24, 10:40] = 255
    row = {"image": Image.fromarray(pixels), "objects": [{"name": "dog", "box": [10, 8, 30, 16]}]}
    feed = Feed(INFO, open_source([row] * 30, INFO.reads), rows=30)
    preparer = Preparer({"image": ImageProcessor(patch=4)})
    (batch,), tally = Steps(preparer, [feed], progress=torch.ones(()), augment=Augment("light"))[0]
    targets = batch.targets["find"].values
    assert tally.items == 30 and len({objects.boxes.tobytes() for objects in targets}) > 25
    assert all(objects.names.tolist() == [1] for objects in targets if len(objects.boxes))
    (example,) = Detect.examples(INFO, row)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        varied, ((_, picture),) = Detect.vary(example, example.parts, Augment("light"), rng, 1.0)
        bright = np.asarray(picture).mean(2) > 60
        for left, top, right, bottom in varied.target.boxes * [*picture.size, *picture.size]:
            inside = bright[round(top) : round(bottom), round(left) : round(right)]
            assert inside.all() and inside.sum() == bright.sum()
