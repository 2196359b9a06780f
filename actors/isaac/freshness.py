"""Whether a frame is of the state that was asked for, by evidence in the frame itself.

Kit may draw the state of some updates ago, and says so nowhere. So a board stands in front of a camera of our own, and
every pass moves it: the depth that this camera reads tells from which state the whole tiled picture was drawn. Only
then are the updates counted that let denoiser and anti-aliasing forget the picture before.
"""

from __future__ import annotations

import time

import numpy as np

from actors.isaac.app import App
from actors.isaac.stage import Stage
from actors.isaac.tiles import Tiles
from actors.isaac.version import IsaacError
from common.errors import StaleFrameError, bad_value
from common.protocols import F32

STAMPS = 50  # distances of the board; frames that are fewer updates late are known for late
_STEP = 0.02  # metres
_NEAREST = 1.0  # metres
_LOADING_S = 30.0


class Freshness:
    """Moves the board and waits for frames that show it there.

    Attributes:
        latency: updates, besides the one that draws, until a change of the stage is seen; found out, never assumed.
    """

    def __init__(self, app: App, stage: Stage, tiles: Tiles, subframes: int, max_updates: int) -> None:
        """Measure the latency.

        Args:
            app: to update.
            stage: whose board is moved.
            tiles: of its cameras; the last one looks at the board.
            subframes: updates that let a picture settle.
            max_updates: to wait for the right state, 1 .. STAMPS - 1.

        Raises:
            StaleFrameError: if a change of the stage is not seen in time.
        """
        self._app, self._stage, self._tiles = app, stage, tiles
        self._subframes, self._max_updates = subframes, max_updates
        self._stamp = self.latency = 0
        for _ in range(3):
            self._next_stamp()
            self._wait_for_loading()
            self.latency = max(self.latency, self._await_stamp(0)[1])

    def settle(self) -> F32:
        """Update until the stage as it is now is drawn, and settled.

        Returns:
            Depths (cameras, H, W) [m] as the renderer gave them.

        Raises:
            StaleFrameError: if frames go on showing an earlier state.
            IsaacError: if the stage is still loading after 30 s.
        """
        self._next_stamp()
        self._wait_for_loading()
        self._update(self.latency + self._subframes)
        depths, late = self._await_stamp(self.latency + self._subframes)
        if late:
            # The picture has only just changed: from now on that is expected, and this one gets its time to settle.
            self.latency += self._subframes + late
            self._update(self._subframes)
            depths, _ = self._await_stamp(self.latency + self._subframes)
        return depths

    def _next_stamp(self) -> None:
        self._stamp = (self._stamp + 1) % STAMPS
        self._stage.stamp(self._wanted())

    def _wanted(self) -> float:
        return _NEAREST + _STEP * self._stamp

    def _await_stamp(self, waited: int) -> tuple[F32, int]:
        """Depths of the first frame that shows the stamp, and the updates until then; `waited` were made before."""
        for late in range(self._max_updates + 1):
            depths: F32 = self._tiles.read("depth")[0][..., 0]
            seen = _middle(depths[-1])
            if abs(seen - self._wanted()) < 0.25 * _STEP:
                return depths, late
            self._app.update()
        allowed = f"{self._wanted():.2f} m within {waited + self._max_updates} updates: frames show an earlier stage"
        raise StaleFrameError(bad_value("stamp of the frame", f"{seen:.2f} m", allowed))

    def _wait_for_loading(self) -> None:
        """One update, and more while textures or geometry are on their way to the GPU."""
        deadline = time.monotonic() + _LOADING_S
        self._app.update()
        while self._app.api.is_loading():
            if time.monotonic() > deadline:
                raise IsaacError(f"the stage was still loading after {_LOADING_S:g} s")
            self._app.update()

    def _update(self, times: int) -> None:
        for _ in range(times):
            self._app.update()


def _middle(depth: F32) -> float:
    """Median depth [m] of the middle of a picture."""
    height, width = depth.shape
    return float(np.median(depth[height // 4 : height - height // 4, width // 4 : width - width // 4]))
