"""A renderer whose server may fail and be replaced: what it was told last is told to the next one before it draws.

A call that fails raises, and nothing of it is used: the collector does its task again. Between calls a replacement is
not seen, but for the time that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, Protocol, TypeVar

import numpy as np

from actors.render_service.limits import LimitError
from common.errors import (
    FrameShapeError,
    LateFrameError,
    RendererError,
    RendererLostError,
    StaleFrameError,
    TornFrameError,
)
from common.protocols import F64, I64, Channel, Frames, Renderer
from common.scene import SceneSpec

T = TypeVar("T")
_RESET_AT_ONCE = 64  # scenes of one message, which has a limit
Fault = Literal["lost", "late", "wrong_answer"]


class Keeper(Protocol):
    """Who keeps the server: `actors.render_service.supervisor.Supervisor`, or `FixedServer`."""

    @property
    def due(self) -> str:
        """Why the server should be replaced at the next good moment; "" where it need not."""

    def wait_up(self) -> tuple[int, str]:
        """Wait for a server; its generation and address."""

    def failed(self, generation: int, cause: Fault, detail: str) -> None:
        """Say that the server of this generation failed."""

    def recycle(self, generation: int, reason: str) -> None:
        """Replace the server of this generation."""

    def stop(self) -> None:
        """End it."""


class FixedServer:
    """A server that somebody else keeps at an address; after a failure it is connected to anew."""

    def __init__(self, address: str) -> None:
        self._generation, self._address, self.due = 1, address, ""

    def wait_up(self) -> tuple[int, str]:
        """The address, and how often it was said to have failed, plus 1."""
        return self._generation, self._address

    def failed(self, generation: int, cause: Fault, detail: str) -> None:
        """Have the next call connect anew."""
        self._generation = generation + 1

    def recycle(self, generation: int, reason: str) -> None:
        """Nothing: it is not ours."""

    def stop(self) -> None:
        """Nothing: it is not ours."""


class SupervisedRenderer:
    """`common.protocols.Renderer` over a server that `keeper` keeps running. Not thread-safe.

    Attributes:
        waiting: a call waits for a server to come up; its keeper bounds that wait. Any thread may ask.
    """

    def __init__(self, keeper: Keeper, connect: Callable[[str], Renderer]) -> None:
        """Wait for the server and connect.

        Args:
            keeper: of the server; stopped by `close`.
            connect: address -> client of the server there; raises RendererError where it cannot.

        Raises:
            RendererQuarantinedError: if there will be no server.
            RendererLostError: if it cannot be connected to.
        """
        self._keeper, self._connect = keeper, connect
        self._client: Renderer | None = None
        self._generation = 0
        self._assets: list[Mapping[str, Any]] = []
        self._scenes: dict[int, SceneSpec] = {}
        self._drawn: dict[int, int] = {}  # frames of an environment since its reset
        self._before: dict[int, int] = {}  # those of them that a server drew that is gone
        self.waiting = False
        try:
            self._call(lambda client: None)
        except BaseException:
            keeper.stop()
            raise

    @property
    def client(self) -> Renderer | None:
        """Of the server connected to; None where that failed."""
        return self._client

    def load(self, assets: Mapping[str, Any]) -> None:
        """Make imported meshes known, by content hash; see `common.protocols.Renderer.load`.

        Raises:
            RendererLostError, RendererQuarantinedError: as `render`.
        """
        self._call(lambda client: client.load(assets))
        self._assets.append(assets)

    def reset(self, env_ids: I64, scenes: Sequence[SceneSpec]) -> None:
        """Build `scenes[i]` in environment `env_ids[i]`; replaces a server that is due before.

        Raises:
            SceneError: as the embedded renderer; then no environment was changed.
            RendererLostError, RendererQuarantinedError: as `render`.
        """
        if self._client is not None and self._keeper.due:
            self._keeper.recycle(self._generation, self._keeper.due)
        self._call(lambda client: client.reset(env_ids, scenes))
        for env, scene in zip(np.asarray(env_ids).tolist(), scenes, strict=True):
            self._scenes[env] = scene
            self._drawn[env] = self._before[env] = 0

    def render(
        self, env_ids: I64, world_T_cam: F64, intrinsics: F64, size: tuple[int, int], channels: Sequence[Channel]
    ) -> Frames:
        """Render environment `env_ids[i]` from `world_T_cam[i]`; see `common.protocols.Renderer.render`.

        Raises:
            SceneError: as the embedded renderer.
            RendererLostError: if the server failed, hung or answered wrongly; the next call has another one.
            RendererQuarantinedError: if there will be no other one.
        """
        frames = self._call(lambda client: client.render(env_ids, world_T_cam, intrinsics, size, channels))
        counted = np.array([self._before[e] for e in np.asarray(env_ids).tolist()], np.int64) + frames.frame_id
        for env, number in zip(np.asarray(env_ids).tolist(), counted.tolist(), strict=True):
            self._drawn[env] = number + 1
        return Frames(frames.rgb, frames.instance_id, frames.depth, counted, frames.pose_used)

    def close(self) -> None:
        """End the connection and the server; the renderer cannot be used afterwards."""
        self._disconnect()
        self._keeper.stop()

    def _call(self, ask: Callable[[Renderer], T]) -> T:
        self.waiting = True
        try:
            generation, address = self._keeper.wait_up()
        finally:
            self.waiting = False
        try:
            if self._client is None or generation != self._generation:
                self._reconnect(generation, address)
            assert self._client is not None
            return ask(self._client)
        except LimitError:
            raise  # what is asked for is too much; the server is well
        except (StaleFrameError, FrameShapeError, TornFrameError) as e:
            self._give_up(generation, "wrong_answer", e)
        except LateFrameError as e:
            self._give_up(generation, "late", e)
        except RendererError as e:
            self._give_up(generation, "lost", e)

    def _reconnect(self, generation: int, address: str) -> None:
        """Connect to a new server and tell it everything that the last one knew."""
        self._disconnect()
        client = self._connect(address)
        try:
            for assets in self._assets:
                client.load(assets)
            known = list(self._scenes.items())
            for at in range(0, len(known), _RESET_AT_ONCE):
                some = known[at : at + _RESET_AT_ONCE]
                client.reset(np.array([env for env, _ in some], np.int64), [scene for _, scene in some])
        except BaseException:
            client.close()
            raise
        self._client, self._generation = client, generation
        self._before = dict(self._drawn)

    def _give_up(self, generation: int, cause: Fault, error: RendererError) -> NoReturn:
        detail = f"{type(error).__name__}: {error}"
        self._disconnect()
        self._keeper.failed(generation, cause, detail)
        raise RendererLostError(f"render server {generation} failed, and nothing of it is used: {detail}") from error

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
