"""VideoMAE against transformers, with weights that are all drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from published_models import VIDEOS, WATCHING, clips, drawn, loaded
from safetensors.torch import load_file, save_file

import unitx
from unitx.errors import BadItem, UnitxError
from unitx.model import Model


@pytest.fixture(params=VIDEOS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model, Path]:
    """An original and what we make of its folder."""
    return loaded(VIDEOS[request.param], tmp_path_factory.mktemp("published"))


@torch.no_grad()
def test_hidden_states_and_their_mean_are_the_originals(pair: tuple[Any, Model, Path]) -> None:
    original, model, _ = pair
    given = clips(original.config)
    found = model.hidden_states(given)
    for clip, ours in zip(given, found, strict=True):
        if hasattr(original, "encoder_to_decoder"):
            nothing = torch.zeros(1, len(ours), dtype=torch.bool)
            theirs = original.videomae(clip[None], nothing).last_hidden_state[0]
        else:
            theirs = original.base_model(clip[None]).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    if not hasattr(original, "fc_norm"):
        means = np.stack([states.mean(0).numpy() for states in found])
        np.testing.assert_allclose(model.embed(given, normalize=False), means, atol=1e-5)


@torch.no_grad()
def test_a_classifier_says_what_the_original_says(pair: tuple[Any, Model, Path]) -> None:
    original, model, _ = pair
    if not hasattr(original, "classifier"):
        assert model.tasks == ["pooled"]
        return
    given = clips(original.config)
    theirs = original(torch.stack(given)).logits.softmax(-1)
    np.testing.assert_allclose(model.predict_proba(given), theirs.numpy(), atol=1e-4)
    best = [original.config.id2label[i] for i in theirs.argmax(-1).tolist()]
    assert [answers[0].label for answers in model.predict(given)] == best
    if original.fc_norm is not None:
        states = original.videomae(torch.stack(given)).last_hidden_state
        pooled = original.fc_norm(states.mean(1)).numpy()
        np.testing.assert_allclose(model.embed(given, normalize=False), pooled, atol=1e-4)


def test_it_is_kept_in_our_own_format(pair: tuple[Any, Model, Path], tmp_path: Path) -> None:
    original, model, _ = pair
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "ours"), "cpu")
    assert again.processors == model.processors and again.tasks == model.tasks
    for a, b in zip(model.hidden_states(clips(original.config)), again.hidden_states(clips(original.config)),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)


def saved(folder: Path, **given: Any) -> hf.VideoMAEModel:
    config = hf.VideoMAEConfig(**WATCHING, **{"image_size": 16, "patch_size": 4, "num_frames": 4} | given)
    original = drawn(hf.VideoMAEModel, config)
    original.save_pretrained(folder)
    return original


@torch.no_grad()
def test_biases_are_found_under_the_names_on_the_hub_and_of_the_modules(tmp_path: Path) -> None:
    original = saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "encoder.layer.0.attention.attention.q_bias" in tensors  # as in MCG-NJU/videomae-base
    modules = {name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): value
               for name, value in tensors.items()}  # fmt: skip
    save_file(modules, tmp_path / "model.safetensors", {"format": "pt"})
    (clip,) = clips(original.config, 1)
    (ours,) = Model.from_pretrained(tmp_path, "cpu").hidden_states([clip])
    expected = original(clip[None]).last_hidden_state[0]
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    # Early transformers 5 wrote biases of keys too: they add the same to all scores of a query and change no answer.
    queries = {name: value for name, value in modules.items() if name.endswith("query.bias")}
    keys = {name.replace(".query.", ".key."): torch.randn_like(value) for name, value in queries.items()}
    save_file(modules | keys, tmp_path / "model.safetensors", {"format": "pt"})
    model = Model.from_pretrained(tmp_path, "cpu")
    assert torch.equal(model.backbone.blocks[0].attn.qkv.bias.chunk(3)[1], keys[next(iter(keys))])
    torch.testing.assert_close(model.hidden_states([clip])[0], expected, atol=1e-4, rtol=0)
    config = json.loads((tmp_path / "config.json").read_text())
    config["qkv_bias"] = config.pop("qv_bias")  # as files before transformers 5 call it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Model.from_pretrained(tmp_path, "cpu").backbone.config.qkv_bias


PROCESSORS: dict[str, dict[str, Any]] = {
    "usual": {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
    "a larger side, bicubic": {
        "size": {"shortest_edge": 21}, "crop_size": {"height": 16, "width": 16}, "resample": 3,
        "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4],
    },
    "squashed": {"size": {"height": 16, "width": 16}, "do_center_crop": False},
    "black around": {"do_resize": False, "crop_size": {"height": 16, "width": 16}},
}  # fmt: skip


@pytest.mark.parametrize("given", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("kind", [hf.VideoMAEImageProcessor, hf.VideoMAEVideoProcessor])
def test_pixel_values_are_the_originals(kind: Any, given: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path)
    original = kind(**given)
    original.save_pretrained(tmp_path)
    video = Model.from_pretrained(tmp_path, "cpu").processors["video"]
    rng = np.random.default_rng(0)
    for height, width in ((37, 50), (50, 37), (16, 16), (9, 30)):
        frames = rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
        theirs = original(list(frames), return_tensors="pt")["pixel_values"][0]
        for item in (frames, torch.from_numpy(frames), [Image.fromarray(frame) for frame in frames]):
            np.testing.assert_allclose(video.features(video.read(item)), theirs.numpy(), atol=1e-4)


@torch.no_grad()
def test_frames_give_the_originals_states_and_more_frames_are_spread(tmp_path: Path) -> None:
    original = saved(tmp_path)
    processor = hf.VideoMAEImageProcessor(**PROCESSORS["usual"])
    processor.save_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (12, 30, 40, 3), dtype=np.uint8)
    pixels = processor(list(frames[[1, 4, 7, 10]]), return_tensors="pt")["pixel_values"]
    (ours,) = Model.from_pretrained(tmp_path, "cpu").hidden_states([frames])
    torch.testing.assert_close(ours, original(pixels).last_hidden_state[0], atol=1e-4, rtol=0)


def test_without_its_processors_file_frames_come_to_the_models_size(tmp_path: Path) -> None:
    saved(tmp_path, image_size=[16, 24])
    video = Model.from_pretrained(tmp_path, "cpu").processors["video"]
    assert video.features(video.read(np.zeros((5, 90, 160, 3), np.uint8))).shape == (4, 3, 16, 24)


def test_pixel_values_of_another_size_are_refused_as_by_the_original(tmp_path: Path) -> None:
    original = saved(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    for shape in ((2, 3, 16, 16), (4, 3, 16, 24)):
        with pytest.raises(BadItem, match="pixels: give 4 frames of 16 x 16 pixels"):
            model.embed([torch.zeros(shape)])
        with pytest.raises((ValueError, RuntimeError)):
            original(torch.zeros(1, *shape))


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_it_learns_a_task_of_ones_own(tune: str, tmp_path: Path) -> None:
    saved(tmp_path / "base")
    rng = np.random.default_rng(0)
    rows = [{"video": rng.integers(100 * (i % 2), 100 * (i % 2) + 100, (6, 20, 30, 3), dtype=np.uint8),
             "label": ("dark", "bright")[i % 2]} for i in range(40)]  # fmt: skip
    run = unitx.finetune(
        tmp_path / "base", "video-classify", data=rows, tune=tune, steps=12, evaluations=1, out=str(tmp_path / "run"),
        echo=False, workers=0, precision="fp32", lr=3e-3, batch_tokens=512,
    )  # fmt: skip
    assert run.metrics["video-classify/accuracy"] > 0.9
    again = Model.from_pretrained(run.folder, "cpu")
    assert [answers[0].label for answers in again.predict([rows[0]["video"], rows[1]["video"]])] == ["dark", "bright"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_channels": 1}, "num_channels is 1"),
        ({"patch_size": [4, 8]}, "square patches"),
        ({"num_frames": 8, "hidden_size": None}, "hidden_size|int"),
        ({"hidden_act": "mish"}, "'mish' is not known"),
        ({"qv_bias": True, "tubelet_size": 1}, "does not give the .* that config.json asks for"),
    ],
)
def test_what_cannot_be_is_said(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UnitxError, match=says) as error:
        Model.from_pretrained(tmp_path, "cpu")
    assert "\n" not in str(error.value)
