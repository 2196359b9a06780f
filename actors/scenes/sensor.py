"""What a camera does to a rendered picture: occluders, blur, exposure, colour and noise.

Siame-se(3) (III-A) trains with changes of light and with occlusions so that a network trained on rendered pictures
works on real ones; it gives no numbers, the strengths below are ours. Only colours change. Occluders hide the scene
from a policy, not from the expert: instance ids and depth go on showing what is behind them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from common.errors import ConfigError, SceneError, bad_value
from common.protocols import F32, U8
from common.rng import Purpose, philox
from common.scene import Occluder, Sensor

Strength = Literal["none", "mild", "strong"]

LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue, ITU-R BT.601
PERFECT = Sensor()
_LARGEST_BLUR = 0.25  # image heights; wider than that nothing is left of a picture
_LARGEST_FACTOR = 100.0


@dataclasses.dataclass(frozen=True)
class SensorRange:
    """What sensors are drawn from.

    Attributes:
        occluders: most patches; their number is uniform from 0.
        size: of a patch's half width and half height [image heights].
        blur: largest standard deviation [image heights].
        exposure, contrast, saturation, white_balance: a factor is exp(U(-x, x)), so that x is about its change.
        noise: largest standard deviation [0..1].
    """

    occluders: int
    size: tuple[float, float]
    blur: float
    exposure: float
    contrast: float
    saturation: float
    white_balance: float
    noise: float


RANGES = {
    "mild": SensorRange(1, (0.03, 0.08), 0.006, 0.2, 0.1, 0.15, 0.05, 0.015),
    "strong": SensorRange(3, (0.04, 0.15), 0.015, 0.45, 0.25, 0.4, 0.12, 0.04),
}


def sample_sensor(rng: np.random.Generator, strength: str) -> Sensor:
    """Draw a sensor, in numbers of few digits (equal on every machine).

    Args:
        rng: stream of this draw alone.
        strength: "none" (a perfect sensor; nothing is drawn), "mild" or "strong".

    Raises:
        ConfigError: if the strength is unknown.
    """
    if strength not in get_args(Strength):
        raise ConfigError(bad_value("scenes.sensor", strength, f"one of {get_args(Strength)}"))
    if strength == "none":
        return PERFECT
    span = RANGES[strength]
    occluders = tuple(_patch(rng, span.size) for _ in range(int(rng.integers(span.occluders + 1))))
    return Sensor(
        occluders=occluders,
        blur=_few(rng.uniform(0.0, span.blur)),
        exposure=_factor(rng, span.exposure),
        contrast=_factor(rng, span.contrast),
        saturation=_factor(rng, span.saturation),
        white_balance=(
            _factor(rng, span.white_balance),
            _factor(rng, span.white_balance),
            _factor(rng, span.white_balance),
        ),
        noise=_few(rng.uniform(0.0, span.noise)),
    )


def check_sensor(sensor: Sensor) -> None:
    """Check a sensor's numbers.

    Raises:
        SceneError: naming the first number that is out of bounds.
    """
    for name in ("exposure", "contrast", "saturation"):
        _within(f"sensor.{name}", getattr(sensor, name), 0.0, _LARGEST_FACTOR)
    for i, value in enumerate(sensor.white_balance):
        _within(f"sensor.white_balance[{i}]", value, 0.0, _LARGEST_FACTOR)
    _within("sensor.blur", sensor.blur, 0.0, _LARGEST_BLUR)
    _within("sensor.noise", sensor.noise, 0.0, 1.0)
    for i, patch in enumerate(sensor.occluders):
        where = f"sensor.occluders[{i}]"
        if patch.kind not in ("rectangle", "ellipse"):
            raise SceneError(bad_value(f"{where}.kind", patch.kind, "one of ('rectangle', 'ellipse')"))
        for k in range(2):
            _within(f"{where}.center[{k}]", patch.center[k], -10.0, 10.0)
            _within(f"{where}.size[{k}]", patch.size[k], 1e-6, 10.0)
        _within(f"{where}.angle", patch.angle, -100.0, 100.0)
        for k, value in enumerate(patch.color):
            _within(f"{where}.color[{k}]", value, 0.0, 1.0)


def apply_sensor(rgb: U8, sensors: Sequence[Sensor], seeds: Sequence[int], frame_ids: Sequence[int]) -> U8:
    """Pictures as their sensors give them, in the order that `common.scene.Sensor` states.

    Colour is contrast, then saturation, then white balance. Values are clipped to 0..1 once, at the end. Everything but
    the noise looks the same at every resolution; the noise is a function of its picture's seed and frame id.

    Args:
        rgb: u8 (N, H, W, 3).
        sensors: (N,) checked sensors.
        seeds: (N,) non-negative; keys of the noise.
        frame_ids: (N,) non-negative; which picture of its seed this is.

    Returns:
        u8 (N, H, W, 3); `rgb` itself if all sensors are perfect, else a new array.
    """
    if not len(rgb) == len(sensors) == len(seeds) == len(frame_ids):
        lengths = (len(sensors), len(seeds), len(frame_ids))
        raise ValueError(f"len(sensors), len(seeds), len(frame_ids) = {lengths}: allowed is len(rgb) = {len(rgb)}")
    changed = [i for i, s in enumerate(sensors) if s != PERFECT]
    if not changed:
        return rgb
    chosen = [sensors[i] for i in changed]
    image = rgb[changed].astype(np.float32) / np.float32(255.0)
    for i, sensor in enumerate(chosen):
        _occlude(image[i], sensor.occluders)
        if sensor.blur > 0.0:
            # Here, for it is slow to import, and a collector that was lost is soon to be replaced.
            from scipy.ndimage import gaussian_filter

            sigma = sensor.blur * image.shape[1]
            image[i] = gaussian_filter(image[i], (sigma, sigma, 0.0), mode="nearest")
    image *= _column(chosen, "exposure")
    image = 0.5 + (image - 0.5) * _column(chosen, "contrast")
    grey = (image @ np.array(LUMA, dtype=np.float32))[..., None]
    image = grey + (image - grey) * _column(chosen, "saturation")
    image *= np.array([s.white_balance for s in chosen], dtype=np.float32)[:, None, None, :]
    for i, sensor in enumerate(chosen):
        if sensor.noise > 0.0:
            rng = philox(int(seeds[changed[i]]), Purpose.SENSOR, step=int(frame_ids[changed[i]]))
            image[i] += np.float32(sensor.noise) * rng.standard_normal(image.shape[1:], dtype=np.float32)
    out = rgb.copy()
    out[changed] = (np.clip(image, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
    return out


def _occlude(image: F32, occluders: Sequence[Occluder]) -> None:
    """Paint patches over an image (H, W, 3); a pixel is covered if its centre is, a later patch covers an earlier."""
    height, width = image.shape[:2]
    for patch in occluders:
        # From the patch's centre, in image heights.
        across = ((np.arange(width) + 0.5) / width - patch.center[0]) * width / height
        down = ((np.arange(height) + 0.5) / height - patch.center[1])[:, None]
        cos, sin = np.cos(patch.angle), np.sin(patch.angle)
        along, aside = (across * cos + down * sin) / patch.size[0], (down * cos - across * sin) / patch.size[1]
        if patch.kind == "rectangle":
            covered = np.maximum(np.abs(along), np.abs(aside)) <= 1.0
        else:
            covered = along * along + aside * aside <= 1.0
        image[covered] = patch.color


def _column(sensors: Sequence[Sensor], name: str) -> F32:
    return np.array([getattr(s, name) for s in sensors], dtype=np.float32)[:, None, None, None]


def _patch(rng: np.random.Generator, size: tuple[float, float]) -> Occluder:
    kind: Literal["rectangle", "ellipse"] = "rectangle" if rng.random() < 0.5 else "ellipse"
    center = (_few(rng.random()), _few(rng.random()))
    half = (_few(rng.uniform(*size)), _few(rng.uniform(*size)))
    color = (_few(rng.random()), _few(rng.random()), _few(rng.random()))
    return Occluder(kind, center, half, _few(rng.uniform(-np.pi / 2, np.pi / 2)), color)


def _factor(rng: np.random.Generator, spread: float) -> float:
    return _few(np.exp(rng.uniform(-spread, spread)))


def _few(value: float) -> float:
    return round(float(value), 4)


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # nan is not within anything
        raise SceneError(bad_value(field, value, f"{low:g} .. {high:g}"))
