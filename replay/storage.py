"""Where the bytes of a store lie: the few operations that the store's protocol needs, and nothing else.

`replay.storage_local` is a folder of this machine, `replay.storage_object` an object store. The protocol rests on one
promise of theirs: of all that `create` one name, exactly one succeeds, and when it returns the bytes are durable and
every reader sees them. No lock, no etag, no rename of what others read is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from numpy.typing import NDArray

from common.errors import StoreError, bad_value

# What a file is made of; an empty part stands for the crc32c of what comes before it.
Parts = list[NDArray[Any] | bytes]
# File path below a segment -> {"bytes", "crc32c"}, as a commit record has them.
Sums = Mapping[str, Mapping[str, int]]

T = TypeVar("T")
R = TypeVar("R")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Listing(NamedTuple):
    """Names directly below a folder, each sorted; empty where there is no such folder."""

    files: list[str]
    folders: list[str]


class Storage(Protocol):
    """A place for one store. Names are relative to it, parts separated by "/"; "" is the place itself. Any thread may
    use it.

    Everything raises OSError (`strerror` says why, `filename` where) if the place refuses or does not answer, and
    StoreError for a name that leads out of it.
    """

    @property
    def url(self) -> str:
        """Path or URL, for people and for opening it again."""

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one of this machine."""

    def where(self, name: str) -> str:
        """Path or URL of a name, for people."""

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError where there is none."""

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""

    def listing(self, folder: str) -> Listing:
        """What lies directly below a folder."""

    def files_after(self, folder: str, name: str) -> list[str]:
        """The files directly below a folder whose names sort after `name`, sorted."""

    def files(self, folder: str) -> dict[str, int]:
        """Path below the folder -> bytes, of all files at any depth."""

    def last_change(self, name: str) -> float:
        """Unix time [s] of the latest change of a file, or of a folder or anything below it."""

    def make_folder(self, folder: str) -> None:
        """Make sure that files can be created in a folder; durable."""

    def check_writable(self) -> None:
        """StoreError where it is known that this process may not write."""

    def create(self, name: str, data: bytes) -> bool:
        """Publish a file unless its name is taken; durable and visible when it returns. False if it was taken.

        No two calls may give the same bytes: by its bytes a file is known again whose first answer was lost.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Publish a file in place of what may be there: others see the old content or the new one; durable."""

    def delete(self, names: Collection[str]) -> None:
        """Delete files, those that are gone already left out; durable."""

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all it holds; what a kill leaves of it is never read and can be deleted again."""

    def move(self, source: str, target: str) -> None:
        """Give a file or folder that nobody reads another name."""

    def new_segment(self, stem: str) -> str:
        """A folder for a new segment, that only the caller has: ``data/<stem>...``."""

    def put_segment(self, segment: str, files: Mapping[str, Callable[[], Parts]], pool: ThreadPoolExecutor) -> Sums:
        """Write all files of a new segment at once; all of it is durable when it returns.

        Args:
            segment: of `new_segment`.
            files: path below it -> makes the content.
            pool: threads that may be used.
        """

    def refilled(self, segment: str, since: float) -> bool:
        """Whether somebody may have made a segment of this name anew after `since` (Unix time [s])."""

    def map_segment(self, segment: str, sums: Callable[[], Sums], *, anew: bool = False) -> str:
        """A folder of this machine with the files of a segment, to be mapped: its own, or a copy that is kept for the
        next time.

        Args:
            segment: of a commit record.
            sums: gives what the record says; asked where files must be fetched.
            anew: the copy turned out to be damaged or gone: fetch it again. StoreError where there is no copy.
        """

    def as_folder(self, segment: str) -> AbstractContextManager[Path]:
        """What lies in the store now under a segment's name, right or wrong, as a folder of this machine."""

    def free_bytes(self) -> int | None:
        """Room that is left; None where nobody knows an end."""

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``map(work, items)``, in that order, but many at the same time where waiting for answers is what costs. Only
        what is taken from it is sure to be done.
        """


# A store, by whatever its callers have at hand.
Where = Storage | Path | str


def open_storage(
    where: Where,
    *,
    options: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    cache_bytes: int | None = None,
) -> Storage:
    """The storage that a path or URL means; one that is open already is given back.

    Args:
        where: path, ``file://`` URL, ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://account/container/path``.
        options: settings of an object store beyond the environment's; see `replay.storage_object`.
        cache_dir: folder of this machine that segments of object stores are copied to.
        cache_bytes: that the copies of all stores may take there.

    Raises:
        StoreError: if it is neither, or an option is unknown.
    """
    from replay.storage_local import LocalStorage  # they name what stands here

    if not isinstance(where, str | Path):
        return where
    scheme = None if isinstance(where, Path) else _SCHEME.match(where)
    if scheme is None or scheme[1] == "file":
        if options:
            raise StoreError(bad_value("storage_options", dict(options), f"none for the local store {where}"))
        return LocalStorage(Path(where if scheme is None else str(where)[len("file://") :]))
    from replay.storage_object import open_object_storage

    return open_object_storage(str(where), options or {}, cache_dir, cache_bytes)


@contextmanager
def refusing(storage: Storage, what: str) -> Iterator[None]:
    """Within it, an OSError of the storage becomes the one line that says which store cannot be `what`, and why.

    Raises:
        StoreError: for it.
    """
    try:
        yield
    except OSError as error:
        cause = error.strerror or error
        raise StoreError(f"store {storage.url} cannot be {what}: {cause} ({error.filename})") from error


def inside(name: str, place: str) -> str:
    """The name itself, if it stays inside the store.

    Raises:
        StoreError: if it does not.
    """
    if name and any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in name.split("/")):
        raise StoreError(bad_value(f"path in store {place}", name, "relative, without '..'"))
    return name
