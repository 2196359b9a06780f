"""One scene under every stage, as a strip of pictures (PNG) and as a moving picture (GIF)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.errors import bad_value

U8 = NDArray[np.uint8]

_GAP, _LABEL, _HEAD = 6, 104, 24
_INK, _PAPER, _ACCENT = (40, 40, 40), (255, 255, 255), (0, 140, 80)


def write_film_strip(
    path: Path,
    goal: U8,
    stages: Sequence[str],
    frames: U8,
    steps: Sequence[int],
    iou: NDArray[np.floating] | None = None,
    columns: int = 7,
) -> Path:
    """One row per stage, time to the right, the desired image at the right end of each row.

    Args:
        path: PNG to write.
        goal: (H, W, 3) desired image.
        stages: S names.
        frames: (S, F, H, W, 3) what the camera saw.
        steps: F step numbers.
        iou: (S, F), written into the pictures where given.
        columns: pictures per row at most; first and last are always among them.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check(goal, stages, frames, steps, iou)
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(columns, len(steps))).round().astype(int))
    height, width = goal.shape[:2]
    across = _LABEL + (len(chosen) + 1) * (width + _GAP) + 2 * _GAP
    sheet = Image.new("RGB", (across, _HEAD + len(stages) * (height + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, f in enumerate(chosen):
        draw.text((_LABEL + k * (width + _GAP), 4), f"step {steps[f]}", _INK, _font(13))
    goal_x = _LABEL + len(chosen) * (width + _GAP) + _GAP
    draw.text((goal_x, 4), "desired", _ACCENT, _font(13))
    for s, name in enumerate(stages):
        top = _HEAD + s * (height + _GAP)
        draw.text((_GAP, top + height / 2), name, _INK, _font(14), anchor="lm")
        for k, f in enumerate(chosen):
            value = None if iou is None else float(iou[s, f])
            sheet.paste(_picture(frames[s, f], value), (_LABEL + k * (width + _GAP), top))
        sheet.paste(_picture(goal, None, framed=True), (goal_x, top))
    sheet.save(path)
    return path


def write_film_gif(
    path: Path,
    goal: U8,
    stages: Sequence[str],
    frames: U8,
    steps: Sequence[int],
    iou: NDArray[np.floating] | None = None,
    frame_ms: int = 120,
) -> Path:
    """All stages side by side beside the desired image, moving; the last picture is held for a moment.

    Args:
        path: GIF to write; it repeats for ever.
        goal: (H, W, 3) desired image.
        stages: S names.
        frames: (S, F, H, W, 3) what the camera saw.
        steps: F step numbers.
        iou: (S, F), written into the pictures where given.
        frame_ms: time each picture is shown [ms].

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check(goal, stages, frames, steps, iou)
    height, width = goal.shape[:2]
    tiles = len(stages) + 1
    columns = tiles if tiles <= 5 else -(-tiles // 2)
    rows = -(-tiles // columns)
    size = (columns * (width + _GAP) + _GAP, rows * (height + _HEAD) + _GAP)
    pictures = []
    for f in range(len(steps)):
        sheet = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(sheet)
        for i in range(tiles):
            x, y = _GAP + (i % columns) * (width + _GAP), _HEAD + (i // columns) * (height + _HEAD)
            if i == 0:
                draw.text((x, y - 20), "desired", _ACCENT, _font(14))
                draw.text((x + width, y - 19), f"step {steps[f]}", _INK, _font(12), anchor="ra")
                sheet.paste(_picture(goal, None, framed=True), (x, y))
            else:
                draw.text((x, y - 20), stages[i - 1], _INK, _font(14))
                sheet.paste(_picture(frames[i - 1, f], None if iou is None else float(iou[i - 1, f])), (x, y))
        pictures.append(sheet)
    # One palette for the whole film, taken from a sheet of its first and last pictures: colours do not flicker.
    sample = Image.new("RGB", (size[0], 2 * size[1]))
    sample.paste(pictures[0], (0, 0))
    sample.paste(pictures[-1], (0, size[1]))
    palette = sample.quantize(255, method=Image.Quantize.MEDIANCUT)
    film = [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]
    durations = [frame_ms] * (len(film) - 1) + [12 * frame_ms]
    film[0].save(path, save_all=True, append_images=film[1:], duration=durations, loop=0)
    return path


def _picture(rgb: U8, iou: float | None, framed: bool = False) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    draw = ImageDraw.Draw(picture)
    if framed:
        draw.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_ACCENT, width=2)
    if iou is not None:
        text, font = f"IoU {iou:.2f}", _font(max(9, picture.height // 12))
        box = draw.textbbox((0, 0), text, font)
        at = (4, picture.height - box[3] - 4)
        draw.rectangle((at[0] - 3, at[1] - 1, at[0] + box[2] + 3, at[1] + box[3] + 2), fill=(0, 0, 0))
        draw.text(at, text, (255, 255, 255), font)
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _check(goal: U8, stages: Sequence[str], frames: U8, steps: Sequence[int], iou: NDArray[np.floating] | None) -> None:
    wanted = (len(stages), len(steps), *goal.shape)
    if not stages or not len(steps) or goal.ndim != 3 or frames.shape != wanted:
        raise ValueError(bad_value("shape of frames", frames.shape, f"(stages, steps, *goal.shape) = {wanted}"))
    if iou is not None and iou.shape != wanted[:2]:
        raise ValueError(bad_value("shape of iou", iou.shape, f"(stages, steps) = {wanted[:2]}"))
