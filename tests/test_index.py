"""The index: against a brute-force search, and through all that can happen to the files that it was made from."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import unitx.index
from unitx.config import BackboneConfig
from unitx.errors import BadItem, UnitxError
from unitx.identity import model_identity
from unitx.index import Index
from unitx.model import Model
from unitx.task import TaskInfo
from unitx.tokenizers.audio import AudioProcessor
from unitx.tokenizers.image import ImageProcessor
from unitx.tokenizers.text import TextProcessor

WORDS = [f"word {i}" for i in range(30)]


def make_model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    processors = {
        "image": ImageProcessor(max_tokens=4, patch=4),
        "text": TextProcessor(max_tokens=16),
        "audio": AudioProcessor(max_tokens=8),
    }
    align = TaskInfo("same", "align", {"image": "image", "text": "text"})
    return Model(BackboneConfig(dim=16, depth=1, heads=2), processors, [align]).eval()


@pytest.fixture
def model() -> Model:
    return make_model()


def write_picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(6):
        write_picture(tmp_path / "photos" / f"kind{i % 2}" / f"{i}.png", i)
    (tmp_path / "photos" / "notes.txt").write_text("about the photos")
    (tmp_path / "photos" / "clip.mp4").write_bytes(b"this model reads no video")
    return tmp_path / "photos"


def counts(added: unitx.index.Added) -> tuple[int, int, int, int, int]:
    return added.new, added.changed, added.unchanged, added.skipped, added.dropped


def test_file_holds_what_the_model_says(model: Model, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    assert counts(Index(path).add(model, photos)) == (7, 0, 0, 0, 0)
    table = pq.read_table(path)
    assert table.column_names == ["item", "modality", "embedding", "fingerprint"]
    assert table.schema.field("embedding").type.list_size == 16
    rows = table.to_pylist()
    assert sorted(row["item"] for row in rows)[:2] == ["photos/kind0/0.png", "photos/kind0/2.png"]
    assert sorted(row["modality"] for row in rows) == ["image"] * 6 + ["text"]
    for row in rows:
        file = tmp_path / row["item"]
        np.testing.assert_allclose(row["embedding"], model.embed([file], row["modality"])[0], atol=1e-6)
        assert row["fingerprint"] == f"{file.stat().st_size}:{file.stat().st_mtime_ns}"


def test_search_is_brute_force(model: Model, photos: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "all.parquet")
    index.add(model, photos)
    index.add(model, WORDS)
    assert index.embeddings.shape == (37, 16) and index.embeddings.dtype == np.float32
    for query in ("word 7", photos / "kind1" / "3.png", (np.random.default_rng(0).normal(size=4000), 16_000)):
        z = model.embed([query])[0]
        cosines = {item: float(z @ v) for item, v in zip(index.items, index.embeddings, strict=True)}
        expected = sorted(cosines.values(), reverse=True)
        hits = index.search(model, query, top=8)
        np.testing.assert_allclose([hit.score for hit in hits], expected[:8], atol=1e-5)
        assert all(abs(cosines[hit.item] - hit.score) < 1e-5 for hit in hits)
        assert len({hit.item for hit in index.search(model, query, top=1000)}) == 37
    assert index.search(model, "word 7")[0][0::2] == ("word 7", "text")
    found = index.search(model, str(photos / "kind1" / "3.png"))[0]
    assert found.modality == "image" and found.score == pytest.approx(1, abs=1e-5)
    assert Path(found.item).samefile(photos / "kind1" / "3.png")
    # The same string as a text is another query.
    as_text = index.search(model, str(photos / "kind1" / "3.png"), modality="text")[0]
    assert as_text.score < 0.999


def test_only_new_and_changed_items_are_embedded(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "all.parquet", []
    embed = Model.embed

    def watched(self: Model, items: list, *args: object, **options: object) -> np.ndarray:
        seen.extend(next(iter(item.values())) for item in items)
        return embed(self, items, *args, **options)

    monkeypatch.setattr(Model, "embed", watched)
    Index(path).add(model, photos)
    assert len(seen) == 7
    seen.clear()
    before = path.read_bytes()
    assert counts(Index(path).add(model, photos)) == (0, 0, 7, 0, 0)
    assert seen == [] and path.read_bytes() == before

    write_picture(photos / "kind0" / "0.png", 99)
    os.utime(photos / "kind0" / "0.png", ns=(1, 1))
    write_picture(photos / "kind2" / "new.png", 100)
    (photos / "kind1" / "5.png").unlink()
    index = Index(path)
    assert counts(index.add(model, photos)) == (1, 1, 5, 0, 1)
    assert sorted(seen) == [photos / "kind0" / "0.png", photos / "kind2" / "new.png"]
    for held in (index, Index(path)):
        assert len(held) == len(set(held.items)) == 7
        assert not any("5.png" in item for item in held.items)
        place = next(i for i, item in enumerate(held.items) if item.endswith("0.png"))
        np.testing.assert_allclose(held.embeddings[place], embed(model, [photos / "kind0" / "0.png"])[0], atol=1e-6)


def test_files_outside_the_folder_and_texts_stay(model: Model, photos: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "all.parquet")
    other = write_picture(tmp_path / "photos2" / "a.png", 7)
    index.add(model, [str(other), "a text about photos"])
    index.add(model, photos)
    other.unlink()
    for file in photos.rglob("*.*"):
        file.unlink()
    # Also a folder that holds nothing any more gives up its files.
    assert counts(index.add(model, photos)) == (0, 0, 0, 0, 7)
    assert len(index) == 2 and index.items[1] == "a text about photos"
    with pytest.raises(UnitxError, match="holds no file that the model reads"):
        index.add(model, photos)


def test_index_and_files_move_together(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = write_picture(tmp_path / "far.png", 50)
    Index(photos / "all.parquet").add(model, photos)
    Index(photos / "all.parquet").add(model, far)
    moved = photos.rename(tmp_path / "moved")
    index = Index(moved / "all.parquet")
    assert all(os.path.isfile(item) for item in index.items) and str(far) in index.items
    assert counts(index.add(model, moved)) == (0, 0, 7, 0, 0)
    monkeypatch.chdir(moved)
    assert "kind0/0.png" in Index("all.parquet").items
    assert counts(Index("all.parquet").add(model, ".")) == (0, 0, 7, 0, 0)


def test_texts_and_paths_are_told_apart(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    index = Index(tmp_path / "all.parquet")
    assert index.add(model, ["notes.txt"], "text").new == 1  # the string itself
    assert index.add(model, ["notes.txt"]).new == 1  # the file
    assert index.add(model, ["notes.txt", Path("notes.txt"), "kind0", "a cat"]).unchanged == 1
    assert index.items == ["notes.txt", str(photos / "notes.txt"), "kind0", "a cat"]
    np.testing.assert_allclose(index.embeddings[0], model.embed(["notes.txt"], "text")[0], atol=1e-6)
    np.testing.assert_allclose(index.embeddings[1], model.embed(["about the photos"], "text")[0], atol=1e-6)
    # A path that is read as something else than before is embedded anew.
    odd = write_picture(photos / "picture.dat.png", 3).rename(photos / "picture.dat")
    with pytest.raises(UnitxError, match=r"cannot tell what .*picture\.dat is: pass modality="):
        index.add(model, [odd])
    assert counts(index.add(model, [odd, photos / "picture.dat"], "image")) == (1, 0, 0, 0, 0)
    with pytest.warns(UserWarning, match=r"picture\.dat is not UTF-8 text"):
        assert counts(index.add(model, [odd], "text")) == (0, 0, 0, 1, 0)


def test_unreadable_items_are_named_and_never_stored(model: Model, photos: Path, tmp_path: Path) -> None:
    (photos / "kind0" / "0.png").write_bytes(b"no picture")
    (photos / "kind0" / "empty.png").touch()
    index = Index(tmp_path / "all.parquet")
    with pytest.warns(UserWarning, match="2 of 8 items could not be read; the first: .*0.png") as caught:
        added = index.add(model, photos)
    assert len(caught) == 1 and counts(added) == (6, 0, 0, 2, 0)
    assert "0.png" in added.problems[0] and "empty.png is empty" in added.problems[1]
    assert np.isfinite(Index(index.path).embeddings).all() and len(index) == 6
    with pytest.warns(UserWarning), pytest.raises(BadItem, match=r"nowhere\.png: there is no such file"):
        index.add(model, [photos / "nowhere.png"])
        index.add(model, [photos / "nowhere.png"], on_error="raise")
    # A file that was fine and is broken now loses its old embedding.
    (photos / "kind1" / "1.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="3 of 8"):
        assert counts(index.add(model, photos)) == (0, 0, 5, 3, 0)
    assert len(Index(index.path)) == 5


def test_embeddings_that_are_not_finite_are_refused(model: Model, tmp_path: Path) -> None:
    model.heads["same"].project.weight.data.fill_(torch.nan)
    with pytest.warns(UserWarning, match="its embedding is not finite"):
        added = Index(tmp_path / "all.parquet").add(model, ["a", "b"])
    assert counts(added) == (0, 0, 0, 2, 0) and not (tmp_path / "all.parquet").exists()


def test_a_crash_loses_no_finished_portion(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unitx.index, "PORTION", 10)
    path, calls, embed = tmp_path / "all.parquet", [], Model.embed

    def stops(self: Model, items: list, **options: object) -> np.ndarray:
        calls.append(len(items))
        if len(calls) == 3:
            # What a kill at this moment would leave on the disk.
            assert len(Index(path)) == 20
            raise KeyboardInterrupt
        return embed(self, items, **options)

    monkeypatch.setattr(Model, "embed", stops)
    with pytest.raises(KeyboardInterrupt):
        Index(path).add(model, WORDS)
    monkeypatch.setattr(Model, "embed", embed)
    assert counts(Index(path).add(model, WORDS)) == (10, 0, 20, 0, 0)
    np.testing.assert_allclose(Index(path).embeddings, model.embed(WORDS), atol=1e-6)


def test_a_failed_write_leaves_the_old_file(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "all.parquet"
    Index(path).add(model, ["a"])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(UnitxError, match=r"all\.parquet cannot be written \(No space left"):
        Index(path).add(model, ["b"])
    assert Index(path).items == ["a"] and os.listdir(tmp_path) == ["all.parquet"]


def test_another_model_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    Index(path).add(model, ["a"])
    other = make_model(1)
    for act in (lambda: Index(path).add(other, ["b"]), lambda: Index(path).search(other, "b")):
        with pytest.raises(UnitxError, match=r"all\.parquet holds embeddings of another model.*make a new index"):
            act()
    assert Index(path).items == ["a"]
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "model"), "cpu")
    assert Index(path).search(again, "a")[0].score == pytest.approx(1, abs=1e-5)


def test_identity_is_of_what_embeddings_depend_on(model: Model) -> None:
    before = model_identity(model)["text"]
    assert model_identity(make_model())["text"] == before != model_identity(model)["image"]
    model.add_task(TaskInfo("kind", "classify", {"text": "text"}, "label", ["a", "b"]))
    assert model_identity(model)["text"] == before
    changes = [
        lambda m: m.backbone.blocks[0].mlp.up.weight.data.mul_(1.001),
        lambda m: m.tokenizers["text"].embed.weight.data.mul_(1.001),
        lambda m: m.heads["same"].norms["text"].running_mean.add_(1.0),
        lambda m: m.heads["same"].project.weight.data.mul_(1.001),
        lambda m: setattr(m.tokenizers["text"], "processor", TextProcessor(max_tokens=17)),
    ]
    for change in changes:
        changed = make_model()
        change(changed)
        assert model_identity(changed)["text"] != before


def test_a_modality_taught_beside_a_frozen_one_leaves_its_index_valid(model: Model, photos: Path, tmp_path: Path):
    path = tmp_path / "all.parquet"
    Index(path).add(model, photos, "image")
    model.add_adapters(frozen=["image"])
    with torch.no_grad():
        for part in (model.tokenizers["audio"], model.heads["same"].norms["audio"]):
            for weight in part.parameters():
                weight.add_(1.0)
        model.backbone.blocks[0].mlp.up.lora_B.add_(1.0)
    assert counts(Index(path).add(model, photos, "image")) == (0, 0, 6, 0, 0)
    noise = np.random.default_rng(0).standard_normal(8_000).astype(np.float32)
    found = Index(path).search(model, (noise, 16_000), top=6)
    assert {hit.modality for hit in found} == {"image"}
    Index(path).add(model, ["a word"])
    with pytest.raises(UnitxError, match="of another model"):
        Index(path).search(make_model(), "a word")  # whose texts lie elsewhere


def test_bad_files_are_named(model: Model, tmp_path: Path) -> None:
    (tmp_path / "words.parquet").write_text("no Parquet")
    with pytest.raises(UnitxError, match=r"words\.parquet cannot be read as Parquet"):
        Index(tmp_path / "words.parquet")
    pq.write_table(pa.table({"item": ["a"], "price": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(UnitxError, match=r"other\.parquet is no index: its columns are item, price"):
        Index(tmp_path / "other.parquet")
    with pytest.raises(UnitxError, match="is a folder: name a file"):
        Index(tmp_path)


def test_what_cannot_be_added_or_searched(model: Model, photos: Path, tmp_path: Path) -> None:
    index = Index(tmp_path / "all.parquet")
    with pytest.raises(UnitxError, match=r"all\.parquet holds no embeddings yet"):
        index.search(model, "a cat")
    with pytest.raises(UnitxError, match="'nowhere': there is no such file or folder; give texts in a list"):
        index.add(model, "nowhere")
    with pytest.raises(UnitxError, match="the model does not read 'video'"):
        index.add(model, [photos / "clip.mp4"])
    with pytest.raises(UnitxError, match="does not read 'smell'"):
        index.add(model, photos, "smell")
    with pytest.raises(UnitxError, match="PIL image 8x8 RGB: an index holds texts and files"):
        index.add(model, [Image.new("RGB", (8, 8))])
    with pytest.raises(UnitxError, match="photos/ is a folder: add it by itself"):
        index.add(model, [f"{photos}/"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counts(index.add(model, [])) == (0, 0, 0, 0, 0)
    assert len(index) == 0 and not index.path.exists()
    index.add(model, ["a"])
    with pytest.raises(UnitxError, match="top is 0"):
        index.search(model, "a", top=0)
    with pytest.raises(BadItem, match=r"nowhere\.png"):
        index.search(model, Path("nowhere.png"))


def test_identity_is_of_the_head_that_embeds(model: Model) -> None:
    model.add_task(TaskInfo("second", "align", {"image": "image", "text": "text"}))
    before, z = model_identity(model)["text"], model.embed(["a cat"])
    with torch.no_grad():
        model.heads["second"].project.weight.add_(torch.randn_like(model.heads["second"].project.weight))
    assert not np.allclose(model.embed(["a cat"]), z)
    assert model_identity(model)["text"] != before


def test_an_index_of_an_older_version_is_named(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    Index(path).add(model, ["a"])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"unitx.model": b"3fa9"}), path)
    with pytest.raises(UnitxError, match=r"all\.parquet does not say which model .*: make a new index"):
        Index(path)
