"""What a client believes of an answer: nothing that it has not compared with what it asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from actors.render_service.layout import Layout
from common.errors import FrameShapeError, StaleFrameError, TornFrameError, bad_value
from common.proto.servofleet.v1 import render_pb2 as pb
from common.protocols import F64, I64

U8 = NDArray[np.uint8]


def read_answer(messages: Iterable[pb.RenderResponse], layout: Layout, memory: U8 | None) -> pb.FrameHead:
    """Read an answer to its end: its head, with the pixels in `memory` u8 (total,); None where they come in a slot.

    Raises:
        TornFrameError: if a part is missing, twice or out of place.
        FrameShapeError: if the pixels are of other frames than asked for.
    """
    head: pb.FrameHead | None = None
    end: pb.FrameEnd | None = None
    at = 0
    for message in messages:
        part = message.WhichOneof("part")
        if end is not None or (part == "head") != (head is None):
            raise TornFrameError(f"answer: a part {part!r} out of place after {at} bytes")
        if part == "head":
            head = message.head
            check_shape(head, layout, in_slot=memory is None)
        elif part == "chunk":
            data = message.chunk.data
            if memory is None or message.chunk.offset != at or at + len(data) > layout.total:
                seen = f"{len(data)} bytes at {message.chunk.offset}"
                raise TornFrameError(bad_value("chunk", seen, f"bytes from {at} to {layout.total} at most"))
            memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
            at += len(data)
        else:
            end = message.end
    if head is None or end is None:
        raise TornFrameError(f"answer: it broke off after {at} of {layout.total} bytes")
    if end.bytes != layout.total or (memory is not None and at != layout.total):
        raise TornFrameError(bad_value("bytes of the answer", min(at, end.bytes), f"{layout.total}"))
    return head


def check_shape(head: pb.FrameHead, layout: Layout, *, in_slot: bool) -> None:
    """Compare sizes, channels and the way the pixels come.

    Raises:
        FrameShapeError: naming what differs.
    """
    for field, seen, asked in (
        ("height", head.height, layout.height),
        ("width", head.width, layout.width),
        ("channels", list(head.channels), layout.wire()),
        ("cameras", len(head.frame_ids), layout.count),
        ("numbers of pose_used", len(head.pose_used), 16 * layout.count),
        ("bytes", head.bytes, layout.total),
        ("in_slot", head.in_slot, in_slot),
    ):
        if seen != asked:
            raise FrameShapeError(bad_value(f"{field} of the answer", seen, f"{asked}, as asked for"))


def check_id(head: pb.FrameHead, asked: pb.RequestId) -> None:
    """Compare the request's id.

    Raises:
        TornFrameError: if it answers another request.
    """
    if head.id != asked:
        seen = f"{head.id.session[:8]}/{head.id.number}"
        raise TornFrameError(bad_value("request of the answer", seen, f"{asked.session[:8]}/{asked.number}"))


def check_fresh(head: pb.FrameHead, env_ids: I64, world_T_cam: F64, last: dict[int, int]) -> tuple[I64, F64]:
    """Frame ids (N,) and poses used (N, 4, 4), if every frame shows the pose that was asked for and is a new one.

    Args:
        head: of the answer; `check_shape` has passed it.
        env_ids: (N,) asked for.
        world_T_cam: (N, 4, 4) asked for.
        last: environment -> id of the last frame seen since its reset; brought up to date.

    Raises:
        StaleFrameError: naming the environment.
    """
    poses = np.array(head.pose_used, dtype=np.float64).reshape(-1, 4, 4)
    same = (poses == world_T_cam).all(axis=(1, 2))
    frame_ids = np.array(head.frame_ids, dtype=np.int64)
    if not same.all():
        worst = int(np.argmin(same))
        raise StaleFrameError(
            f"environment {env_ids[worst]}: frame {frame_ids[worst]} shows another pose than asked for"
        )
    newest = dict(last)
    for env, frame in zip(env_ids.tolist(), frame_ids.tolist(), strict=True):
        if frame <= newest.get(env, -1):
            raise StaleFrameError(f"environment {env}: frame {frame} was seen before, the last one was {newest[env]}")
        newest[env] = frame
    last.update(newest)
    return frame_ids, poses
