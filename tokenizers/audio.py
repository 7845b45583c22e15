"""Audio: log-mel spectrograms, cut into patches over time and frequency."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torchaudio.transforms import Resample

from unitx.backbone import Backbone, Linear
from unitx.config import BackboneConfig, heads_for
from unitx.errors import BadItem, UnitxError
from unitx.media import check_whole, crop, describe, is_tensor, open_binary
from unitx.positions import Grid, LearnedPositions, PositionEmbedding
from unitx.registry import register_tokenizer
from unitx.spectrogram import Fbank, LogMel, mel_power
from unitx.stem import ConvStem, Stem
from unitx.tokenizer import Processor, Tokenizer
from unitx.tokens import Pieces, Tokens

RATES = (100, 1_000_000)  # Hz that a recording may have
RANGE = 8.0  # powers of ten below a clip's loudest cell that are told apart (80 dB, as Whisper, Radford et al. 2022)
LEAST_STD = 0.5  # powers of ten; keeps a steady noise from being blown up
BLOCK = 1 << 20  # samples that a file is read by: they bound the memory
HEAD = 64  # width of an attention head


@dataclass(frozen=True)
class AudioProcessor(Processor):
    """Turns sound into patches of a log-mel spectrogram. Loudness does not matter.

    Attributes:
        max_tokens: the longest sequence.
        rate: samples a second that sound is brought to.
        mels: mel bands from 0 to rate / 2 (Slaney's scale).
        hop: samples from one frame to the next.
        window: samples of a frame.
        patch_frames: frames of a patch.
        patch_mels: mel bands of a patch; None for all.
        merges: of 2 × 2 neighbours, before a patch is embedded; 0 for one linear map (AST, Gong et al. 2021).
        depth: blocks that only sound passes, before the backbone: what a trained one needs that never heard anything.
        spectrogram: of published models: how sound becomes a spectrogram, instead, whose windows have one length.
        positions: of published models: learned positions and class tokens.

    Raises:
        UnitxError: an option is out of range.
    """

    rate: int = 16_000
    mels: int = 64
    hop: int = 160
    window: int = 400
    patch_frames: int = 8
    patch_mels: int | None = None
    merges: int = 3
    depth: int = 0
    spectrogram: Fbank | LogMel | None = field(default=None, repr=False)
    positions: LearnedPositions | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_whole(self, "max_tokens", "rate", "mels", "hop", "window", "patch_frames")
        check_whole(self, "merges", "depth", least=0)
        if self.patch_mels is not None:
            check_whole(self, "patch_mels")
        if isinstance(made := self.spectrogram, dict):  # from JSON
            object.__setattr__(self, "spectrogram", Fbank(**made) if "mean" in made else LogMel(**made))
        if isinstance(learned := self.positions, dict):
            object.__setattr__(self, "positions", LearnedPositions(**learned))
        if isinstance(self.spectrogram, LogMel) and (self.patch_frames, self.bands) != (2, 1):
            raise UnitxError("AudioProcessor: convolutions take pairs of frames: patch_frames must be 2, of all mels")
        if self.spectrogram is not None:
            return
        if self.mels % (self.patch_mels or self.mels):
            raise UnitxError(f"AudioProcessor: patch_mels {self.patch_mels} must divide mels {self.mels}")
        if self.bands > self.max_tokens:
            raise UnitxError(f"AudioProcessor: {self.bands} patches one above the other must fit in max_tokens")

    @property
    def width(self) -> int:
        """Numbers of a patch."""
        return self.patch_frames * (self.patch_mels or self.mels)

    @property
    def bands(self) -> int:
        """Patches that stand one above the other."""
        return self.mels // (self.patch_mels or self.mels)

    def read(self, item: Any) -> Tensor:
        """Decode a path, bytes, a file object (a video gives its sound), or a pair (waveform, rate).

        The waveform is an array or tensor (n,), (channels, n) or (n, channels): the smaller axis is the channels, the
        first where they are equal. Integers are scaled by their range, uint8 about 128. To a published model a float
        tensor of two axes is a window as the original's feature extractor gives it: Whisper's `input_features` (mels,
        frames), AST's `input_values` (frames, mels).

        Returns: (n,) float32, the mean of the channels, at `rate`; or (frames, mels) of such a window.

        Raises:
            BadItem: it is missing, empty, truncated, no sound, or holds NaN or infinity.
        """
        if self.spectrogram is not None and isinstance(item, Tensor) and item.ndim == 2:
            return self._window_of(item, self.spectrogram)
        if isinstance(item, tuple | list):
            mono, rate = _from_pair(item)
        elif isinstance(item, np.ndarray) or is_tensor(item):
            raise BadItem(f"{describe(item)} has no sample rate; give a pair (waveform, rate)")
        else:
            with open_binary(item) as file:
                mono, rate = _from_file(file, describe(item))
        if not len(mono):
            raise BadItem(f"{describe(item)} holds no samples; remove it, or record it again")
        if not np.isfinite(mono).all():
            raise BadItem(f"{describe(item)} holds NaN or infinity; look at how it was made")
        if not RATES[0] <= rate <= RATES[1]:
            raise BadItem(f"{describe(item)}: a sample rate of {rate} Hz; it must be from {RATES[0]} to {RATES[1]:,}")
        return _resample(torch.from_numpy(mono), rate, self.rate)

    def _window_of(self, item: Tensor, spectrogram: Fbank | LogMel) -> Tensor:
        axes = (self.mels, spectrogram.frames) if spectrogram.bands_first else (spectrogram.frames, self.mels)
        if tuple(item.shape) != axes or not item.is_floating_point():
            raise BadItem(
                f"{describe(item)} is no window of the model's, which is {axes} and float; give what the original's "
                "feature extractor makes, or a pair (waveform, rate)"
            )
        if not item.isfinite().all():
            raise BadItem(f"{describe(item)} holds NaN or infinity; look at how it was made")
        item = item.detach().float().cpu()
        return item.T if spectrogram.bands_first else item

    def features(self, raw: Tensor) -> np.ndarray:
        """(frames, mels) float32: log-mel of zero mean and unit variance over the clip (less if steady, 0 if silent).

        Frame i is centred on sample i * hop, so n samples give 1 + n // hop frames (for an even window). Of a published
        model what its `spectrogram` makes, without the silence behind it.
        """
        return self.features_of([raw])[0]

    def features_of(self, raws: list[Tensor]) -> list[np.ndarray]:
        if self.spectrogram is not None:
            return [self._published(raw).numpy() for raw in raws]
        half = self.window // 2
        frames = [F.pad(raw, (half, half)).unfold(0, self.window, self.hop) for raw in raws]
        return [_normalised(of_item) for of_item in mel_power(frames, self.rate, self.mels)]

    def _published(self, raw: Tensor) -> Tensor:
        if raw.ndim == 2 or self.spectrogram is None:
            return raw
        return self.spectrogram.of(raw, self.rate, self.mels, self.hop, self.window)

    @property
    def seconds(self) -> float:
        """What a step along the axis of time stands for."""
        frames = self.spectrogram.strides[1] if isinstance(self.spectrogram, Fbank) else self.patch_frames
        return frames * self.hop / self.rate

    @property
    def _room(self) -> int:
        """Frames of a window."""
        return self.spectrogram.frames if self.spectrogram else self.max_tokens // self.bands * self.patch_frames

    def _floor(self, features: np.ndarray) -> float:
        """What stands for silence."""
        return self.spectrogram.silence(features) if self.spectrogram else features.min()

    def with_positions(self) -> AudioProcessor:
        if self.depth:  # blocks of its own know the order
            return self
        return replace(self, positions=self.positions or LearnedPositions((self.max_tokens // self.bands, self.bands)))

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        kept = crop(len(features), self._room, rng)
        part = features[kept]
        return self._patches(part, self._floor(features), kept.start, shortened=len(part) < len(features))

    def shown(self, values: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
        """The spectrogram (mels, frames), low tones at the bottom, that `cut` made patches (n, features) of."""
        pattern = "(t band) (f m) -> (band m) (t f)"
        return rearrange(values, pattern, band=grid[1], f=self.patch_frames)[::-1]

    def windows(self, features: np.ndarray) -> list[Pieces]:
        room, floor = self._room, self._floor(features)
        return [self._patches(features[i : i + room], floor, i) for i in range(0, len(features), room)]

    def extents(self, item: Any, windows: list[Pieces]) -> list[np.ndarray]:
        """In seconds; of class tokens and of the silence that fills up a window nothing."""
        return [self._seconds_of(pieces) for pieces in windows]

    def _seconds_of(self, pieces: Pieces) -> np.ndarray:
        first, last = (frame * self.hop / self.rate for frame in pieces.part)
        begins = first + pieces.positions[:, 0] * self.seconds
        found = np.minimum(np.stack([begins, begins + self.seconds], axis=1), last)
        found[: len(pieces) - len(pieces.values)] = 0
        return found

    def _patches(self, part: np.ndarray, floor: float, first: int, shortened: bool = False) -> Pieces:
        """Patches of the frames from `first` on, in order of time, then frequency."""
        last = first + len(part)
        missing = self._room - len(part) if self.spectrogram else -len(part) % self.patch_frames
        heard = len(part) / (len(part) + missing) if self.spectrogram else 1.0
        if missing:
            part = np.pad(part, ((0, missing), (0, 0)), constant_values=floor)
        if isinstance(self.spectrogram, Fbank):
            pieces = self._overlapping(part, self.spectrogram.strides, shortened)
            return replace(pieces, heard=heard, part=(first, last))
        values = rearrange(part, "(t f) (band m) -> (t band) (f m)", f=self.patch_frames, band=self.bands)
        positions = patch_positions(len(values), self.bands)
        grid = (len(values) // self.bands, self.bands)
        return Pieces(np.ascontiguousarray(values), positions, shortened, grid, heard, (first, last))

    def _overlapping(self, part: np.ndarray, strides: tuple[int, int], shortened: bool) -> Pieces:
        """Patches in order of frequency, then time, as a convolution gives them; positions as of others, class tokens
        before them at (0, 0, 0)."""
        patches = sliding_window_view(part, (self.patch_frames, self.patch_mels or self.mels))
        patches = patches[:: strides[1], :: strides[0]]
        times, bands = patches.shape[:2]
        band, time = np.divmod(np.arange(bands * times), times)
        positions = np.stack([time, time + band, time], axis=1)
        if self.positions is not None:
            positions = self.positions.behind_class_tokens(positions)
        values = np.ascontiguousarray(rearrange(patches, "t band f m -> (band t) (f m)"))
        return Pieces(values, positions, shortened, grid=(bands, times))


def patch_positions(count: int, bands: int) -> np.ndarray:
    """(count, 3) of patches in order of time, then frequency; the one at (t, band) stands at (t, t + band, t)."""
    time, band = np.divmod(np.arange(count), bands)
    return np.stack([time, time + band, time], axis=1)


def _normalised(mel: Tensor) -> np.ndarray:
    log = (mel / mel.max().clamp(min=1e-20)).clamp(min=10**-RANGE).log10_()
    std, mean = torch.std_mean(log, correction=0)
    return ((log - mean) / max(std.item(), LEAST_STD)).numpy()


@lru_cache(maxsize=32)
def _resampler(old: int, new: int) -> Resample:
    return Resample(old, new)


def _resample(wave: Tensor, old: float, new: int) -> Tensor:
    # The filter has a row for every new sample in the common period: rates without a common divisor would need
    # gigabytes. The nearest ratio of numbers up to 1,000 is off by half a thousandth at most.
    ratio = (Fraction(new) / Fraction(old)).limit_denominator(1000)
    if ratio == 1:
        return wave
    return _resampler(ratio.denominator, ratio.numerator)(wave)


def _from_pair(pair: Any) -> tuple[np.ndarray, float]:
    try:
        wave, rate = pair
        wave = np.asarray(wave.detach().cpu() if isinstance(wave, Tensor) else wave)
        rate = float(rate)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadItem(
            f"{describe(pair)} is not sound; give a pair (waveform, rate), the rate in samples a second"
        ) from error
    if wave.ndim == 2 and wave.size:
        wave = wave if wave.shape[0] <= wave.shape[1] else wave.T
    elif wave.ndim not in (1, 2):
        raise BadItem(f"{describe(pair)} is not sound; a waveform is (n,), (channels, n) or (n, channels)")
    if wave.dtype.kind == "f":
        wave = wave.astype(np.float32)
    elif wave.dtype == np.uint8:
        wave = (wave.astype(np.float32) - 128) / 128
    elif wave.dtype in (np.int8, np.int16, np.int32):
        wave = wave.astype(np.float32) / -float(np.iinfo(wave.dtype).min)
    else:
        raise BadItem(f"{describe(pair)}: a waveform must be int8, int16, int32, uint8 or float")
    return (wave.mean(axis=0) if wave.ndim == 2 and wave.size else wave.ravel()), rate


def _from_file(file: BinaryIO, name: str) -> tuple[np.ndarray, float]:
    if _ogg_is_cut_off(file):
        raise _cut_off(name)
    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError):  # TypeError: the suffix .raw
        file.seek(0)
        return _by_pyav(file, name)
    with sound:
        return _by_soundfile(sound, name), sound.samplerate


def _by_soundfile(sound: soundfile.SoundFile, name: str) -> np.ndarray:
    even = np.full(sound.channels, 1 / sound.channels, dtype=np.float32)  # several times faster than mean(axis=1)
    blocks = []
    try:
        # Not `sound.blocks`, which fills what a cut-off file lacks with whatever lay in memory.
        while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
            blocks.append(block @ even)
    except soundfile.LibsndfileError as error:
        raise _cut_off(name) from error
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    # A header's count may be an estimate (MP3), and a stream's says "endless" (WAV written to a pipe).
    if len(mono) < 0.95 * sound.frames:
        raise _cut_off(name)
    for real, stated in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info):
        if int(stated) < int(real) < 0x7FFF0000:
            raise _cut_off(name)
    return mono


def _by_pyav(file: BinaryIO, name: str) -> tuple[np.ndarray, float]:
    try:
        with av.open(file, "r") as container:
            if not container.streams.audio:
                raise BadItem(f"{name} has no sound; give a recording, or a video with sound")
            stream = container.streams.audio[0]
            planar = av.AudioResampler(format="fltp")
            frames = (part for frame in container.decode(stream) for part in planar.resample(frame))
            blocks = [frame.to_ndarray().mean(axis=0) for frame in frames]
            rate, stated = stream.rate, _stated_seconds(container, stream)
    except av.error.FFmpegError as error:
        raise BadItem(f"{name} is not a sound file, or is damaged; convert it to WAV or FLAC") from error
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    # A codec's delay (two frames of AAC are 0.26 s at 8 kHz) counts in some headers.
    if len(mono) < (0.95 * stated - 0.3) * rate:
        raise _cut_off(name)
    return mono, rate


def _stated_seconds(container: Any, stream: Any) -> float:
    """The length that the header states, 0 where it states none or an estimate."""
    if not re.search("mov|matroska", container.format.name):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / av.time_base if alone else 0.0


def _ogg_is_cut_off(file: BinaryIO) -> bool:
    """Whether it is Ogg without a whole last page that is marked as the last; decoders take it without a word.

    A page (RFC 3533) has its flags in byte 5, the number of its segments in byte 26, then their sizes, then the data.
    """
    is_ogg = file.read(4) == b"OggS"
    end = file.seek(0, 2)
    file.seek(max(0, end - 65_536))  # a page is at most 65,307 bytes
    tail = file.read() if is_ogg else b""
    file.seek(0)
    page = tail[tail.rfind(b"OggS") :]
    if not is_ogg or len(page) < 27:
        return is_ogg
    segments = page[26]
    return not page[5] & 4 or len(page) < 27 + segments + sum(page[27 : 27 + segments])


def _cut_off(name: str) -> BadItem:
    return BadItem(f"{name} is damaged or cut off; copy it again from its source")


@register_tokenizer("audio")
class AudioTokenizer(Tokenizer):
    """A small stem for each patch of the spectrogram (see `Stem`); of published models, convolutions over Whisper's
    frames (see `ConvStem`), class tokens and learned positions too."""

    Processor = AudioProcessor
    needs = ("grids", "dtype")

    def __init__(self, processor: AudioProcessor, dim: int):
        super().__init__(processor, dim)
        p = processor
        if isinstance(p.spectrogram, LogMel):
            self.stem: nn.Module = ConvStem(p.spectrogram.frames, p.mels, dim)
        else:
            self.stem = Stem(p.patch_frames, p.patch_mels or p.mels, 1, dim, p.merges)
        self.bands = p.bands
        self.positions = PositionEmbedding(p.positions, dim) if p.positions else None
        self.encoder = Backbone(BackboneConfig(dim, p.depth, heads=heads_for(dim, HEAD))) if p.depth else None
        self.project = Linear(dim, dim) if p.depth else nn.Identity()

    def forward(
        self,
        values: Tensor,
        counts: list[int],
        grids: list[Grid] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        x = self.stem(values)
        if self.encoder is not None and counts:
            places = [patch_positions(count, self.bands) for count in counts]
            x = torch.cat(self.encoder(Tokens.from_list(x.to(dtype).split(counts), positions=places)).to_list())
            x = self.project(x)
        return x if self.positions is None else self.positions(x, grids or [])
