"""What the modalities share in taking items: which medium an item is, its name in messages, opening and cropping it.

Arrays, tensors and pictures are known by their shape and class: what decodes media is imported where it opens one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from unitx.errors import BadItem, UnitxError

if TYPE_CHECKING:
    import numpy as np


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


# What no decoder here reads (HEIC, SVG) is listed too: such a file gets a clear error and is not taken for text.
IMAGE_SUFFIXES = _suffixes(
    "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff ppm pgm pbm pnm tga ico jp2 j2k avif heic heif svg"
)
AUDIO_SUFFIXES = _suffixes("wav wave flac ogg oga opus mp3 mp2 m4a m4b aac wma aif aiff aifc au caf w64 amr ac3")
VIDEO_SUFFIXES = _suffixes("mp4 m4v mkv webm mov avi mpg mpeg ogv wmv flv 3gp")
TEXT_SUFFIXES = _suffixes("txt text md rst tex py c h cpp hpp java js ts go rs rb sh html css")
SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES, "video": VIDEO_SUFFIXES, "text": TEXT_SUFFIXES}
MEDIA = ("image", "audio", "video")  # modalities whose items are files
DECODERS = 4  # threads that decode files at once: decoders let go of Python's lock


def suffix_modality(path: str | Path) -> str | None:
    """The modality that a path's suffix stands for, whether or not the file exists; None for an unknown suffix."""
    suffix = os.path.splitext(path)[1].lower()
    return next((modality for modality, suffixes in SUFFIXES.items() if suffix in suffixes), None)


def is_missing_file(item: Any, spaces: bool = False) -> bool:
    """Whether a string looks like the path of a picture, sound, video or .txt file, and there is no such file.

    One with spaces in it may as well be a text: it counts where `spaces` says so. So may "node.js", which never does.
    """
    named = isinstance(item, str) and (suffix_modality(item) in MEDIA or item.lower().endswith(".txt"))
    named = named and (spaces or not any(c.isspace() for c in item))
    return named and not os.path.exists(os.path.expanduser(item))


def picture_size(item: Any) -> tuple[int, int]:
    """The width and height of a picture, upright, in pixels; nothing is decoded.

    Raises:
        BadItem: it is missing or no picture.
    """
    from PIL import Image

    if hasattr(item, "shape"):  # an array (height, width, channels), a tensor (channels, height, width)
        height, width = item.shape[:2] if not is_tensor(item) else item.shape[-2:]
        return int(width), int(height)
    if isinstance(item, Image.Image):
        return _upright_size(item)
    with open_binary(item) as file:
        try:
            with Image.open(file) as image:
                return _upright_size(image)
        except Exception as error:  # decoders raise what they like on broken headers
            what = f"{describe(item)} is not a picture that Pillow can read"
            raise BadItem(f"{what}; convert it to PNG or JPEG") from error


def _upright_size(image: Any) -> tuple[int, int]:
    # EXIF's orientation; of TIFF Pillow heeds it by itself.
    turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) >= 5
    return image.size[::-1] if turned else image.size


def sound_seconds(item: Any) -> float:
    """How long a recording is, a file's by its header; infinity where that does not say. Nothing is decoded.

    Raises:
        BadItem: it is missing, or nothing that can be opened.
    """
    import av
    import numpy as np
    import soundfile

    if isinstance(item, tuple | list) and len(item) == 2:
        rate = item[1]  # of one that is none, reading it will tell
        per_second = float(rate) if isinstance(rate, Real) else 0.0
        return max(np.shape(item[0]), default=0) / per_second if per_second > 0 else float("inf")
    with open_binary(item) as file:
        try:
            return soundfile.info(file).duration
        except (soundfile.LibsndfileError, TypeError):  # the latter of a file without a header (.raw)
            file.seek(0)
        try:
            with av.open(file, "r") as container:
                return container.duration / av.time_base if container.duration else float("inf")
        except av.error.FFmpegError as error:
            raise BadItem(f"{describe(item)} is not a sound file; convert it to WAV or FLAC") from error


def named_file(item: Any) -> Any:
    """A string that names an existing file of a known suffix as a `Path`, so that a text file is opened as others are;
    anything else as it is. "~" is the user's home."""
    if not isinstance(item, str) or not suffix_modality(item):
        return item
    path = os.path.expanduser(item)
    return Path(path) if os.path.isfile(path) else item


def modality_of(item: Any) -> str | None:
    """The modality of an item when the user did not say; None if it can't be told.

    A PIL image, an array (height, width, 1|3|4), a uint8 array (height, width) and a tensor (3, height, width) are
    images, a list of PIL images, an array (frames, height, width, 3) and a tensor that has a fourth axis too are video,
    a tuple (waveform, rate) is audio, a string that names an existing file with a media suffix is that medium, any
    other string is text, and a `Path` is what its suffix says. Bytes, file objects and bare waveforms are None.
    """
    item = named_file(item)
    if isinstance(item, Path):
        return suffix_modality(item)
    if isinstance(item, str):
        return "text"
    if _is_picture(item):
        return "image"
    if isinstance(item, list | tuple) and item and all(map(_is_picture, item)):
        return "video"
    if isinstance(item, tuple) and len(item) == 2 and _is_array(item[0]) and not _is_array(item[1]):
        return "audio"
    if not _is_array(item):
        return None
    shape = tuple(item.shape)
    if len(shape) == 4:
        return "video" if shape[3] == 3 or (is_tensor(item) and shape[1] == 3) else None
    if is_tensor(item):
        return "image" if len(shape) == 3 and shape[0] == 3 else None
    is_image = (len(shape) == 3 and shape[2] in (1, 3, 4)) or (len(shape) == 2 and str(item.dtype) == "uint8")
    return "image" if is_image else None


def describe(item: Any) -> str:
    """A short name of any item, on one line, for messages: a path, or what kind of thing it is and how large."""
    if isinstance(item, Path) or (isinstance(item, str) and len(item) < 1000 and suffix_modality(item)):
        return str(item).replace("\n", " ")
    if isinstance(item, str):
        return f"text {item if len(item) <= 30 else item[:30] + '…'!r}"
    if isinstance(item, bytes | bytearray | memoryview):
        return f"bytes of length {len(item)}"
    if _is_picture(item):
        return f"PIL image {item.width}x{item.height} {item.mode}"
    if _is_array(item):
        kind = "tensor" if is_tensor(item) else "array"
        return f"{kind} {tuple(item.shape)} {str(item.dtype).removeprefix('torch.')}"
    if isinstance(item, tuple) and len(item) == 2 and _is_array(item[0]):
        return f"{describe(item[0])} at {item[1]} Hz"
    if isinstance(item, list | tuple) and item and _is_picture(item[0]):
        return f"list of {len(item)}, the first a {describe(item[0])}"
    if hasattr(item, "read"):
        return f"file {getattr(item, 'name', 'object')}"
    return f"{type(item).__name__} {' '.join(repr(item).split())[:30]}"


def is_tensor(item: Any) -> bool:
    """Whether it is a torch tensor (an item of a module that was never imported can't be)."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(item, torch.Tensor)


def _is_array(item: Any) -> bool:
    return hasattr(item, "shape") and hasattr(item, "dtype") and len(item.shape) > 0


def _is_picture(item: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(item, pillow.Image)


@contextmanager
def open_binary(item: Any) -> Iterator[BinaryIO]:
    """A path, bytes or a binary file object as a seekable file that stands at its beginning.

    Raises:
        BadItem: it is none of these, or is missing, unreadable or empty.
    """
    if isinstance(item, str | Path):
        file = _open(item)
    elif isinstance(item, bytes | bytearray | memoryview):
        file = BytesIO(item)
    elif hasattr(item, "read"):
        file = item if getattr(item, "seekable", lambda: False)() else BytesIO(_read_all(item))
    else:
        raise BadItem(f"{describe(item)} cannot be read; give a path, bytes or a file opened in binary mode")
    try:
        yield _at_start(file, item)
    finally:
        if file is not item:
            file.close()


def _open(path: str | Path) -> BinaryIO:
    try:
        return open(Path(path).expanduser(), "rb")
    except FileNotFoundError as error:
        raise BadItem(f"{describe(path)}: there is no such file; check the path and the current folder") from error
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, a home that is not known
        reason = getattr(error, "strerror", None) or str(error)
        raise BadItem(f"{describe(path)} cannot be opened ({reason}); give a file that can be read") from error


def _read_all(item: Any) -> bytes:
    data = item.read()
    if not isinstance(data, bytes):
        raise BadItem(f"{describe(item)} is open as text; open it in binary mode ('rb')")
    return data


def _at_start(file: Any, item: Any) -> BinaryIO:
    file.seek(0)
    first = file.read(1)
    if isinstance(first, str):
        raise BadItem(f"{describe(item)} is open as text; open it in binary mode ('rb')")
    if not first:
        raise BadItem(f"{describe(item)} is empty; remove it, or copy it again from its source")
    file.seek(0)
    return file


def crop(length: int, room: int, rng: np.random.Generator | None) -> slice:
    """Which part of something of `length` to keep in `room`: one chosen by `rng`, the beginning without it."""
    spare = length - room
    start = int(rng.integers(spare + 1)) if rng is not None and spare > 0 else 0
    return slice(start, start + room)


def check_whole(options: Any, *names: str, least: int = 1) -> None:
    """Check that the named fields of a processor are whole numbers, not below `least`.

    Raises:
        UnitxError: one is not; names it.
    """
    for name in names:
        value = getattr(options, name)
        if not isinstance(value, int) or value < least:
            raise UnitxError(f"{type(options).__name__}: {name} must be a whole number, {least} or more, not {value!r}")
