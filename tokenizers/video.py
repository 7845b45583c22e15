"""Video: frames spread evenly over a clip, cut into tubelets at the picture's own aspect ratio."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from einops import rearrange
from PIL import Image
from torch import Tensor

from unitx.errors import BadItem, UnitxError
from unitx.media import check_whole, describe, open_binary
from unitx.positions import Grid, LearnedPositions, PositionEmbedding
from unitx.registry import register_tokenizer
from unitx.resize import Resize, to_tensor
from unitx.stem import Stem
from unitx.tokenizer import Tokenizer
from unitx.tokenizers.image import SIDE_LIMIT, ImageProcessor, patch_grid, to_rgb
from unitx.tokens import Pieces

PICTURES = ImageProcessor(resize=Resize())  # reads pictures given one by one, none of them reduced
SHOWN = 4  # frames in the picture of a video


@dataclass(frozen=True)
class VideoProcessor(ImageProcessor):
    """Turns videos into tubelets, which are patches of a few frames (ViViT, Arnab et al. 2021).

    The clip is divided into `frames` parts of equal time, and the frame in the middle of each is taken (TSN, Wang et
    al. 2016): the whole of a video is seen whatever its length and frame rate, and a short one gives frames twice. The
    frames are scaled, up or down, to fill `max_tokens` tubelets at their own aspect ratio.

    Attributes:
        max_tokens: the most tubelets that a video becomes.
        patch: side of a tubelet in pixels.
        merges, orientations, mean, std, resize, positions: as for pictures.
        frames: taken from a video.
        tubelet: frames of a tubelet.

    Raises:
        UnitxError: an option is out of range.
    """

    frames: int = 8
    tubelet: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "frames", "tubelet")
        if self.frames % self.tubelet and self.resize is None:  # a published model leaves the rest
            raise UnitxError(f"VideoProcessor: frames {self.frames} must be a multiple of tubelet {self.tubelet}")
        if self.frames // self.tubelet > self.max_tokens:
            raise UnitxError(f"VideoProcessor: {self.frames // self.tubelet} tubelets in time must fit in max_tokens")

    @property
    def width(self) -> int:
        return self.tubelet * super().width

    def shown(self, values: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
        """At most `SHOWN` of the frames, evenly spread, side by side (height, width, 3), with white between them."""
        frames = rearrange(values, "(t n) (pixel u c) -> (t u) n (pixel c)", t=grid[0], u=self.tubelet, c=3)
        places, picture = _spread(range(len(frames)), len(frames), min(SHOWN, len(frames))), super().shown
        pictures = [np.pad(picture(frames[i], grid), ((0, 0), (0, 2), (0, 0)), constant_values=1) for i in places]
        return np.concatenate(pictures, axis=1)[:, :-2]

    def read(self, item: Any) -> Tensor:  # type: ignore[override]  # of a picture it is a picture
        """Decode a path, bytes or a file object (also an animated GIF or PNG), an array, or a list of pictures.

        An array or tensor is (frames, height, width, 3) uint8, a tensor also (frames, 3, height, width). The pictures
        of a list are what `ImageProcessor.read` takes; frames of other sizes are scaled to the first one's. A float
        tensor (frames, 3, height, width) holds pixel values already normalised and passes as it is.

        Returns: (frames, 3, height, width) uint8, upright, transparency on white, large frames reduced, but not below
        twice the size that is needed; or the float tensor.

        Raises:
            BadItem: it is missing, empty, cut off, no video, without a frame, or has 0 or from 100,000 pixels a side.
        """
        if isinstance(item, Tensor) and item.is_floating_point():
            return _pixel_values(item)
        if isinstance(item, Tensor | np.ndarray):
            return self._reduced(_from_array(item, self.frames))
        if isinstance(item, list | tuple):
            if not item:
                raise BadItem("a video of no pictures; give at least one")
            found = [self._reduced(_picture(item[i])) for i in _spread(range(len(item)), len(item), self.frames)]
        else:
            with open_binary(item) as file:
                found = self._sampled(file, describe(item))
        same = Resize(tuple(found[0].shape[-2:]))
        return torch.stack([same.frames(frame) for frame in found])

    def _sampled(self, file: BinaryIO, name: str) -> list[Tensor]:
        timeline = _timeline(file, name)
        places = _spread(timeline.shown, timeline.end, self.frames)
        wanted = sorted({timeline.shown[place] for place in places})
        found = {time: self._reduced(frame) for time, frame in _decoded(file, name, wanted, timeline)}
        return [found[timeline.shown[place]] for place in places]

    def _reduced(self, frames: Tensor) -> Tensor:
        """(…, 3, height, width) uint8, scaled at once, so that few large frames stand in memory."""
        if self.resize is not None:  # which leaves alone what has its size
            return replace(self.resize, crop=()).frames(frames)
        height, width = frames.shape[-2:]
        rows, columns = self._grid(height, width)
        factor = min(height // (2 * rows * self.patch), width // (2 * columns * self.patch))
        size = (height // factor, width // factor) if factor > 1 else (height, width)
        return Resize(size).frames(frames)

    def with_positions(self) -> VideoProcessor:
        times = self.frames // self.tubelet
        side = max(1, round((self.max_tokens // times) ** 0.5))
        return replace(self, positions=self.positions or LearnedPositions((times, side, side)))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tubelets."""
        return patch_grid(height, width, self.max_tokens // (self.frames // self.tubelet))

    def features(self, raw: Tensor) -> np.ndarray:  # type: ignore[override]
        """(frames, 3, h, w) float32 normalised pixels: h and w whole patches, frames whole tubelets."""
        if raw.is_floating_point():
            pixels = self._fit(raw)
        elif self.resize is not None:
            pixels = self._whole_patches(self._normalised(self.resize.frames(raw)))
        else:
            rows, columns = self._grid(*raw.shape[-2:])
            size = (rows * self.patch, columns * self.patch)
            pixels = self._normalised(Resize(size, resample="bicubic").frames(raw))
        return self._whole_tubelets(pixels).numpy()

    def _whole_tubelets(self, pixels: Tensor) -> Tensor:
        """Without the frames left over at the end; as many tubelets as a published model has positions for."""
        grid = self._grid_of(pixels.shape)
        if not grid[0]:
            raise BadItem(f"a clip of {len(pixels)} frames has no whole tubelet: give at least {self.tubelet}")
        if self.resize is not None and self.positions is not None and grid != self.positions.grid:
            t, rows, columns = self.positions.grid
            given = f"{len(pixels)} frames of {pixels.shape[3]} x {pixels.shape[2]} pixels"
            wanted = f"{t * self.tubelet} frames of {columns * self.patch} x {rows * self.patch} pixels"
            raise BadItem(f"a clip of {given}: give {wanted}")
        return pixels[: grid[0] * self.tubelet]

    def _grid_of(self, shape: tuple[int, ...]) -> Grid:
        """Whole tubelets along time, height and width of pixels (frames, 3, height, width)."""
        return shape[0] // self.tubelet, shape[2] // self.patch, shape[3] // self.patch

    def _fit(self, pixels: Tensor) -> Tensor:
        if self.resize is not None:
            return self._whole_patches(pixels)
        count, _, height, width = pixels.shape
        whole = height % self.patch == 0 and width % self.patch == 0
        if whole and count // self.tubelet * height * width <= self.max_tokens * self.patch**2:
            return pixels
        rows, columns = self._grid(height, width)
        pixels = pixels[_spread(range(count), count, self.frames)]
        return F.interpolate(pixels, (rows * self.patch, columns * self.patch), mode="bicubic", antialias=True)

    def cut(self, features: np.ndarray, rng: np.random.Generator | None = None) -> Pieces:
        """All tubelets in order of time, row and column, which are their positions; class tokens at (0, 0, 0)."""
        values = rearrange(
            features, "(t u) c (row p) (column q) -> (t row column) (p q u c)",
            u=self.tubelet, p=self.patch, q=self.patch,
        )  # fmt: skip
        grid = self._grid_of(features.shape)
        positions = np.stack(np.unravel_index(np.arange(len(values)), grid), axis=1)
        if self.positions is not None:
            positions = self.positions.behind_class_tokens(positions)
        return Pieces(np.ascontiguousarray(values), positions, grid=grid)


def _spread(shown: Sequence[int], end: int, count: int) -> list[int]:
    """Which frames are shown in the middle of `count` parts of equal time; frame i is shown from shown[i] on."""
    middles = shown[0] + (np.arange(count) + 0.5) * (end - shown[0]) / count
    return (np.searchsorted(shown, middles, side="right") - 1).tolist()


class Timeline(NamedTuple):
    """When the frames of a file are shown, in the time base of the stream, or by their numbers where nothing says when.

    Attributes:
        shown: of each frame, ascending.
        end: of the last one.
        keys: times that can be sought, ascending; of frames that are decoded without those before them.
        numbered: whether times are numbers of frames.
    """

    shown: list[int]
    end: int
    keys: list[int]
    numbered: bool


def _timeline(file: BinaryIO, name: str) -> Timeline:
    """Read off the packets, nothing is decoded."""
    lasting: dict[int | None, int] = {}  # when a frame is shown → how long
    keys: list[int] = []
    count, reached = 0, 0.0
    with _opened(file, name) as (container, stream):
        for packet in container.demux():
            time = packet.dts if packet.pts is None else packet.pts
            if not packet.size:  # an end mark
                continue
            if time is not None and packet.time_base is not None:
                reached = max(reached, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index == stream.index and not packet.is_discard:
                count += 1
                lasting[packet.pts] = packet.duration or 0
                keys += [packet.pts] if packet.is_keyframe and packet.pts is not None else []
        sought = bool(re.search("mov|matroska", container.format.name))
        says_length = sought or container.format.name == "flv"
        untimed = container.format.name == "avi"  # holds no times, and frames that wait for later ones get wrong ones
        begin, stated = ((value or 0) / av.time_base for value in (container.start_time, container.duration))
    if not count:
        raise BadItem(f"{name} holds no frames; remove it, or record it again")
    if (says_length and reached - begin < 0.95 * stated - 0.3) or (untimed and _is_cut(file)):
        raise BadItem(f"{name} is damaged or cut off; copy it again from its source")
    shown = sorted(time for time in lasting if time is not None)
    if untimed or not shown:
        return Timeline(list(range(count)), count, [0], True)
    # What its packet says of the frame shown last holds where that is the last of the file, for MP4 counts to the next
    # one in it; else it lasts as long as the others.
    said = lasting[shown[-1]] if shown[-1] == next(reversed(lasting)) else 0
    last = said or (int(np.median(np.diff(shown))) if len(shown) > 1 else 1)
    sought_keys = [time for time in sorted(keys) if sought and time > shown[0]]
    return Timeline(shown, shown[-1] + last, [shown[0], *sought_keys], False)


def _is_cut(file: BinaryIO) -> bool:
    """Whether an AVI's file is shorter than its header says; one that was never finished says nothing."""
    file.seek(0)
    stated = int.from_bytes(file.read(8)[4:], "little")
    return stated != 0xFFFFFFFF and file.seek(0, 2) < stated + 8


def _decoded(file: BinaryIO, name: str, wanted: list[int], timeline: Timeline) -> Iterator[tuple[int, Tensor]]:
    """The frames (3, height, width) at some times, ascending; what lies between them is passed over where it can be.

    A frame that is missing is the next one, or the last.
    """
    keys = np.array(timeline.keys)
    with _opened(file, name) as (container, stream):
        for key, group in groupby(wanted, lambda time: max(int(np.searchsorted(keys, time, side="right")) - 1, 0)):
            waiting = list(group)
            if key:
                container.seek(timeline.keys[key], stream=stream)
            frame = None
            for number, frame in enumerate(container.decode(stream)):
                time = number if timeline.numbered else frame.pts
                while waiting and time is not None and waiting[0] <= time:
                    yield waiting.pop(0), _upright(frame)
                if not waiting:
                    break
            if waiting and frame is None:
                raise BadItem(f"{name} holds no frames that can be decoded; copy it again from its source")
            yield from ((time, _upright(frame)) for time in waiting)


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[tuple[Any, Any]]:
    """The container, and its first stream of pictures that is no cover."""
    file.seek(0)
    no_video = BadItem(f"{name} is not a video file, or is damaged; convert it to MP4")
    try:
        with av.open(file, "r") as container:
            if container.format.name == "tty":  # any text file, drawn as a terminal would
                raise no_video
            streams = [
                one for one in container.streams.video
                if one.codec_context and not one.disposition & Disposition.attached_pic
            ]  # fmt: skip
            if not streams:
                raise BadItem(f"{name} has no pictures that can be decoded; give a video, or read it as audio")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise no_video from error


def _upright(frame: Any) -> Tensor:
    """(3, height, width) uint8, turned as the file says."""
    if any(part.is_alpha for part in frame.format.components):
        pixels = np.asarray(to_rgb(Image.fromarray(frame.to_ndarray(format="rgba"))))
    else:
        pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is not None:  # 3 x 3 fixed-point numbers; x and y of a shown pixel are (a x + c y, b x + d y)
        a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _picture(item: Any) -> Tensor:
    picture = PICTURES.read(item)
    if isinstance(picture, Tensor):
        raise BadItem(f"a list of {describe(item)}; give normalised pixels as one tensor (frames, 3, height, width)")
    return to_tensor(picture)


def _from_array(array: np.ndarray | Tensor, count: int) -> Tensor:
    """(count, 3, height, width) uint8, spread evenly over its frames."""
    name, last = describe(array), array.ndim == 4 and array.shape[3] == 3
    if array.ndim != 4 or not (last or (isinstance(array, Tensor) and array.shape[1] == 3)):
        raise BadItem(f"{name} is not a video; an array is (frames, height, width, 3)")
    if array.dtype not in (np.uint8, torch.uint8):
        raise BadItem(f"{name}: samples of a video must be uint8; scale them to 0 to 255")
    _check_shape((len(array), *(array.shape[1:3] if last else array.shape[2:])), name)
    frames = torch.as_tensor(array[_spread(range(len(array)), len(array), count)]).cpu()
    return frames.permute(0, 3, 1, 2) if last else frames


def _pixel_values(tensor: Tensor) -> Tensor:
    name = describe(tensor)
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise BadItem(f"{name} is not a video; a float tensor is (frames, 3, height, width), normalised")
    _check_shape((len(tensor), *tensor.shape[2:]), name)
    if not tensor.isfinite().all():
        raise BadItem(f"{name} holds NaN or infinity; look at how it was normalised")
    return tensor.detach().float().cpu()


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    count, height, width = shape
    if not count or min(height, width) < 1 or max(height, width) >= SIDE_LIMIT:
        size = f"{count} frames of {width} x {height} pixels"
        raise BadItem(f"{name}: {size}; give at least one frame, of 1 to {SIDE_LIMIT - 1:,} pixels a side")


@register_tokenizer("video")
class VideoTokenizer(Tokenizer):
    """A small stem for each tubelet, whose frames are channels of a pixel (see `Stem`); of published models, class
    tokens and learned positions too."""

    Processor = VideoProcessor
    needs = ("grids",)

    def __init__(self, processor: VideoProcessor, dim: int):
        super().__init__(processor, dim)
        channels = 3 * processor.tubelet
        self.stem = Stem(processor.patch, processor.patch, channels, dim, processor.merges, processor.orientations)
        self.positions = PositionEmbedding(processor.positions, dim) if processor.positions else None

    def forward(self, values: Tensor, counts: list[int], grids: list[Grid] | None = None) -> Tensor:
        x = self.stem(values)
        return x if self.positions is None else self.positions(x, grids or [])
