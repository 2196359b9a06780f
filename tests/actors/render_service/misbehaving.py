"""A render server that fails on purpose: the real service, with one answer of it spoilt.

In a process of its own: `python misbehaving.py --listen unix:///PATH --backend pattern --fault half --at 3`. Renders
count from 0, over the life of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from actors.render_service.address import parse_address
from actors.render_service.backends import Backend, open_backend
from actors.render_service.desk import Desk
from actors.render_service.limits import Limits
from actors.render_service.server import is_fatal, listen, serve
from actors.render_service.service import RenderService
from common.proto.servofleet.v1 import render_pb2 as pb
from common.protocols import Frames
from common.scene import SceneObject, SceneSpec, Shape, Symmetry, Texture

# Of the answer, and of the process.
ANSWERS = ("late", "pose", "frame", "shape", "cameras", "channel", "half", "headless", "endless", "twice", "other")
PROCESS = ("memory", "bug", "kill", "stop")
FAULTS = ANSWERS + PROCESS


def cube_scene(*asset_names: str) -> SceneSpec:
    """A cube on the ground, and an object of each asset."""
    shapes = [Shape("cube", (0.1,)), *(Shape("mesh", (), name) for name in asset_names)]
    pose = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.05, 0.0, 0.0, 0.0, 1.0)
    objects = [SceneObject(shape, Texture(), Symmetry(), k + 1, pose) for k, shape in enumerate(shapes)]
    return SceneSpec(tuple(objects), 1, Texture())


class PatternRenderer:
    """Pixels that follow from environment, pose, intrinsics and number of the scene's objects; quick, and no picture.

    `before_render(k)` is called before the k-th render.
    """

    def __init__(self, before_render=lambda k: None):
        self.before_render = before_render
        self.scenes: dict[int, object] = {}
        self.frames: dict[int, int] = {}
        self.threads: set[int] = set()
        self.renders = 0
        self.closed = False
        self.assets: list[object] = []

    def load(self, assets):
        self.assets.append(assets)

    def reset(self, env_ids, scenes):
        self.threads.add(threading.get_ident())
        for env, scene in zip(env_ids.tolist(), scenes, strict=True):
            self.scenes[env], self.frames[env] = scene, 0

    def render(self, env_ids, world_T_cam, intrinsics, size, channels):
        self.threads.add(threading.get_ident())
        self.renders += 1
        self.before_render(self.renders - 1)
        height, width = size
        pixel = np.arange(height * width).reshape(1, height, width)
        key = env_ids * 7 + [len(self.scenes[e].objects) for e in env_ids.tolist()] + intrinsics.sum(axis=1).astype(int)
        pattern = pixel + key[:, None, None]
        depth = (pattern + world_T_cam.sum(axis=(1, 2))[:, None, None]).astype(np.float32)
        rgb = (pattern[..., None] * [1, 3, 5] % 251).astype(np.uint8)
        made = {"rgb": rgb, "instance_id": (pattern % 5).astype(np.int32), "depth": depth}
        ids = []
        for env in env_ids.tolist():
            ids.append(self.frames[env])
            self.frames[env] += 1
        kept = {c: made[c] if c in channels else None for c in made}
        return Frames(**kept, frame_id=np.array(ids, np.int64), pose_used=np.array(world_T_cam))

    def close(self):
        self.closed = True


class Misbehaving(RenderService):
    """The service, whose `at`-th answer to Render is spoilt as `fault` says; the others are right."""

    def __init__(self, *arguments, fault="", at=0, late_s=1.0):
        super().__init__(*arguments)
        self.fault, self.at, self.late_s = fault, at, late_s
        self.answers = 0

    def Render(self, request, context):
        number, self.answers = self.answers, self.answers + 1
        messages = list(super().Render(request, context))
        yield from messages if number != self.at else self._spoil(request, messages)

    def _spoil(self, request, messages):
        head = pb.FrameHead.FromString(messages[0].head.SerializeToString())
        changed = [pb.RenderResponse(head=head), *messages[1:]]
        if self.fault == "late":
            time.sleep(self.late_s)
        elif self.fault == "pose":
            head.pose_used[3] += 1e-9
            changed[0] = pb.RenderResponse(head=head)
        elif self.fault == "frame":
            head.frame_ids[0] -= 1
            changed[0] = pb.RenderResponse(head=head)
        elif self.fault == "shape":
            head.height, head.width = head.width * 2, head.height
            changed[0] = pb.RenderResponse(head=head)
        elif self.fault == "cameras":
            del head.frame_ids[-1], head.pose_used[-16:]
            changed[0] = pb.RenderResponse(head=head)
        elif self.fault == "channel":
            head.channels[0] = pb.CHANNEL_DEPTH if head.channels[0] != pb.CHANNEL_DEPTH else pb.CHANNEL_RGB
            changed[0] = pb.RenderResponse(head=head)
        elif self.fault == "other":
            head.id.number += 1
            changed[0] = pb.RenderResponse(head=head)
        elif self.fault == "headless":
            changed = messages[1:]
        elif self.fault == "endless":
            changed = messages[:-1]
        elif self.fault == "twice":
            changed = [*messages[:-1], messages[-2], messages[-1]]
        elif self.fault == "half":
            changed = self._half(request, messages)
        yield from changed

    def _half(self, request, messages):
        """Of pixels in a slot the second half was never written, and so no stamp; of sent ones it does not come."""
        if not request.HasField("slot"):
            chunk = messages[1].chunk
            first = pb.FrameChunk(offset=0, data=chunk.data[: len(chunk.data) // 2])
            return [messages[0], pb.RenderResponse(chunk=first), messages[-1]]
        total = messages[-1].end.bytes
        self._maps.pixels(request.slot, total)[total // 2 :] = 0
        return messages


def before_render(fault, at):
    """What the faults of the process do before the `at`-th render."""

    def act(k):
        if k != at:
            return
        if fault == "memory":
            raise MemoryError("on purpose")
        if fault == "bug":
            raise ZeroDivisionError("on purpose")
        if fault in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)

    return act


@contextlib.contextmanager
def serving(address: str, renderer=None, limits: Limits | None = None, **faults) -> Iterator[Misbehaving]:
    """A server in a thread of this process; the service, whose `bound` is the address that clients take."""
    limits = limits or Limits(max_envs=8)
    desk = Desk(limits.max_waiting)
    service = Misbehaving(desk, limits, "test", lambda recycle: desk.stop(), **faults)
    server, bound = listen(parse_address(address), limits, service)
    service.bound, service.desk, service.renderer = str(bound), desk, renderer or PatternRenderer()
    service.start(Backend(service.renderer, "pattern", "1"))
    worker = threading.Thread(target=desk.run, args=(is_fatal, lambda: None))
    worker.start()
    try:
        yield service
    finally:
        desk.stop()
        worker.join(20.0)
        server.stop(None).wait()
        assert not worker.is_alive(), "the desk did not stop"


def main():
    """Serve until told to end, failing once on the way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--backend", choices=["warp", "pattern"], default="warp")
    parser.add_argument("--max-envs", type=int, default=64)
    parser.add_argument("--fault", choices=["", *FAULTS], default="")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--late-s", type=float, default=1.0)
    arguments = parser.parse_args()
    act = before_render(arguments.fault, arguments.at)

    def start():
        if arguments.backend == "pattern":
            return Backend(PatternRenderer(act), "pattern", "1")
        backend = open_backend("warp", arguments.max_envs, "cpu", None)
        draw, renders = backend.renderer.render, iter(range(1 << 62))

        def render(*request):
            act(next(renders))
            return draw(*request)

        backend.renderer.render = render
        return backend

    make = functools.partial(Misbehaving, fault=arguments.fault, at=arguments.at, late_s=arguments.late_s)
    return serve(parse_address(arguments.listen), Limits(max_envs=arguments.max_envs), start, make)


if __name__ == "__main__":
    sys.exit(main())
