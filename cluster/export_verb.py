"""`servofleet export`: a run's policy as a folder that a robot can run without servofleet."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.env import ServoEnv
from actors.learned_policy import LearnedPolicy
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.suite import held_out_suite
from cluster.recorded_run import fixed_sha256, read_config, read_weights
from common.config import RewardConfig, RunConfig
from common.errors import ConfigError, bad_value
from common.networks.weights import Weights
from common.protocols import F32, F64, Observation
from common.servo import clamp_twist, denormalise_twist
from learner.export import MIN_FRAMES, ExportSource, ParityFrames, write_export

SETTINGS = ("run", "out", "checkpoint", "image_size")
_SCENES = 10
# Focal length over the training camera's, and distance over the goal's: where the law of eq. 18-21 does something.
_CAMERAS = ((1.0, 1.0), (0.5, 0.5), (1.5, 1.5))


def export(overrides: Sequence[str]) -> dict[str, Any]:
    """Export as the command line asks: ``run=DIR out=DIR [checkpoint=NUMBER] [image_size=PIXELS]``.

    Returns:
        ``{"out", "manifest"}``.

    Raises:
        ConfigError: if a setting is unknown, missing or no number, or `out` exists.
        CheckpointError: if the run has no such checkpoint.
        ExportError: if the policy cannot be exported, or the written program differs from it.
    """
    given = _settings(overrides)
    out = Path(given["out"])
    if out.exists():  # before minutes of work
        raise ConfigError(bad_value("out", str(out), "a folder that does not exist yet"))
    checkpoint, size = _number(given, "checkpoint", least=0), _number(given, "image_size", least=1)
    config, source = read_source(given["run"], checkpoint, size)
    return {"out": str(out), "manifest": write_export(out, source, record_frames(config, source.weights))}


def read_source(
    run: str | Path, checkpoint: int | None = None, image_size: int | None = None
) -> tuple[RunConfig, ExportSource]:
    """What to export of a run, and the run's configuration with the image size asked for.

    Args:
        run: run directory.
        checkpoint: its number, or the newest.
        image_size: side of the images that the programs shall take [px], or the training's.

    Raises:
        CheckpointError: if there is no such run or checkpoint, or it is broken.
    """
    config = read_config(run)
    recorded = fixed_sha256(config)
    number, weights, version, state = read_weights(run, config.checkpoint.keep, checkpoint)
    env = dataclasses.replace(config.env, image_size=config.env.image_size if image_size is None else image_size)
    config = dataclasses.replace(config, env=env)
    done = state["phase"] >= len(config.schedule)
    facts = {
        "run": {"experiment": config.experiment, "seed": config.seed, "config_sha256": recorded},
        "checkpoint": number,
        "phase": "finished" if done else config.schedule[state["phase"]],
        "training_camera_spread": config.scenes.intrinsics,
        "evaluation": state["stages"],
    }
    source = ExportSource(
        config.network, weights, version, env.image_size, env.fov_deg, env.dt, env.gain, env.max_twist,
        config.evaluation.stop_dt_norm, facts,
    )  # fmt: skip
    return config, source


def record_frames(config: RunConfig, weights: Weights, count: int = MIN_FRAMES) -> ParityFrames:
    """Let the trained policy act in scenes of the held-out suite, and keep what it saw and commanded.

    Every frame counts three times: with the camera and distance it was rendered with, where the commands are those the
    environment executed, and as if it came from other cameras.

    Args:
        config: of the run; `env.image_size` may be another than the training's.
        weights: of the policy.
        count: rendered frames, at least.

    Raises:
        ConfigError: if the network takes no images of this size.
    """
    scenes = min(_SCENES, config.evaluation.scenes)
    # The training's camera and distances; what other ones change is the law's business, below.
    plain = dataclasses.replace(config.evaluation, scenes=scenes, focal_scale=1.0, distance_scale=1.0)
    suite = held_out_suite(dataclasses.replace(config, evaluation=plain))
    renderer = WarpRenderer(max_envs=scenes)
    try:
        renderer.load(suite.assets)
        env = ServoEnv(renderer, config.env, RewardConfig(), scenes, suite.assets)
        policy = LearnedPolicy(config.network)
        policy.set_weights(weights)
        env.reset(suite.starts, masks=False)
        goal, ids = env.goal(), np.arange(scenes, dtype=np.int64)
        try:
            policy.reset(ids, goal)
        except ValueError as e:
            raise ConfigError(f"image_size: {e}") from e
        rgb, raw, clamped, applied = [], [], [], []
        for _ in range(-(-count // scenes)):
            sight = env.look(image=True, masks=False)
            assert sight.rgb is not None
            rgb.append(sight.rgb)
            raw.append(policy.act(ids, Observation(sight.rgb)).twist)
            twist, command = env.move(raw[-1])
            clamped.append(twist)
            applied.append(command)
    finally:
        renderer.close()
    steps = len(rgb)
    seen = ParityFrames(
        np.concatenate(rgb),
        np.tile(goal.rgb, (steps, 1, 1, 1)),
        np.tile(goal.intrinsics, (steps, 1)),
        np.tile(goal.d_star, steps),
        np.concatenate(clamped),
        np.concatenate(applied),
    )
    return _concatenate([_through(seen, np.concatenate(raw), focal, near, config) for focal, near in _CAMERAS])


def _through(seen: ParityFrames, raw: F32, focal: float, distance: float, config: RunConfig) -> ParityFrames:
    """The frames as if they came from a camera of another focal length, with the goal at another distance.

    Args:
        seen: as rendered.
        raw: (M, 6) the network's twists.
        focal, distance: factors.
        config: of the run.
    """
    env = config.env
    intrinsics: F64 = seen.intrinsics * np.array([focal, focal, 1.0, 1.0])
    training = 0.5 * env.image_size / np.tan(0.5 * np.deg2rad(env.fov_deg))
    ratio, d_star = np.sqrt(intrinsics[:, 0] * intrinsics[:, 1]) / training, seen.d_star * distance
    twist = clamp_twist(denormalise_twist(raw, 1.0, ratio), env.max_twist)
    command = denormalise_twist(twist, d_star) * env.gain
    # Where it is the training's camera, what the environment itself executed counts.
    own = ((ratio == 1.0) & (distance == 1.0))[:, None]
    twist, command = np.where(own, seen.twist, twist), np.where(own, seen.command, command)
    return dataclasses.replace(
        seen, intrinsics=intrinsics, d_star=d_star, twist=twist.astype(np.float32), command=command.astype(np.float32)
    )


def _concatenate(parts: Sequence[ParityFrames]) -> ParityFrames:
    names = [field.name for field in dataclasses.fields(ParityFrames)]
    return ParityFrames(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(bad_value("setting of export", text, f"name=value, name one of {SETTINGS}{hint}"))
        given[name] = value
    for name in ("run", "out"):
        if not given.get(name):
            raise ConfigError(bad_value(name, given.get(name), f"a folder: servofleet export {name}=DIR"))
    return given


def _number(given: dict[str, str], name: str, least: int) -> int | None:
    if name not in given:
        return None
    if not given[name].isdecimal() or int(given[name]) < least:
        raise ConfigError(bad_value(name, given[name], f"a whole number >= {least}"))
    return int(given[name])
