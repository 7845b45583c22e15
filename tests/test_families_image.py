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
from published_models import IMAGES, TIMM, TOWERS, drawn, loaded, photos, pictures, seeing, sequences
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor

from unitx import cli
from unitx.errors import BadItem, UnitxError
from unitx.identity import model_identity
from unitx.model import Model
from unitx.towers import Towers


@pytest.fixture(params=IMAGES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    return loaded(IMAGES[request.param], tmp_path_factory.mktemp("published"))[:2]


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


@pytest.mark.parametrize("named", [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}, "image_mean": [0.4, 0.5, 0.6]},
    {"feature_extractor_type": "CLIPFeatureExtractor", "size": 48, "crop_size": 48},
    {"image_processor_type": "DeiTImageProcessor"},
    {"image_processor_type": "BeitImageProcessor"},
    {"image_processor_type": "BitImageProcessorFast", "size": {"shortest_edge": 60}},
    {"image_processor_type": "SiglipImageProcessor", "image_std": [0.4, 0.5, 0.6]},
])  # fmt: skip
def test_what_a_file_leaves_out_is_as_its_processor_has_it(named: dict[str, Any], tmp_path: Path) -> None:
    drawn(hf.Dinov2Model, hf.Dinov2Config(**seeing(patch_size=2))).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(named))
    original, ours = hf.AutoImageProcessor.from_pretrained(tmp_path), Model.from_pretrained(tmp_path, "cpu")
    image = ours.processors["image"]
    for photo in photos():
        theirs = original(photo, return_tensors="pt")["pixel_values"][0].numpy()
        np.testing.assert_allclose(image.features(image.read(photo)), theirs, atol=1e-6)


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


CROPS = {
    "center": {},
    "squash": {"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bilinear"},
    "high": {"input_size": (3, 96, 64)},
    "wide": {"input_size": (3, 48, 112), "crop_pct": 0.9},
}


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
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
        case "another processor":
            (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ConvNextImageProcessorFast"}')
        case "a crop by share":
            (folder / "preprocessor_config.json").write_text('{"size": 224, "crop_pct": 0.875}')
        case "quantized":
            config["quantization_config"] = {"quant_method": "bitsandbytes"}
        case "whole numbers":
            tensors["layernorm.weight"] = tensors["layernorm.weight"].to(torch.int8)
        case "a width of no number":
            config["hidden_size"] = None
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
    ("another processor", "preprocessor_config.json: a ConvNextImageProcessorFast is not known; known are those of"),
    ("a crop by share", "preprocessor_config.json: crop_pct is 0.875; supported is None"),
    ("quantized", "holds quantized weights, which are not supported"),
    ("whole numbers", "is stored as torch.int8: quantized weights are not supported"),
    ("a width of no number", "config.json: "),
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


def small_timm(folder: Path, name: str = "vit_tiny_patch16_224", **given: Any) -> tuple[Any, dict[str, Any]]:
    """A model of timm's in a folder, and what its config.json says."""
    given = {"img_size": 64, "depth": 1, "num_classes": 3, **given}
    original = drawn(lambda: timm.create_model(name, **given))
    save_for_hf(original, folder, model_args=given, safe_serialization=True)
    return original, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_reg4_gap_256", "vit_medium_patch16_gap_240", "deit_tiny_patch16_224"]
)
@torch.no_grad()
def test_old_folders_of_timm_say_less(name: str, tmp_path: Path) -> None:
    original, config = small_timm(tmp_path, name)
    for part in (config, config["model_args"]):
        del part["global_pool"]
    flat = {**config, **config.pop("pretrained_cfg"), "label_names": ["cat", "dog", "owl"]}
    (tmp_path / "config.json").write_text(json.dumps({n: v for n, v in flat.items() if n != "pretrained_cfg"}))
    model = Model.from_pretrained(tmp_path, "cpu")
    pixels = torch.randn(3, 64, 64)
    np.testing.assert_allclose(model.predict_proba([pixels])[0], original(pixels[None])[0].softmax(-1), atol=1e-5)
    assert model.labels() == ["cat", "dog", "owl"]


def test_a_pooling_of_timms_that_is_not_known_is_refused(tmp_path: Path) -> None:
    small_timm(tmp_path, global_pool="avg", pool_include_prefix=True)
    with pytest.raises(UnitxError, match="pool_include_prefix is True; supported is False"):
        Model.from_pretrained(tmp_path, "cpu")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_nested_configurations_may_leave_out_what_is_as_usual(kind: str, tmp_path: Path) -> None:
    """As transformers 4 wrote them."""
    make, config = (hf.CLIPModel, hf.CLIPConfig) if kind == "clip" else (hf.SiglipModel, hf.SiglipConfig)
    text = {"num_hidden_layers": 1, "vocab_size": 97, "max_position_embeddings": 16, "eos_token_id": 96}
    original = drawn(make, config(text_config=text, vision_config={"num_hidden_layers": 1, "image_size": 32}))
    original.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written["text_config"] = {"model_type": f"{kind}_text_model", "num_hidden_layers": 9}
    written["text_config_dict"] = text  # which counts
    written["vision_config"] = {"num_hidden_layers": 1, "image_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(written))
    model, ids = Model.from_pretrained(tmp_path, "cpu"), sequences()[0]
    with torch.no_grad():
        theirs = original.text_model(ids[None]).last_hidden_state[0]
    torch.testing.assert_close(model.hidden_states([ids])[0], theirs, atol=1e-4, rtol=0)


PARTIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("clip, pictures", {"size": 224, "crop_size": 224}),
    "dinov2": ("dinov2", {"size": 256, "crop_size": 224}),
    "siglip": ("siglip, pictures", {"size": 112}),
    "vit": ("vit", {"size": [64, 96], "do_center_crop": True, "crop_size": [20, 30]}),
    "deit": ("deit", {"image_mean": [0.1, 0.2, 0.3]}),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_a_processors_file_may_leave_out_what_is_as_usual(name: str, tmp_path: Path) -> None:
    case, given = PARTIAL[name]
    drawn(*IMAGES[case]).save_pretrained(tmp_path)
    classes = {"clip": hf.CLIPImageProcessor, "dinov2": hf.BitImageProcessor, "siglip": hf.SiglipImageProcessor,
               "vit": hf.ViTImageProcessor, "deit": hf.DeiTImageProcessor}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    original = classes[name].from_pretrained(tmp_path)
    ours = Model.from_pretrained(tmp_path, "cpu").processors["image"]
    for photo in photos():
        theirs = original(photo, return_tensors="pt")["pixel_values"][0].numpy()
        found = ours.features(ours.read(photo))
        np.testing.assert_allclose(found, theirs[:, : found.shape[1], : found.shape[2]], atol=1e-6)


def test_towers_are_converted_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(TOWERS["clip"]).save_pretrained(tmp_path / "clip")
    assert cli.main(["convert", str(tmp_path / "clip"), str(tmp_path / "ours")]) in (0, None)
    assert "reads image, text" in capsys.readouterr().out
    items = [pictures()[0], sequences()[0]]
    a, b = (Model.from_pretrained(tmp_path / name, "cpu").embed(items) for name in ("clip", "ours"))
    np.testing.assert_array_equal(a, b)


def test_towers_compute_in_one_format(tmp_path: Path) -> None:
    drawn(TOWERS["siglip"]).save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    exact = model.embed(pictures())
    model.compute_dtype = torch.bfloat16
    assert {model.tower(m).compute_dtype for m in model.modalities} == {torch.bfloat16} == {model.compute_dtype}
    assert 0 < np.abs(model.embed(pictures()) - exact).max() < 0.1
