"""The tiled picture of all cameras, read from Replicator's annotators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.isaac.app import App
from actors.isaac.frames import cut_tiles
from actors.isaac.version import IsaacError

_TRIES = 10


class Tiles:
    """One render product of all cameras and its annotators; there is one per process, of one size of tiles."""

    def __init__(self, app: App, cameras: Sequence[str], size: tuple[int, int]) -> None:
        """Make it for the camera prims at these paths; `size` is (height, width) of a tile."""
        self._app, self._count, self._size = app, len(cameras), size
        self._product = app.api.tile(cameras, size)
        self._annotators = {name: app.api.annotator(name, self._product) for name in ("rgb", "depth", "labels")}

    def read(self, output: str) -> tuple[NDArray[Any], Mapping[str, Any]]:
        """The pictures (cameras, H, W, C) of "rgb", "depth" or "labels" as a copy, and the record that came with them.

        Raises:
            IsaacError: if there are none after ten updates, or their dtype or shape is not the manifest's.
        """
        wanted = self._app.api.output(output)
        for _ in range(_TRIES):
            data = self._annotators[output].get_data(device="cuda")
            info: Mapping[str, Any] = {}
            if wanted["info"] and isinstance(data, Mapping):
                data, info = data["data"], data["info"]
            if data is not None and 0 not in data.shape:
                array = np.asarray(data.numpy())
                tiles = cut_tiles(array, self._count, self._size, wanted["channels"], wanted["dtype"], output)
                return tiles, info
            self._app.update()
        raise IsaacError(f"Isaac Sim gave no {output} in {_TRIES} updates")

    def close(self) -> None:
        """Free the render product."""
        self._product.destroy()
