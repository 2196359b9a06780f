"""Frames that stay where they were rendered."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import warp as wp

from common.protocols import F64, I64, Frames

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class DeviceFrames:
    """What `WarpRenderer.render_on_device` answers; a channel that was not asked for is None.

    Attributes:
        rgb: Warp array u8 (N, H, W, 3).
        instance_id: Warp array i32 (N, H, W).
        depth: Warp array f32 (N, H, W) [m].
        frame_id, pose_used: on the host, as in `common.protocols.Frames`.
    """

    rgb: Any
    instance_id: Any
    depth: Any
    frame_id: I64
    pose_used: F64

    def torch(self) -> dict[str, torch.Tensor]:
        """The channels as tensors on the same device, by name; no pixel is copied."""
        channels = {"rgb": self.rgb, "instance_id": self.instance_id, "depth": self.depth}
        return {name: wp.to_torch(array) for name, array in channels.items() if array is not None}

    def to_host(self) -> Frames:
        """The same frames in numpy arrays; on the CPU no pixel is copied."""
        arrays = [None if a is None else a.numpy() for a in (self.rgb, self.instance_id, self.depth)]
        return Frames(arrays[0], arrays[1], arrays[2], self.frame_id, self.pose_used)
