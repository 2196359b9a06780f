"""Where a store lives: on the disk of one machine, or in an object store that every machine reaches.

A path means nothing on another machine: at best there is no such folder, at worst there is one, and what is committed
to it is never read. So a local store goes by its path *and* its machine.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from common.episode import Episode
from common.errors import StoreError
from replay.store import Store, open_store
from replay.writer import Ack

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


class EpisodeWriter(Protocol):
    """What a collector commits through: `replay.writer.SegmentWriter` on the store's machine or for an object store,
    `cluster.replay_writer.RemoteWriter` elsewhere.
    """

    def append(self, episode: Episode) -> list[Ack]:
        """Take an episode in, and commit or send what is due; one ack per episode that became durable."""

    def flush(self) -> list[Ack]:
        """Wait until everything taken in is durable."""

    def close(self) -> list[Ack]:
        """`flush`, and end."""

    def waits(self) -> Mapping[str, float]:
        """Seconds waited so far, by cause: "disk" (slowed because the disk fills), "writer" (for the writer of another
        machine).
        """


@dataclasses.dataclass(frozen=True)
class StoreLocation:
    """Address of a store.

    Attributes:
        url: absolute path of a local store, or URL of an object store.
        node: identifies the machine that a local store lies on, for as long as the run lasts; "" for an object store.
        host: name of that machine, for messages.
    """

    url: str
    node: str = ""
    host: str = ""

    def is_local_to(self, node: str) -> bool:
        """Whether a process on machine `node` may open it itself."""
        return self.node in ("", node)

    def open(self, node: str, host: str, mode: Literal["r", "a"] = "r", create: bool = False, **settings: Any) -> Store:
        """Open the store on this machine.

        Args:
            node: machine this process runs on.
            host: its name.
            mode: as in `open_store`.
            create: as in `open_store`.
            **settings: further arguments of `open_store`.

        Raises:
            StoreError: if it lies on another machine, or it cannot be opened.
        """
        if not self.is_local_to(node):
            raise StoreError(
                f"store {self.url} lies on node {self.host} ({self.node}) and is refused on node {host} ({node}): "
                "send episodes through that node's writer actor (connect all nodes by ray_address), or put the store "
                "where all nodes reach it (replay.url = 's3://...')"
            )
        return open_store(self.url, mode, create, **settings)


def locate(url: str, node: str, host: str) -> StoreLocation:
    """The location that `url` means to a process on machine `node`.

    Args:
        url: path, ``file://`` URL, or URL of an object store such as ``s3://bucket/prefix``.
        node: machine this process runs on.
        host: its name.
    """
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1] != "file":
        return StoreLocation(url)
    path = Path(url.removeprefix("file://")).expanduser()
    return StoreLocation(str(path.resolve()), node, host)
