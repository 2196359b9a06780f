"""Draws batches ahead in a thread, without changing a draw."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from common.errors import StoreError, bad_value
from replay.drawing import Batch, CounterSampler, Group

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """The batches of a sampler, `depth` of them drawn ahead by one thread.

    `next` gives what ``sampler.next(groups)`` would give at that moment: batches that were drawn ahead from a view of
    the store that was refreshed since are drawn again. While it is open, the sampler belongs to it, and one thread
    uses it.
    """

    def __init__(
        self,
        sampler: CounterSampler,
        groups: Sequence[Group],
        convert: Callable[[Batch], T],
        depth: int = 2,
        count: int | None = None,
    ) -> None:
        """Begin to draw.

        Args:
            sampler: to draw with, from the step its state says.
            groups: of every batch.
            convert: what the thread makes of a batch, such as `replay.torch_batches.to_torch`.
            depth: batches that are held ready at most.
            count: batches that `next` gives at most, so that none is drawn ahead in vain; None is no end.

        Raises:
            StoreError: if depth is below 1.
        """
        if depth < 1:
            raise StoreError(bad_value("prefetch depth", depth, "at least 1"))
        self._sampler, self._groups, self._convert, self._depth = sampler, tuple(groups), convert, depth
        self._step = int(sampler.state()["next"])
        self._end = None if count is None else self._step + count
        self._ahead: deque[tuple[int, Future[T]]] = deque()
        # One thread: a second one gains nothing on reads from memory, and samplers need no lock.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay-prefetch")
        self._closed = False
        self.waited_s = 0.0
        self._fill()

    def _fill(self) -> None:
        generation = self._sampler.store.generation
        while len(self._ahead) < self._depth:
            step = self._step + len(self._ahead)
            if step == self._end:
                return
            self._ahead.append((generation, self._thread.submit(self._draw, self._groups, step)))

    def _draw(self, groups: Sequence[Group], step: int) -> T:
        return self._convert(self._sampler.batch(groups, step))

    def _drop(self) -> None:
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def next(self) -> T:
        """The next batch, waiting for it if need be; `waited_s` sums up the seconds.

        Raises:
            StoreError: if it is closed or at its end, or what the draw raised; the same step is drawn again then.
        """
        if self._closed:
            raise StoreError("a prefetcher that was closed has no next batch")
        if self._step == self._end:
            raise StoreError(f"a prefetcher has no batch beyond its count, which ended at step {self._end}")
        if self._ahead and self._ahead[0][0] != self._sampler.store.generation:
            self._drop()
        self._fill()
        began = time.perf_counter()
        try:
            out = self._ahead[0][1].result()
        except BaseException:
            self._drop()
            raise
        finally:
            self.waited_s += time.perf_counter() - began
        self._ahead.popleft()
        self._step += 1
        self._fill()
        return out

    def regroup(self, groups: Sequence[Group]) -> None:
        """Draw other groups from the next step on, such as those of a new round."""
        if tuple(groups) != self._groups:
            self._groups = tuple(groups)
            self._drop()

    def state(self) -> dict[str, Any]:
        """The sampler's state at the step that `next` gives next, not at the one drawn last; JSON-ready."""
        return {**self._sampler.state(), "next": self._step}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; errors as those of the sampler's `load`."""
        self._sampler.load(state)
        self._step = int(state["next"])
        self._drop()

    def close(self) -> None:
        """Stop the thread, and leave the sampler at the step that `next` would have given."""
        if not self._closed:
            self._closed = True
            self._drop()
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._sampler.load(self.state())

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
