"""Reading one segment through memory maps. `replay.segment_files` writes it; any zarr library can read it."""

from __future__ import annotations

import math
import os
import struct
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from common.episode import FIELDS, SCHEMA_VERSION, Episode, EpisodeMeta
from common.errors import StoreError, bad_value
from replay import fast_json
from replay.checks import MAX_BYTES
from replay.layout import FORMAT_VERSION, SEGMENT_FORMAT, ArraySpec, Signature, plan
from replay.mapping import address_of, map_file
from replay.segment_files import shard_index
from replay.storage import Sums


def file_crc32c(path: Path) -> tuple[int, int]:
    """(size in bytes, crc32c) of a file, read in pieces."""
    crc, size = 0, 0
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            crc, size = google_crc32c.extend(crc, block), size + len(block)
    return size, crc


_TRIES = 3  # to fetch a copy again

_CHECKED_AT_ONCE = 1 << 23  # bytes; other threads run between two pieces


class Usage:
    """What open segments hold: maps and bytes of arrays copied to RAM; and which files were found to be whole."""

    def __init__(self) -> None:
        self.files, self.cached_bytes = 0, 0
        # By segment, a bit for each array that was found whole: it is never changed, so one check is enough.
        self.whole: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, files: int, cached_bytes: int) -> None:
        """Add to what is held."""
        with self._lock:
            self.files += files
            self.cached_bytes += cached_bytes


@lru_cache(maxsize=64)
def _layout(fields: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[dict[str, ArraySpec], dict[str, ArraySpec]]:
    """Arrays by name and by field; the same object for the same signature."""
    specs = {spec.name: spec for spec in plan(dict(fields))}
    return specs, {field: spec for spec in specs.values() for field in spec.fields}


def _refuse_link(path: str) -> None:
    if os.path.islink(path):
        raise StoreError(f"{path} is a link: a segment holds its files itself")


class Segment:
    """A committed segment, mapped into memory. Arrays are opened on first use and stay open until `close`."""

    def __init__(
        self,
        path: str | Path,
        usage: Usage | None = None,
        sums: Callable[[], Sums] | None = None,
        renew: Callable[[], str] | None = None,
    ) -> None:
        """Read the metadata of the segment at `path`.

        Args:
            path: its folder.
            usage: counts what it holds, with that of other segments.
            sums: gives the sums that its files should have; every array is checked when it is opened first. None
                checks only the sums that the files carry themselves: those of arrays with small rows.
            renew: of a copy that turns out to be damaged or gone: fetches it again.

        Raises:
            StoreError: if it is missing, not a segment, or of another format.
        """
        self.path = str(path)
        self.name = os.path.basename(self.path)
        self._usage = Usage() if usage is None else usage
        self._sums, self._renew = sums, renew
        try:
            about = f"{self.path}/zarr.json"
            for place in (self.path, about):
                _refuse_link(place)
            with open(about, "rb", buffering=0) as f:
                root = fast_json.loads(f.readall())
            attributes = root["attributes"]
            own = {k: attributes.get(k) for k in ("format", "format_version", "schema_version")}
            expected = {"format": SEGMENT_FORMAT, "format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION}
            if own != expected:
                raise StoreError(bad_value(f"format of segment {path}", own, str(expected)))
            self.signature: Signature = {n: tuple(s) for n, s in attributes["fields"].items()}
            if any(type(d) is not int or not 0 <= d <= MAX_BYTES for s in self.signature.values() for d in s):
                raise StoreError(bad_value(f"fields of segment {path}", self.signature, "names and their shapes"))
            self.attributes: dict[str, Any] = attributes
            metadata = root["consolidated_metadata"]["metadata"]
            self._specs, self._array_of = _layout(tuple(self.signature.items()))
            self._counts = {name: int(metadata[name]["shape"][0]) for name in self._specs}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise StoreError(f"segment {path} cannot be read: {type(error).__name__}: {error!s:.300}") from error
        self._lock = threading.Lock()  # to open and close; what is open is read without it
        self._open: dict[str, tuple[NDArray[Any], int]] = {}  # and where the array lies
        self._cached: set[str] = set()
        self._views: dict[str, NDArray[Any]] = {}
        self._closed = False

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """The stored arrays by name."""
        return self._specs

    def spec_of(self, field: str) -> ArraySpec:
        """Which array holds a field.

        Raises:
            StoreError: if the segment does not have the field.
        """
        if field not in self._array_of:
            raise StoreError(bad_value(f"field of segment {self.name}", field, f"one of {sorted(self._array_of)}"))
        return self._array_of[field]

    def stored(self, name: str, cache: bool = False) -> NDArray[Any]:
        """Stored array (entries, *spec.shape), read-only.

        Args:
            name: of the array.
            cache: copy it to RAM instead of mapping it (where it is not open already).

        Raises:
            StoreError: if the file is missing, too short or too long, or its checksum or shard index is wrong.
        """
        return self.located(name, cache)[0]

    def located(self, name: str, cache: bool = False) -> tuple[NDArray[Any], int]:
        """`stored`, and the address of its first byte, which is good for as long as the array is held."""
        found = self._open.get(name)
        if found is not None:
            return found
        with self._lock:
            if name in self._open:
                return self._open[name]
            array = self._mapped(self._specs[name], cache)
            found = array, address_of(array)
            if not self._closed:  # one that was closed while somebody still reads it holds nothing any more
                self._open[name] = found
                self._usage.count(0 if cache else 1, array.nbytes if cache else 0)
                if cache:
                    self._cached.add(name)
            return found

    def _mapped(self, spec: ArraySpec, cache: bool) -> NDArray[Any]:
        for _ in range(_TRIES if self._renew else 0):
            try:
                return self._map(spec, cache)
            except StoreError:
                assert self._renew is not None
                try:
                    self._renew()
                except OSError as error:
                    where = f"{error.strerror} ({error.filename})"
                    raise StoreError(f"segment {self.name} cannot be fetched: {where}") from error
        return self._map(spec, cache)

    def _map(self, spec: ArraySpec, cache: bool) -> NDArray[Any]:
        name, count = f"{spec.name}/{spec.chunk_file}", self._counts[spec.name]
        path = f"{self.path}/{name}"
        size = count * spec.row_bytes
        trailer = 16 * count + 4 if spec.sharded else 4
        for place in (f"{self.path}/{spec.name}", path):
            _refuse_link(place)
        try:
            with open(path, "rb", buffering=0) as f:
                # A map of a file that is too short would kill the process with a bus error when it is touched.
                actual = f.seek(0, 2)
                if actual != size + trailer:
                    raise StoreError(bad_value(f"size of {path}", actual, f"{size + trailer} bytes"))
                f.seek(0)
                mapped = np.frombuffer(f.readall(), np.uint8) if cache else map_file(f.fileno(), actual)
        except OSError as error:
            raise StoreError(f"array {path} cannot be read: {error}") from error
        tail = mapped[size:].tobytes()
        if spec.sharded:
            index = shard_index(count, spec.row_bytes)
            if tail != index + struct.pack("<I", google_crc32c.value(index)):
                raise StoreError(f"shard index of {path} is damaged")
        bit = 1 << list(self._specs).index(spec.name)
        if not self._usage.whole.get(self.path, 0) & bit:
            self._check(name, mapped, None if spec.sharded else tail)
            self._usage.whole[self.path] = self._usage.whole.get(self.path, 0) | bit
        return mapped[:size].view(spec.dtype).reshape(count, *spec.shape)

    def _check(self, name: str, data: NDArray[np.uint8], tail: bytes | None) -> None:
        """Refuse a file that is not the one that was committed; `tail` is the sum that it carries itself, if any."""
        path = f"{self.path}/{name}"
        if self._sums is not None:
            recorded = self._sums().get(name)
            if recorded is None:
                raise StoreError(f"array {path} is not named by its commit record")
            expected = recorded["crc32c"]
        elif tail is not None:
            expected, data = int.from_bytes(tail, "little"), data[: -len(tail)]
        else:
            return
        crc = 0
        for start in range(0, len(data), _CHECKED_AT_ONCE):
            crc = google_crc32c.extend(crc, data[start : start + _CHECKED_AT_ONCE])
        if crc != expected:
            raise StoreError(bad_value(f"crc32c of {path}", f"{crc:08x}", f"{expected:08x}: the file is damaged"))

    def view(self, field: str, cache: bool = False) -> NDArray[Any]:
        """All entries of one field as they are stored, read-only: its columns, bits, or the array itself.

        Args:
            field: name.
            cache: hold it in RAM where it is small (columns and bits); images stay mapped.

        Raises:
            StoreError: as in `spec_of` and `stored`.
        """
        view = self._views.get(field)
        if view is None:
            spec = self.spec_of(field)
            view = self.stored(spec.name, cache and spec.form != "plain")
            if spec.form == "columns":
                start, shape = spec.fields[field]
                view = view[:, start : start + math.prod(shape)].reshape(len(view), *shape)
            self._views[field] = view
        return view

    def read(self, field: str, start: int, stop: int) -> NDArray[Any]:
        """Entries start..stop of a field, a copy (stop - start, *field shape)."""
        stored = self.view(field)[start:stop]
        spec = self.spec_of(field)
        return spec.decode(stored, field) if spec.form == "bits" else np.array(stored)

    def check_rows(self, start: int, rows: int) -> None:
        """Refuse rows that the segment does not have, before anything is made of that size.

        Raises:
            StoreError: naming the segment.
        """
        count = min(self._counts[name] for name, spec in self._specs.items() if spec.level == "step")
        if not 0 <= start <= start + rows <= count:
            raise StoreError(bad_value(f"rows of segment {self.path}", f"{start} .. {start + rows}", f"0 .. {count}"))

    def read_episode(self, meta: EpisodeMeta, slot: int, start: int, rows: int) -> Episode:
        """The checked record of the episode with number `slot`, which has `rows` rows from row `start` on."""
        self.check_rows(start, rows)
        steps = {n: self.read(n, start, start + rows) for n in self.signature if FIELDS[n].level == "step"}
        fixed = {n: self.read(n, slot, slot + 1)[0] for n in self.signature if FIELDS[n].level == "episode"}
        # A scalar field leaves numpy's array type when it is indexed.
        return Episode(meta, steps, {n: np.asarray(a) for n, a in fixed.items()})

    def close(self) -> None:
        """Drop the maps; arrays that were handed out keep theirs alive until they are dropped too."""
        with self._lock:
            self._closed = True
            cached = sum(self._open[name][0].nbytes for name in self._cached)
            self._usage.count(len(self._cached) - len(self._open), -cached)
            self._open.clear()
            self._views.clear()
            self._cached.clear()
