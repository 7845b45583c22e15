"""Published families of pictures against the libraries that they come from, with weights that are all drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers as hf
from PIL import Image
from published_models import IMAGES, TIMM, TOWERS, drawn, photos, pictures, seeing, sequences
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor

from unitx.errors import BadItem, UnitxError
from unitx.index import model_identity
from unitx.model import Model
from unitx.towers import Towers


@pytest.fixture(params=IMAGES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    original = drawn(*IMAGES[request.param])
    folder = tmp_path_factory.mktemp("published")
    original.save_pretrained(folder)
    return original, Model.from_pretrained(folder, "cpu")


def their_outputs(original: Any, pixels: Tensor) -> Any:
    """What the original gives for a picture of any size."""
    base = original if hasattr(original, "visual_projection") else original.base_model
    if "Dinov2" in type(base).__name__:  # which always interpolates
        return base(pixels[None])
    return base(pixels[None], interpolate_pos_encoding=True)


@torch.no_grad()
def test_hidden_states_are_the_originals(pair: tuple[Any, Model]) -> None:
    original, model = pair
    items = pictures(original.config.patch_size)
    for pixels, ours in zip(items, model.hidden_states(items), strict=True):
        theirs = their_outputs(original, pixels).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_pooled_outputs_are_the_originals(pair: tuple[Any, Model]) -> None:
    original, model = pair
    items = pictures(original.config.patch_size)
    found = [their_outputs(original, pixels) for pixels in items]
    theirs = [out.get("image_embeds", out.get("pooler_output")) for out in found]
    theirs = [out.last_hidden_state[:, 0] if t is None else t for out, t in zip(found, theirs, strict=True)]
    if isinstance(original, hf.SiglipVisionModel) and not original.config.vision_use_head:
        theirs = [out.last_hidden_state.mean(1) for out in found]
    np.testing.assert_allclose(model.embed(items, normalize=False), torch.cat(theirs), atol=1e-4)


@torch.no_grad()
def test_a_classifier_answers_as_the_original(pair: tuple[Any, Model]) -> None:
    original, model = pair
    classifies = type(original).__name__.endswith(("ForImageClassification", "WithTeacher"))
    assert ("image-classify" in model.tasks) == classifies
    if classifies:
        items = [p for p in pictures(original.config.patch_size) if p.shape[1:] == (32, 32)]
        theirs = torch.cat([original(pixels[None]).logits.softmax(-1) for pixels in items])
        np.testing.assert_allclose(model.predict_proba(items), theirs, atol=1e-5)


def test_it_is_kept_in_our_own_format(pair: tuple[Any, Model], tmp_path: Path) -> None:
    _, model = pair
    again = Model.from_pretrained(model.save_pretrained(tmp_path), "cpu")
    np.testing.assert_array_equal(model.embed(pictures()), again.embed(pictures()))
    assert again.processors == model.processors


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_models_of_timm(name: str, tmp_path: Path) -> None:
    architecture, arguments = TIMM[name]
    original = drawn(lambda: timm.create_model(architecture, dynamic_img_size=True, **arguments))
    save_for_hf(original, tmp_path, model_args=arguments, safe_serialization=True)
    model = Model.from_pretrained(tmp_path, "cpu")
    height, width = original.patch_embed.img_size
    rng = np.random.default_rng(0)
    items = [torch.from_numpy(rng.normal(size=(3, h, w)).astype(np.float32))
             for h, w in ((height, width), (2 * height, width), (height, width))]  # fmt: skip
    features = [original.forward_features(pixels[None]) for pixels in items]
    for ours, theirs in zip(model.hidden_states(items), features, strict=True):
        torch.testing.assert_close(ours, theirs[0], atol=1e-4, rtol=0)
    pooled = torch.cat([original.forward_head(found, pre_logits=True) for found in features])
    np.testing.assert_allclose(model.embed(items, normalize=False), pooled, atol=1e-4)
    if arguments.get("num_classes") or "image-classify" in model.tasks:
        theirs = torch.cat([original(pixels[None]).softmax(-1) for pixels in items])
        np.testing.assert_allclose(model.predict_proba(items), theirs, atol=1e-5)
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "ours"), "cpu")
    np.testing.assert_array_equal(model.embed(items), again.embed(items))


PROCESSORS = {
    "vit": lambda: hf.ViTImageProcessor(),
    "deit": lambda: hf.DeiTImageProcessor(),
    "dinov2": lambda: hf.BitImageProcessor(size={"shortest_edge": 256}),
    "clip": lambda: hf.CLIPImageProcessor(),
    "siglip": lambda: hf.SiglipImageProcessor(),
    "own means": lambda: hf.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=3),
    "bytes": lambda: hf.ViTImageProcessor(do_rescale=False, image_mean=[100, 110, 120], image_std=[50, 60, 70]),
    "as it is": lambda: hf.ViTImageProcessor(do_normalize=False, size={"height": 96, "width": 144}, resample=0),
    "black border": lambda: hf.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 96, "width": 64}),
    "no resizing": lambda: hf.ViTImageProcessor(do_resize=False),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_the_originals(name: str, tmp_path: Path) -> None:
    original = PROCESSORS[name]()
    drawn(hf.ViTModel, hf.ViTConfig(**seeing(patch_size=2))).save_pretrained(tmp_path)
    original.save_pretrained(tmp_path)
    ours = Model.from_pretrained(tmp_path, "cpu").processors["image"]
    for photo in photos():
        theirs = original(photo, return_tensors="pt")["pixel_values"][0].numpy()
        height, width = (side // 2 * 2 for side in theirs.shape[1:])
        np.testing.assert_allclose(ours.features(ours.read(photo)), theirs[:, :height, :width], atol=1e-6)


@pytest.mark.parametrize("crop", [{}, {"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bilinear"}])
def test_pixels_are_timms(crop: dict[str, Any], tmp_path: Path) -> None:
    original = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=64)
    save_for_hf(original, tmp_path, model_args={"img_size": 64, "depth": 1}, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= crop
    (tmp_path / "config.json").write_text(json.dumps(config))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"]))
    ours = Model.from_pretrained(tmp_path, "cpu").processors["image"]
    for photo in photos():
        np.testing.assert_allclose(ours.features(ours.read(photo)), transform(photo).numpy(), atol=1e-6)


def test_a_file_is_read_as_the_picture_is(tmp_path: Path) -> None:
    """JPEG is decoded in full: at a half, the pixels would be others."""
    drawn(hf.ViTModel, hf.ViTConfig(**seeing())).save_pretrained(tmp_path)
    photos()[0].save(tmp_path / "a.jpg", quality=95)
    model = Model.from_pretrained(tmp_path, "cpu")
    with Image.open(tmp_path / "a.jpg") as opened:
        opened.load()
        np.testing.assert_array_equal(model.embed([tmp_path / "a.jpg"]), model.embed([opened.copy()]))


@pytest.fixture(params=TOWERS, scope="module")
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Towers]:
    original = drawn(TOWERS[request.param])
    folder = tmp_path_factory.mktemp("towers")
    original.save_pretrained(folder)
    return original, Model.from_pretrained(folder, "cpu")


@torch.no_grad()
def test_towers_give_the_originals_answers(towers: tuple[Any, Towers]) -> None:
    original, model = towers
    seen, read = pictures(original.config.vision_config.patch_size), sequences()
    for pixels, ours in zip(seen, model.hidden_states(seen), strict=True):
        theirs = original.vision_model(pixels[None], interpolate_pos_encoding=True).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    for ids, ours in zip(read, model.hidden_states(read), strict=True):
        torch.testing.assert_close(ours, original.text_model(ids[None]).last_hidden_state[0], atol=1e-4, rtol=0)
    found = [original(ids[None], pixels[None], interpolate_pos_encoding=True)
             for pixels, ids in zip(seen, read, strict=True)]  # fmt: skip
    mixed = model.embed([item for both in zip(seen, read, strict=True) for item in both])
    np.testing.assert_allclose(mixed[::2], torch.cat([out.image_embeds for out in found]), atol=1e-5)
    np.testing.assert_allclose(mixed[1::2], torch.cat([out.text_embeds for out in found]), atol=1e-5)
    logits = torch.stack([out.logits_per_image[0, 0] for out in found])
    np.testing.assert_allclose(np.diag(model.similarity(mixed[::2], mixed[1::2])), logits, atol=1e-4)


def test_towers_are_kept_in_our_own_format(towers: tuple[Any, Towers], tmp_path: Path) -> None:
    _, model = towers
    folder = model.save_pretrained(tmp_path / "ours")
    again = Model.from_pretrained(folder, "cpu")
    items = [pictures()[0], sequences()[0]]
    np.testing.assert_array_equal(model.embed(items), again.embed(items))
    vectors = [m.embed(items) for m in (model, again)]
    np.testing.assert_array_equal(model.similarity(*vectors), again.similarity(*vectors))
    one = Model.from_pretrained(folder / "image", "cpu")  # a model of its own, to be trained further
    np.testing.assert_array_equal(one.embed(items[:1]), model.embed(items[:1]))
    assert model_identity(again) == model_identity(model)


def test_what_is_a_matter_of_one_tower_says_so(towers: tuple[Any, Towers]) -> None:
    _, model = towers
    with pytest.raises(UnitxError, match=r"'backbone' is a matter of one tower: take model.tower\('image'\)"):
        _ = model.backbone
    with pytest.raises(UnitxError, match="does not read 'audio'; it reads: image, text"):
        model.embed([("x", 1)], "audio")
    both = {"image": pictures()[0], "text": sequences()[0]}
    with pytest.raises(BadItem, match="an item of image and text: each tower reads one"):
        model.embed([both])
    with pytest.warns(UserWarning, match="left out: an item of image and text"):
        vectors = model.embed([both, pictures()[0]], on_error="skip")
    assert np.isnan(vectors[0]).all() and not np.isnan(vectors[1]).any()
    assert model.embed([]).shape == (0, vectors.shape[1])


def _spoil(folder: Path, how: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    match how:
        case "patches that are not square":
            config["patch_size"] = [8, 4]
        case "one channel":
            config["num_channels"] = 1
        case "another size of pictures":
            config["image_size"] = 48
        case "no class token":
            del tensors["embeddings.cls_token"]
        case "a resampling of no name":
            (folder / "preprocessor_config.json").write_text('{"size": 224, "resample": 1}')
        case "a size of another kind":
            (folder / "preprocessor_config.json").write_text('{"size": {"longest_edge": 224}}')
        case "answers for each token":
            tensors["classifier.weight"] = torch.zeros(2, 36)
            config["architectures"] = ["ViTForTokenClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("how", "says"), [
    ("patches that are not square", r"config.json: patch_size is 8 x 4; supported are square patches"),
    ("one channel", "num_channels is 1; supported is 3"),
    ("another size of pictures", "'embeddings.position_embeddings' is .1, 17, 36., which does not give the .36, 36."),
    ("no class token", "lacks the tensor 'embeddings.cls_token'"),
    ("a resampling of no name", "resample is 1; supported are 0, 2, 3"),
    ("a size of another kind", "a size of .* is not supported; supported are height and width, or shortest_edge"),
    ("answers for each token", r"holds tensors that such a model has no use for: \['classifier.weight'\]"),
])  # fmt: skip
def test_a_folder_that_cannot_be_loaded_says_why(how: str, says: str, tmp_path: Path) -> None:
    drawn(hf.ViTModel, hf.ViTConfig(**seeing())).save_pretrained(tmp_path)
    _spoil(tmp_path, how)
    with pytest.raises(UnitxError, match=says):
        Model.from_pretrained(tmp_path, "cpu")


@pytest.mark.parametrize("name", ["vit_base_patch16_rope_224", "resnet50", "vit_small_patch16_dinov3"])
def test_other_architectures_of_timm_are_refused(name: str, tmp_path: Path) -> None:
    save_file({"cls_token": torch.zeros(1, 1, 8)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": {}}))
    with pytest.raises(UnitxError, match=f"the architecture '{name}' is not known; known are vit_"):
        Model.from_pretrained(tmp_path, "cpu")


def test_a_picture_without_a_whole_patch_is_a_bad_item(tmp_path: Path) -> None:
    drawn(hf.ViTModel, hf.ViTConfig(**seeing())).save_pretrained(tmp_path)
    with pytest.raises(BadItem, match="a picture of 30 x 5 pixels has no whole patch"):
        Model.from_pretrained(tmp_path, "cpu").embed([torch.zeros(3, 5, 30)])
