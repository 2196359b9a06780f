"""What a renderer is asked for, checked in the same way by all of them; see `common.protocols.Renderer`."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from actors.scenes.checks import check_asset, is_rigid
from common.errors import SceneError, bad_value
from common.protocols import F64, I64, Channel
from common.scene import SceneSpec


class KnownAssets:
    """Imported meshes and pictures that scenes may name, each checked once."""

    def __init__(self) -> None:
        self._assets: ChainMap[str, Any] = ChainMap()
        self._checked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._assets

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make assets known: content hash -> `actors.scenes.mesh.Mesh` or texels u8 (S, S, 3).

        A mapping may read what it holds when it is asked for it; what a scene names is checked when the scene is built.

        Raises:
            SceneError: if a mesh of a plain dict is malformed; then nothing was loaded.
        """
        if isinstance(assets, dict):
            for name, asset in assets.items():
                check_asset(name, asset)
            self._checked.update(assets)
        self._assets.maps.insert(0, assets)  # type: ignore[arg-type]

    def find(self, names: set[str], found: dict[str, Any]) -> None:
        """Read assets once, for the check and the drawing: a second read of a lazy mapping might fail half way."""
        for name in sorted(names - set(found)):
            with contextlib.suppress(KeyError):  # what is missing is for the scene's check to name
                found[name] = self._assets[name]

    def check_new(self, found: Mapping[str, Any]) -> None:
        """Check assets the first time that any scene names them: those of a lazy mapping are not seen before.

        Raises:
            SceneError: if one is malformed.
        """
        for name in sorted(set(found) - self._checked):
            check_asset(name, found[name])
            self._checked.add(name)


def check_env_ids(env_ids: I64, envs: int) -> I64:
    """The ids as i64 (N,).

    Raises:
        SceneError: if they are not numbers 0 .. envs-1.
    """
    ids = np.asarray(env_ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise SceneError(bad_value("env_ids", f"{ids.dtype} {ids.shape}", "integers (N,)"))
    if len(ids) and (ids.min() < 0 or ids.max() >= envs):
        raise SceneError(bad_value("env_ids", ids.tolist(), f"0 .. {envs - 1}"))
    return ids.astype(np.int64)


def check_reset(env_ids: I64, scenes: Sequence[SceneSpec], envs: int) -> I64:
    """The ids of environments that get a scene each, as i64 (N,).

    Raises:
        SceneError: as `check_env_ids`; if there are not as many scenes, or an environment occurs twice.
    """
    ids = check_env_ids(env_ids, envs)
    if len(scenes) != len(ids):
        raise SceneError(bad_value("len(scenes)", len(scenes), f"len(env_ids) = {len(ids)}"))
    if len(np.unique(ids)) != len(ids):
        raise SceneError(bad_value("env_ids", ids.tolist(), "each environment once"))
    return ids


def check_cameras(poses: F64, intrinsics: F64, count: int) -> None:
    """Check camera poses (N, 4, 4) and intrinsics (N, 4).

    Raises:
        SceneError: if one is not finite, not rigid or not positive, or there are not `count` of them.
    """
    if poses.shape != (count, 4, 4) or not np.isfinite(poses).all() or not is_rigid(poses).all():
        raise SceneError(bad_value("world_T_cam", _worst(poses), f"finite rigid poses ({count}, 4, 4)"))
    if intrinsics.shape != (count, 4) or not np.isfinite(intrinsics).all() or (intrinsics[:, :2] <= 0.0).any():
        raise SceneError(bad_value("intrinsics", _worst(intrinsics), f"finite ({count}, 4), focal lengths > 0"))


def check_channels(channels: Sequence[Channel]) -> None:
    """Refuse unknown channels, and none.

    Raises:
        SceneError: naming them.
    """
    if not channels or any(c not in get_args(Channel) for c in channels):
        raise SceneError(bad_value("channels", list(channels), f"one or more of {get_args(Channel)}"))


def count_frames(frames: I64, ids: I64) -> I64:
    """Frame numbers of environments `ids`, counting on in `frames` where one occurs more than once."""
    out = np.empty(len(ids), dtype=np.int64)
    for i, env in enumerate(ids.tolist()):
        out[i] = frames[env]
        frames[env] += 1
    return out


def _worst(array: NDArray[Any]) -> object:
    """What to show of a bad array: its first row that is not finite or not positive, else its shape."""
    if array.ndim >= 2 and not np.isfinite(array).all():
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        return f"row {int(np.argmax(bad))}: {array[np.argmax(bad)].ravel().tolist()}"
    return f"shape {array.shape}"
