"""Keeps inserting and sampling in step: rows sampled per row inserted, within a band, and not before there are enough.

The rule is that of Reverb's SampleToInsertRatio. While fewer than `min_size` rows are there, inserts are free and
samples wait. From then on a balance is kept: each inserted row adds `samples_per_insert`, each sampled row takes 1, and
what would move the balance out of -error_band .. +error_band waits. So in the long run

    samples = (inserts - min_size) * samples_per_insert, to within error_band.

It counts in exact fractions: a sum of rounded ratios would drift, and could close both sides at the very edge.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

from common.errors import StoreError, bad_value

Side = Literal["insert", "sample"]
_SETTINGS = ("min_size", "samples_per_insert", "error_band", "max_sample", "max_insert")


class LimiterTimeoutError(StoreError):
    """A side of the limiter waited until its deadline; nothing was counted."""


class Limiter:
    """Says when rows may be inserted and sampled. Any thread may call it.

    `insert` and `sample` wait until they may and then count; `try_insert` and `try_sample` answer at once, for a loop
    that does both in turn: at any time at least one of them says yes.
    """

    def __init__(
        self,
        min_size: int,
        samples_per_insert: float,
        error_band: float,
        *,
        max_sample: int = 1,
        max_insert: int = 1,
        capacity: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the rule.

        Args:
            min_size: rows that must be there before the first is sampled.
            samples_per_insert: how often a row is sampled on average.
            error_band: by how many sampled rows the balance may be off, either way; ``math.inf`` for no ratio at all.
            max_sample: most rows that are asked for at once, that is the batch size.
            max_insert: most rows that are inserted at once.
            capacity: rows that retention keeps at least, None where nothing is removed.
            clock: seconds; for tests.

        Raises:
            StoreError: if a setting is out of range, or both sides could come to wait for each other.
        """
        for name, count in (("min_size", min_size), ("max_sample", max_sample), ("max_insert", max_insert)):
            if count < 1:
                raise StoreError(bad_value(f"limiter {name}", count, "at least 1"))
        if not (math.isfinite(samples_per_insert) and samples_per_insert > 0):
            raise StoreError(bad_value("limiter samples_per_insert", samples_per_insert, "a finite number above 0"))
        # Samples wait below max_sample - band, inserts above band - max_insert * ratio: where these two overlap, a
        # balance between them lets neither go on.
        needed = (max_sample + max_insert * Fraction(samples_per_insert)) / 2
        if not error_band >= needed:
            raise StoreError(
                bad_value("limiter error_band", error_band, f"at least {math.ceil(needed)}")
                + f": with batches of {max_sample} rows and inserts of {max_insert} rows worth {samples_per_insert:g} "
                "samples each, a narrower band lets both sides wait for each other for ever"
            )
        if capacity is not None and min_size > capacity:
            raise StoreError(
                bad_value("limiter min_size", min_size, f"1 .. {capacity}")
                + ": retention removes rows before so many are there, and sampling would wait for ever"
            )
        self.min_size, self.samples_per_insert, self.error_band = min_size, samples_per_insert, error_band
        self.max_sample, self.max_insert = max_sample, max_insert
        self._ratio = Fraction(samples_per_insert)
        self._band: Fraction | float = error_band if math.isinf(error_band) else Fraction(error_band)
        self._inserts = self._samples = self._removed = 0
        self._balance = Fraction(0)
        self._changed = threading.Condition()
        self._clock = clock
        self._began = clock()
        self._waits: dict[Side, float] = {"insert": 0.0, "sample": 0.0}
        self._waiting_since: dict[Side, float | None] = {"insert": None, "sample": None}
        self._waiting: dict[Side, int] = {"insert": 0, "sample": 0}

    def try_insert(self, rows: int) -> bool:
        """Count `rows` as inserted if that may be now; else False.

        Raises:
            StoreError: if `rows` is not 1 .. max_insert.
        """
        return self._attempt("insert", rows)

    def try_sample(self, rows: int) -> bool:
        """Count `rows` as sampled if that may be now; else False.

        Raises:
            StoreError: if `rows` is not 1 .. max_sample.
        """
        return self._attempt("sample", rows)

    def insert(self, rows: int, timeout_s: float) -> None:
        """Wait until `rows` may be inserted, and count them.

        Raises:
            LimiterTimeoutError: if they may not within `timeout_s`.
            StoreError: if `rows` is not 1 .. max_insert.
        """
        self._wait("insert", rows, timeout_s)

    def sample(self, rows: int, timeout_s: float) -> None:
        """Wait until `rows` may be sampled, and count them.

        Raises:
            LimiterTimeoutError: if they may not within `timeout_s`.
            StoreError: if `rows` is not 1 .. max_sample.
        """
        self._wait("sample", rows, timeout_s)

    def remove(self, rows: int) -> None:
        """Count `rows` as removed by retention; below `min_size` sampling waits and inserts are free again.

        Raises:
            StoreError: if fewer rows are there.
        """
        with self._changed:
            if not 0 <= rows <= self._size():
                raise StoreError(bad_value("rows removed", rows, f"0 .. {self._size()}"))
            self._removed += rows
            self._changed.notify_all()

    def _size(self) -> int:
        return self._inserts - self._removed

    def _check(self, side: Side, rows: int) -> None:
        most = self.max_insert if side == "insert" else self.max_sample
        if not 1 <= rows <= most:
            raise StoreError(bad_value(f"rows of one {side}", rows, f"1 .. {most} (limiter max_{side})"))

    def _may(self, side: Side, rows: int) -> bool:
        if side == "sample":
            return self._size() >= self.min_size and self._balance - rows >= -self._band
        return self._size() < self.min_size or self._balance + rows * self._ratio <= self._band

    def _count(self, side: Side, rows: int) -> None:
        if side == "sample":
            self._samples += rows
            self._balance -= rows
        else:
            free = min(rows, max(0, self.min_size - self._size()))
            self._inserts += rows
            # An insert that fills up to min_size always goes on; what it brings beyond the band is free as well, or
            # removing and filling up again and again would add up to any balance.
            self._balance = Fraction(min(self._balance + (rows - free) * self._ratio, self._band))
        self._changed.notify_all()

    def _attempt(self, side: Side, rows: int) -> bool:
        self._check(side, rows)
        with self._changed:
            may = self._may(side, rows)
            if may:
                self._count(side, rows)
            self._note(side, waiting=not may or self._waiting[side] > 0)
            return may

    def _wait(self, side: Side, rows: int, timeout_s: float) -> None:
        self._check(side, rows)
        with self._changed:
            if not self._may(side, rows):
                self._note(side, waiting=True)
                self._waiting[side] += 1
                try:
                    granted = self._changed.wait_for(lambda: self._may(side, rows), timeout_s)
                finally:
                    self._waiting[side] -= 1
                    self._note(side, waiting=self._waiting[side] > 0)
                if not granted:
                    raise LimiterTimeoutError(
                        f"{side} of {rows} rows waited {timeout_s:g} s: {self._size()} rows are there (min_size = "
                        f"{self.min_size}), the balance is {float(self._balance):g} (allowed is {-self._band} .. "
                        f"{self._band}, {self.samples_per_insert:g} samples per insert)"
                    )
            self._count(side, rows)

    def _note(self, side: Side, waiting: bool) -> None:
        since, now = self._waiting_since[side], self._clock()
        if since is None and waiting:
            self._waiting_since[side] = now
        elif since is not None and not waiting:
            self._waits[side] += now - since
            self._waiting_since[side] = None

    def report(self) -> dict[str, float]:
        """What went through and who waited, since the limiter was made or its state loaded.

        Returns:
            inserts, samples, removed: rows, over all runs; balance: of sampled rows, see above;
            insert_wait, sample_wait: fraction of the time, 0 .. 1, that at least one caller of this side waited. A
            refused `try_...` waits until the next one of its side is allowed; seconds: the time they are fractions of.
        """
        with self._changed:
            waited = self._waited()
            elapsed = max(waited["all"], 1e-9)
            out = {"inserts": float(self._inserts), "samples": float(self._samples), "removed": float(self._removed)}
            out |= {"balance": float(self._balance), "seconds": elapsed}
            return out | {f"{side}_wait": waited[side] / elapsed for side in self._waits}

    def waited(self) -> dict[str, float]:
        """Seconds that each side waited so far ("insert", "sample"), as in `report`, and those that passed ("all").
        None of them ever gets smaller.
        """
        with self._changed:
            return self._waited()

    def _waited(self) -> dict[str, float]:
        now = self._clock()
        out = {"all": now - self._began}
        for side, ended in self._waits.items():
            since = self._waiting_since[side]
            out[side] = ended if since is None else ended + (now - since)
        return out

    def state(self) -> dict[str, Any]:
        """Counters and settings; JSON-ready."""
        with self._changed:
            return {
                "inserts": self._inserts,
                "samples": self._samples,
                "removed": self._removed,
                "balance": str(self._balance),
                "settings": self._settings(),
            }

    def _settings(self) -> dict[str, float | str]:
        # JSON has no infinity.
        return {n: "inf" if (v := getattr(self, n)) == math.inf else v for n in _SETTINGS}

    def load(self, state: Mapping[str, Any]) -> list[str]:
        """Take over the counters of `state`. The settings this limiter was made with stand.

        Where they changed, the new ratio holds from here on: what was inserted and sampled under the old one is not
        made up for, and the balance is brought into the new band.

        Returns:
            One line per setting that differs from that in the state.
        """
        with self._changed:
            own, old = self._settings(), state["settings"]
            self._inserts, self._samples = int(state["inserts"]), int(state["samples"])
            self._removed, self._balance = int(state["removed"]), Fraction(state["balance"])
            changed = [
                f"limiter {n} = {own[n]}, was {old.get(n)} in the checkpoint" for n in own if own[n] != old.get(n)
            ]
            if changed:
                self._balance = Fraction(min(max(self._balance, -self._band), self._band))
            self._began = self._clock()
            self._waits = {"insert": 0.0, "sample": 0.0}
            self._changed.notify_all()
            return changed
