"""Write a policy as a folder that a robot can run without servofleet: see `common.networks.exported_policy`.

The programs are read back from the disk and run on real frames before the folder gets its name. A folder under its
final name is complete, and its programs agree with the policy that was trained.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from common.config import NetworkConfig
from common.errors import ConfigError, ExportError, bad_value
from common.fsio import fsync_all, fsync_path
from common.geometry import intrinsics_from_fov
from common.identity import PolicyVersion, json_sha256, weights_sha256
from common.networks.exported_policy import FILES, FORMAT_VERSION, ExportedPolicy, file_sha256, load_export
from common.networks.exported_programs import trace_programs
from common.networks.servo_net import ServoNet, encoder_sha256, set_weights
from common.networks.weights import Weights
from common.protocols import F32, F64, U8, Goal, Observation

TOLERANCE = 1e-4  # of a command [m/s, rad/s] and of a twist in units of d*
MIN_FRAMES = 100
_LIBRARIES = ("servofleet", "torch", "numpy", "safetensors")
_FROM_SCRATCH = "no pretrained weights"
# What a user of the weights has to know. A backbone that is not here cannot be exported.
LICENSES = {
    "conv_small": _FROM_SCRATCH,
    "vit_tiny": _FROM_SCRATCH,
    "vit_small": _FROM_SCRATCH,
    "dinov2_b": "pretrained DINOv2 weights: Apache-2.0, Meta Platforms",
    "dinov3_b": "pretrained DINOv3 weights: DINOv3 License, Meta Platforms; its terms pass on to who gets this folder",
    "cradio_b": "pretrained C-RADIO weights: NVIDIA Open Model License",
}


@dataclasses.dataclass(frozen=True)
class ExportSource:
    """What is exported, and where it comes from.

    Attributes:
        network: of the policy.
        weights: by name, as `ServoNet` takes them.
        version: of the weights; its hash must be theirs.
        image_size: side of the images the programs take [px].
        fov_deg: vertical field of view of the training camera.
        dt, gain, max_twist, stop_dt_norm: control period [s], gain [1/s], largest norm of a twist in units of
            d*, and the norm below which a robot may stop.
        facts: further entries of the manifest, JSON-ready: run, checkpoint, evaluation numbers.
    """

    network: NetworkConfig
    weights: Weights
    version: PolicyVersion
    image_size: int
    fov_deg: float
    dt: float
    gain: float
    max_twist: float
    stop_dt_norm: float
    facts: dict[str, Any]

    @property
    def intrinsics(self) -> F64:
        """Training camera ``[fx, fy, cx, cy]`` (4,) in pixels of the exported images."""
        return intrinsics_from_fov(np.deg2rad(self.fov_deg), self.image_size, self.image_size)


@dataclasses.dataclass(frozen=True)
class ParityFrames:
    """What the trained policy did with real frames; M of them, S pixels a side.

    Attributes:
        rgb, goal_rgb: u8 (M, S, S, 3) current and desired images.
        intrinsics: f64 (M, 4).
        d_star: f64 (M,) [m].
        twist: f32 (M, 6) clamped twists of the camera at hand, in units of d* and at gain 1.
        command: f32 (M, 6) [m/s, rad/s] with the source's gain.
    """

    rgb: U8
    goal_rgb: U8
    intrinsics: F64
    d_star: F64
    twist: F32
    command: F32


def write_export(out: Path, source: ExportSource, frames: ParityFrames) -> dict[str, Any]:
    """Write the folder `out`, or nothing.

    Args:
        out: does not exist yet; missing parents are made.
        source: what to export.
        frames: what it must agree with, at least `MIN_FRAMES`.

    Returns:
        The manifest.

    Raises:
        ConfigError: if `out` exists.
        ExportError: if the weights are not those of the version, the network cannot be traced, its backbone has no
            licence note, or the written programs differ from the frames by more than `TOLERANCE`.
    """
    if out.exists():
        raise ConfigError(bad_value("out", str(out), "a folder that does not exist yet"))
    if weights_sha256(source.weights) != source.version.sha256:
        raise ExportError(f"the weights are not those of policy version {source.version}")
    if source.network.backbone not in LICENSES:
        raise ExportError(bad_value("network.backbone", source.network.backbone, f"one of {sorted(LICENSES)}"))
    aside = out.parent / f".{out.name}.writing-{uuid.uuid4().hex}"
    try:
        aside.mkdir(parents=True)
        _write_programs(aside, source)
        # Twice: the programs are checked through the loader that users have, and it asks for a manifest.
        _write_manifest(aside, source, {})
        manifest = _write_manifest(aside, source, {"parity": check_parity(load_export(aside), frames)})
        fsync_all([*(aside / name for name in (*FILES, "manifest.json")), aside])
        os.rename(aside, out)
        fsync_path(out.parent)
    except OSError as e:
        raise ExportError(f"out = {str(out)!r}: cannot be written: {e.strerror or e}") from e
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def check_parity(policy: ExportedPolicy, frames: ParityFrames, batch: int = 32) -> dict[str, Any]:
    """Run an exported policy on frames, in batches and one by one, and compare with what the trained policy did.

    Returns:
        number of frames and the largest differences: ``{"frames", "twist", "command", "tolerance"}``.

    Raises:
        ExportError: if there are too few frames, or a difference is larger than `TOLERANCE` or not a number.
    """
    m = len(frames.rgb)
    if m < MIN_FRAMES:
        raise ExportError(bad_value("frames to check an export on", m, f">= {MIN_FRAMES}"))
    twist, command = np.full((m, 6), np.nan, np.float32), np.full((m, 6), np.nan, np.float32)
    # The first alone: a batch of one is what a robot has.
    for part in [slice(0, 1), *(slice(i, i + batch) for i in range(1, m, batch))]:
        ids = np.arange(len(frames.rgb[part]), dtype=np.int64)
        policy.reset(ids, Goal(frames.goal_rgb[part], None, frames.intrinsics[part], frames.d_star[part]))
        answer = policy.act(ids, Observation(frames.rgb[part]))
        twist[part], command[part] = answer.twist, answer.aux["command"]
    found = {
        "twist": float(np.abs(twist - frames.twist).max()),
        "command": float(np.abs(command - frames.command).max()),
    }
    for name, difference in found.items():
        if not difference <= TOLERANCE:
            raise ExportError(
                f"export refused: {name} of the program differs by {difference:.3g} from the trained policy's "
                f"over {m} frames: allowed is {TOLERANCE:g}"
            )
    return {"frames": m, **found, "tolerance": TOLERANCE}


def _write_programs(folder: Path, source: ExportSource) -> None:
    net = ServoNet(source.network)
    set_weights(net, source.weights)
    try:
        goal, policy = trace_programs(net, source.image_size, float(source.intrinsics[0]), source.max_twist)
    except ValueError as e:
        raise ExportError(f"image_size = {source.image_size}: {e}") from e
    torch.export.save(goal, folder / "goal.pt2")
    torch.export.save(policy, folder / "policy.pt2")
    (folder / "weights.safetensors").write_bytes(save(dict(source.weights)))


def _write_manifest(folder: Path, source: ExportSource, more: dict[str, Any]) -> dict[str, Any]:
    manifest = {
        "format": FORMAT_VERSION,
        "frames": {
            "camera": "OpenCV: x right, y down, z forward",
            "twist": "[v; w] of the camera, in the camera's frame",
            "pose_update": "world_T_cam <- world_T_cam [exp(w dt), v dt]",
        },
        "units": {
            "command": "m/s, rad/s",
            "twist": "d_star/s, rad/s, at gain 1",
            "d_star": "m",
            "intrinsics": "px",
        },
        "inputs": {
            "image": "u8 (N, S, S, 3) RGB, S = image_size",
            "goal": "what goal.pt2 makes of the desired images, u8 (N, S, S, 3)",
            "intrinsics": "f64 (N, 4) [fx, fy, cx, cy] of the camera, for images of S x S",
            "d_star": "f64 (N,) distance of the desired camera to the target",
            "gain": "f64 (N,) [1/s]",
        },
        "outputs": ["command f32 (N, 6)", "twist f32 (N, 6), clamped to max_twist"],
        "image_size": source.image_size,
        "training_intrinsics": source.intrinsics.tolist(),
        "dt": source.dt,
        "gain": source.gain,
        "max_twist": source.max_twist,
        "stop_dt_norm": source.stop_dt_norm,
        "network": dataclasses.asdict(source.network),
        "policy_version": dataclasses.asdict(source.version),
        "encoder_sha256": encoder_sha256(source.weights),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "license": {"backbone": LICENSES[source.network.backbone] if source.network.pretrained else _FROM_SCRATCH},
        "files": {name: file_sha256(folder / name) for name in FILES},
        **source.facts,
        **more,
    }
    manifest["manifest_sha256"] = json_sha256(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return manifest
