"""An exported policy folder, read and checked: programs to act with, weights to start another run from.

    policy.pt2, goal.pt2     programs of `common.networks.exported_programs`
    weights.safetensors      every parameter by name
    manifest.json            what the numbers mean, where they come from, and the sha256 of the other files

Written by `learner.export`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from packaging.version import Version
from safetensors import SafetensorError
from safetensors.numpy import load
from torch.export.passes import move_to_device_pass

from common.errors import ExportError, bad_value
from common.identity import json_sha256, weights_sha256
from common.networks.weights import Weights
from common.protocols import F64, I64, Goal, Observation, PolicyOutput

FORMAT_VERSION = 1
FILES = ("policy.pt2", "goal.pt2", "weights.safetensors")
# How far a camera may be from the pinhole that the programs take it for: square pixels, centred principal point.
_MAX_ASPECT, _MAX_OFFSET = 0.05, 0.1


class ExportedPolicy:
    """A `common.protocols.Policy` that runs the programs of an export; `aux["command"]` is what a robot executes.

    Its twist is of the camera at hand, in units of d* and at gain 1: what an environment has to be given, which
    multiplies by distance and gain itself.

    Attributes:
        manifest: of the export.
        gain: of the commands [1/s]; the training's, unless set to another.
        encode, run: the goal's and the policy's program as modules, called like `GoalProgram` and `PolicyProgram`.
    """

    def __init__(self, manifest: dict[str, Any], goal: torch.nn.Module, policy: torch.nn.Module, device: str) -> None:
        """Use `load_export`."""
        self.manifest = manifest
        self.gain = float(manifest["gain"])
        self.encode, self.run, self._device = goal, policy, device
        self._goal: dict[str, torch.Tensor] | None = None

    @torch.no_grad()
    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Encode the desired images u8 (N, S, S, 3), S the manifest's image size.

        Raises:
            ValueError: if images, intrinsics or distances are not what the programs were made for.
        """
        size = self.manifest["image_size"]
        check_camera(goal.intrinsics, size)
        if not (np.isfinite(goal.d_star).all() and (np.asarray(goal.d_star) > 0.0).all()):
            raise ValueError(bad_value("goal.d_star", goal.d_star, "finite distances > 0"))
        self._env_ids, self._goal = np.array(env_ids), None
        self._goal = self.encode(self._image("goal.rgb", goal.rgb))
        self._intrinsics, self._d_star = self._double(goal.intrinsics), self._double(goal.d_star)

    @torch.no_grad()
    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """Twists for the environments of the last `reset`, in the same order.

        Returns:
            twists, clamped; `stop` where they are shorter than the stop rule says; as aux "command" f32 (N, 6)
            [m/s, rad/s].

        Raises:
            ValueError: if the environments are others, or the images of another size.
        """
        if self._goal is None or not np.array_equal(env_ids, self._env_ids):
            raise ValueError("act: env_ids must be those of the last reset")
        image = self._image("observation.rgb", observation.rgb)
        gain = torch.full_like(self._d_star, self.gain)
        command, twist = (t.cpu().numpy() for t in self.run(image, self._goal, self._intrinsics, self._d_star, gain))
        stop = np.linalg.norm(twist, axis=1) < self.manifest["stop_dt_norm"]
        return PolicyOutput(twist, stop, {"command": command})

    def _image(self, name: str, rgb: NDArray[np.uint8]) -> torch.Tensor:
        size = self.manifest["image_size"]
        if rgb.dtype != np.uint8 or rgb.shape != (len(self._env_ids), size, size, 3):
            allowed = f"uint8 ({len(self._env_ids)}, {size}, {size}, 3)"
            raise ValueError(bad_value(name, f"{rgb.dtype} {rgb.shape}", allowed))
        return torch.from_numpy(np.ascontiguousarray(rgb)).to(self._device)

    def _double(self, x: F64) -> torch.Tensor:
        return torch.from_numpy(np.array(x, dtype=np.float64)).to(self._device)


def check_camera(intrinsics: F64, image_size: int) -> None:
    """Refuse cameras (N, 4) ``[fx, fy, cx, cy]`` whose images the denormalisation would misread.

    Raises:
        ValueError: if a focal length is not positive, pixels are not square within 5 %, or the principal point is
            farther from the middle than a tenth of the image.
    """
    k = np.asarray(intrinsics, dtype=np.float64)
    if not (np.isfinite(k).all() and (k[:, :2] > 0.0).all()):
        raise ValueError(bad_value("goal.intrinsics", k.tolist(), "finite [fx, fy, cx, cy], fx and fy > 0"))
    if (np.abs(k[:, 0] / k[:, 1] - 1.0) > _MAX_ASPECT).any():
        raise ValueError(bad_value("goal.intrinsics", k.tolist(), "fx and fy equal within 5 %: resample the images"))
    if (np.abs(k[:, 2:] / image_size - 0.5) > _MAX_OFFSET).any():
        allowed = f"cx and cy within a tenth of the side from {image_size / 2:g}: crop the images about them"
        raise ValueError(bad_value("goal.intrinsics", k.tolist(), allowed))


def load_export(folder: str | Path, device: str = "cpu") -> ExportedPolicy:
    """Read an export, check it against its manifest, and make it ready to act on a device.

    Raises:
        ExportError: naming the file that is missing or altered, or the version that does not fit.
    """
    manifest = read_manifest(folder)
    wrote, here = (Version(v).release[:2] for v in (manifest["libraries"]["torch"], torch.__version__))
    if here < wrote:
        allowed = f">= {manifest['libraries']['torch']}, which wrote {folder}"
        raise ExportError(bad_value("torch", torch.__version__, allowed))
    modules = []
    for name in ("goal.pt2", "policy.pt2"):
        program = torch.export.load(Path(folder) / name)
        modules.append((program if device == "cpu" else move_to_device_pass(program, device)).module())
    goal, policy = modules
    return ExportedPolicy(manifest, goal, policy, device)


def read_exported_weights(folder: str | Path) -> Weights:
    """The weights of an export by name, as `ServoNet` takes them.

    Raises:
        ExportError: if a file is missing or altered, or the arrays are not those of the manifest's policy version.
    """
    manifest = read_manifest(folder)
    try:
        weights: Weights = load((Path(folder) / "weights.safetensors").read_bytes())
    except SafetensorError as e:
        raise ExportError(f"{folder}/weights.safetensors: {e}") from e
    sha = weights_sha256(weights)
    if sha != manifest["policy_version"]["sha256"]:
        allowed = f"the policy version's {manifest['policy_version']['sha256'][:12]}"
        raise ExportError(bad_value(f"{folder}/weights.safetensors, weights", sha[:12], allowed))
    return weights


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an export, after a check of every file's sha256 and of its own.

    Raises:
        ExportError: naming the file that is missing or altered, or a format of another version.
    """
    root = Path(folder)
    try:
        manifest: dict[str, Any] = json.loads((root / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT_VERSION:
            raise ExportError(bad_value(f"{root}/manifest.json, format", manifest["format"], str(FORMAT_VERSION)))
        said = {k: v for k, v in manifest.items() if k != "manifest_sha256"}
        if json_sha256(said) != manifest["manifest_sha256"]:
            raise ExportError(f"{root}/manifest.json: altered since it was written (its own sha256 differs)")
        for name in FILES:
            if file_sha256(root / name) != manifest["files"][name]:
                raise ExportError(f"{root / name}: not the file that the manifest describes (sha256 differs)")
    except OSError as e:
        raise ExportError(f"{e.filename}: {e.strerror or e}; not a complete export") from e
    except (ValueError, KeyError, TypeError) as e:
        raise ExportError(f"{root}/manifest.json: not an export's manifest: {type(e).__name__}: {e}") from e
    return manifest


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
