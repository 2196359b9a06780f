"""Committing to a store that lies on another machine: its writer actor, and what sends episodes to it.

collector on the store's node  --SegmentWriter------------------------------------> store
collectors on other nodes      --RemoteWriter--(Ray)--> ReplayWriter, one actor --> store

An episode is acknowledged once it is durable there. What is not acknowledged is sent again, and an episode that was
committed already is acknowledged without being written twice. Each sender has at most two batches on the way and waits
beyond that, so the actor's queue is bounded by the number of senders.
"""

from __future__ import annotations

import dataclasses
import socket
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.crew_member import WATCH
from cluster.supervision_processes import whereabouts
from cluster.versions import CODE, OtherCodeError, check_code, refusal, versions
from common.episode import Episode
from common.errors import StoreError
from common.processes import rss_bytes
from common.replay_config import ReplayConfig
from replay.disk_space import DiskLimits
from replay.location import EpisodeWriter, StoreLocation, locate
from replay.writer import Ack

_IN_FLIGHT = 2  # batches of one sender: one is committed while the next one travels
_RETRY_S = 0.2


def this_node() -> tuple[str, str]:
    """Ray's id of the machine this process runs on, and the machine's name."""
    return ray.get_runtime_context().get_node_id(), socket.gethostname()


def store_location(url: str) -> StoreLocation:
    """The location that `url` means to this process."""
    return locate(url, *this_node())


def disk_limits(settings: ReplayConfig) -> DiskLimits:
    """What the settings say about the disk."""
    return DiskLimits(settings.slow_free_bytes, settings.stop_free_bytes)


class ReplayWriter:
    """The actor: commits what collectors of other nodes send. Stateless but for its open segment writer; Ray starts it
    again when its process dies, and `cluster.status_writer` ends it when it hangs.
    """

    def __init__(self, location: StoreLocation, name: str, settings: ReplayConfig, code: str = "") -> None:
        """Open the store.

        Args:
            location: of a store on this node.
            name: first part of the writer id; each start adds a part of its own.
            settings: of the store.
            code: the driver's version; "" for any.

        Raises:
            OtherCodeError: if this process has other code.
            StoreError: if the store lies on another node or cannot be written.
        """
        if code:
            check_code(code, role="the store's writer")
        self._store = location.open(*this_node(), mode="a", ram_bytes=0)
        # Never the id of a process of this actor that may still be alive somewhere in a commit.
        self._writer = self._store.writer(
            f"{name}-{uuid.uuid4().hex[:12]}",
            max_episodes=settings.segment_episodes,
            max_bytes=settings.segment_bytes,
            disk=disk_limits(settings),
        )
        self._rows, self._committing_s = 0, 0.0
        self._held: set[str] = set()  # ids that the segment writer has taken and not acknowledged

    def commit(self, episodes: Sequence[Episode], again: bool) -> tuple[list[Ack], float]:
        """Make episodes durable.

        Args:
            episodes: a batch.
            again: part of it may have been committed when it was sent before.

        Returns:
            One ack per episode, in their order; seconds that the disk made it wait.

        Raises:
            StoreError: if the disk refuses; the batch may be committed with a later one all the same.
        """
        began = time.perf_counter()
        acks, slowed = self._known(episodes) if again else {}, self._writer.waits()["disk"]
        for episode in episodes:
            name = str(episode.meta.id)
            # What a commit that failed left in the segment writer goes with this one.
            if name not in acks and name not in self._held:
                self._held.add(name)
                self._rows += episode.num_rows
                acks |= {a.episode_id: a for a in self._writer.append(episode)}
        acks |= {a.episode_id: a for a in self._writer.flush()}
        self._held.clear()
        self._committing_s += time.perf_counter() - began
        return [acks[str(e.meta.id)] for e in episodes], self._writer.waits()["disk"] - slowed

    def report(self) -> dict[str, Any]:
        """What this process is and did, told by a thread beside the commits.

        Returns:
            host, where (its `Whereabouts`), rss_bytes, rows taken, committing_s, slowed_s by the disk [s].
        """
        return {
            "host": socket.gethostname(),
            "where": whereabouts(),
            "rss_bytes": rss_bytes(),
            "rows": self._rows,
            "committing_s": self._committing_s,
            "slowed_s": self._writer.waits()["disk"],
        }

    def _known(self, episodes: Sequence[Episode]) -> dict[str, Ack]:
        self._store.refresh()
        entries = [self._store.index.get(str(e.meta.id)) for e in episodes]
        shas = [e.sha256() for e in episodes]
        return {
            x.id: Ack(x.id, x.sha256, x.writer, x.seq)
            for x, sha in zip(entries, shas, strict=True)
            if x is not None and x.sha256 == sha
        }


def start_replay_writer(location: StoreLocation, name: str, settings: ReplayConfig) -> Any:
    """The writer actor of a local store, pinned to the store's node; returns its handle before it answers."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=1, concurrency_groups={WATCH: 1})(ReplayWriter)
    pinned = NodeAffinitySchedulingStrategy(location.node, soft=False)
    return actor.options(scheduling_strategy=pinned).remote(location, name, settings, versions()[CODE])


@dataclasses.dataclass
class _Batch:
    episodes: list[Episode]
    answer: Any = None
    sent: bool = False


class RemoteWriter:
    """Sends episodes to a writer actor: an `EpisodeWriter` for a process on another node than the store."""

    def __init__(self, actor: Any, max_episodes: int, max_bytes: int, timeout_s: float) -> None:
        """Send to `actor`.

        Args:
            actor: handle of a `ReplayWriter`.
            max_episodes: a batch is sent when it has this many episodes.
            max_bytes: or this many bytes of arrays.
            timeout_s: how long a batch is sent again and again before that is an error.
        """
        self._actor, self._max_episodes, self._max_bytes = actor, max_episodes, max_bytes
        self._timeout_s = timeout_s
        self._buffer: list[Episode] = []
        self._nbytes = 0
        self._flying: deque[_Batch] = deque()
        self._waits = {"disk": 0.0, "writer": 0.0}

    def append(self, episode: Episode) -> list[Ack]:
        """Take an episode in, send what is due, and wait while two batches are on the way.

        Returns:
            One ack per episode that became durable meanwhile.

        Raises:
            OtherCodeError: if the actor refused to start, having other code than the driver.
            StoreError: if a batch was not acknowledged in time, or the store refused it; it stays here, and the next
                call sends it again.
        """
        self._buffer.append(episode)
        self._nbytes += episode.nbytes()
        if len(self._buffer) < self._max_episodes and self._nbytes < self._max_bytes:
            return []
        return self._send()

    def flush(self) -> list[Ack]:
        """Send everything and wait for its acks; errors as in `append`."""
        acks = self._send() if self._buffer else []
        while self._flying:
            acks += self._settle()
        return acks

    def close(self) -> list[Ack]:
        """`flush`."""
        return self.flush()

    def waits(self) -> Mapping[str, float]:
        """Seconds waited so far: "writer" for the actor, "disk" of them because the store's disk fills."""
        return dict(self._waits)

    def _send(self) -> list[Ack]:
        acks: list[Ack] = []
        while len(self._flying) >= _IN_FLIGHT:
            acks += self._settle()
        batch = _Batch(self._buffer)
        self._buffer, self._nbytes = [], 0
        self._flying.append(batch)
        self._start(batch)
        return acks

    def _start(self, batch: _Batch) -> None:
        batch.answer = self._actor.commit.remote(batch.episodes, batch.sent)
        batch.sent = True

    def _settle(self) -> list[Ack]:
        """The acks of the oldest batch, sent again as often as the actor dies, until the deadline."""
        batch, began = self._flying[0], time.monotonic()
        deadline = began + self._timeout_s
        last = "it did not answer"
        try:
            while True:
                try:
                    if batch.answer is None:
                        self._start(batch)
                    acks, slowed = ray.get(batch.answer, timeout=max(deadline - time.monotonic(), 0.0))
                    break
                except RayTaskError as error:  # the actor is alive and said no
                    batch.answer = None
                    cause = error.cause
                    raise (cause if isinstance(cause, StoreError) else error) from None
                except RayActorError as error:
                    if other := refusal(error):
                        raise OtherCodeError(other) from None
                    last, batch.answer = str(error).strip().splitlines()[-1], None
                except ray.exceptions.GetTimeoutError:
                    pass
                if time.monotonic() >= deadline:
                    raise StoreError(
                        f"the store's writer actor did not acknowledge {len(batch.episodes)} episodes within "
                        f"replay.send_timeout_s = {self._timeout_s:g}: {last}"
                    )
                time.sleep(min(_RETRY_S, max(deadline - time.monotonic(), 0.0)))
        finally:
            self._waits["writer"] += time.monotonic() - began
        self._waits["disk"] += slowed
        self._flying.popleft()
        return list(acks)


def open_writer(location: StoreLocation, actor: Any, settings: ReplayConfig, name: str) -> EpisodeWriter:
    """How this process commits: by itself where it may, else through the writer actor.

    Args:
        location: of the store.
        actor: handle of the store's `ReplayWriter`, None where there is none.
        settings: of the store.
        name: writer id, unique among the processes that ever wrote to the store.

    Raises:
        StoreError: if the store lies on another node and has no writer actor, or cannot be written.
    """
    sizes = {"max_episodes": settings.segment_episodes, "max_bytes": settings.segment_bytes}
    node, host = this_node()
    if actor is not None and not location.is_local_to(node):
        return RemoteWriter(actor, **sizes, timeout_s=settings.send_timeout_s)
    return location.open(node, host, mode="a").writer(name, **sizes, disk=disk_limits(settings))
