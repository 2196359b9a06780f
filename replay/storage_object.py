"""A store in an object store: S3 and what speaks its language, Google Cloud Storage, Azure.

Credentials, endpoint and region come from the usual variables of the environment (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``; ``GOOGLE_...``; ``AZURE_...``). Options stand above
them: every setting of obstore by its name (``endpoint``, ``region``, ``access_key_id``, ``skip_signature``, ...), and

    timeout_s    for an answer, and between two parts of one [s]; 30
    retries      of a request; 12, which take about half a minute
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError

from common.errors import StoreError, bad_value
from replay.disk_cache import DiskCache, default_folder
from replay.storage import Listing, Parts, R, Sums, T, inside
from replay.storage_local import pieces

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CACHE_BYTES = 50_000_000_000
_AT_ONCE = 32  # requests under way: what costs is waiting for answers
_WHOLE_BYTES = 64 << 20  # larger files go up in parts
_TRIES = 3
_OWN = {"timeout_s": 30.0, "retries": 12.0}  # a store that is away for some seconds ends no run


def open_object_storage(
    url: str, options: Mapping[str, str], cache_dir: str | Path | None = None, cache_bytes: int | None = None
) -> ObjectStorage:
    """The place that `url` names; nothing is asked of it yet. Arguments and errors as in `open_storage`."""
    from obstore.store import from_url

    own = dict(_OWN)
    for name in own:
        if name in options:
            try:
                own[name] = float(options[name])
            except ValueError:
                own[name] = -1.0
            if not 0 <= own[name] < 3600:
                raise StoreError(bad_value(f"storage_options {name}", options[name], "a number, 0 to 3600"))
    rest: Any = {name: value for name, value in options.items() if name not in own}
    endpoint = next((v for k, v in rest.items() if k.lower().endswith("endpoint")), None)
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    answer = timedelta(seconds=own["timeout_s"])
    backoff: Any = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 3}
    try:
        store = from_url(
            url.rstrip("/"),
            config=rest or None,
            client_options={
                "connect_timeout": min(answer, timedelta(seconds=5)),
                "read_timeout": answer,
                "timeout": 20 * answer,
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={"max_retries": int(own["retries"]), "retry_timeout": 4 * answer, "backoff": backoff},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise StoreError(f"store {url} cannot be opened: {_cause(error)}") from error
    folder = default_folder() if cache_dir is None else Path(cache_dir)
    return ObjectStorage(store, url.rstrip("/"), DiskCache(folder, CACHE_BYTES if cache_bytes is None else cache_bytes))


def _cause(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:400] or type(error).__name__


class ObjectStorage:
    """All objects of `store`; for each method see `replay.storage.Storage`."""

    folder: Path | None = None

    def __init__(self, store: ObjectStore, url: str, cache: DiskCache) -> None:
        """Objects of `store`, which `url` names; segments are copied to `cache`."""
        self._store, self.url, self._cache = store, url, cache
        self._key = hashlib.sha256(url.encode()).hexdigest()[:16]

    @cached_property
    def _files_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="replay-object")

    @cached_property
    def _work_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="replay-each")  # its tasks wait for those of the other

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Errors of the client as those of a disk."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such object", self.where(name)) from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PermissionError(errno.EACCES, f"access denied: {_cause(error)}", self.where(name)) from error
        except BaseError as error:
            raise OSError(errno.EIO, f"object store failed: {_cause(error)}", self.where(name)) from error

    def where(self, name: str) -> str:
        """The URL of a name."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """One request."""
        inside(name, self.url)
        with self._asking(name):
            return bytes(obstore.get(self._store, name).bytes())

    def exists(self, name: str) -> bool:
        """An object, or one whose name goes on with a slash."""
        inside(name, self.url)
        with self._asking(name):
            if name:
                try:
                    obstore.head(self._store, name)
                    return True
                except FileNotFoundError:
                    pass
            return any(obstore.list(self._store, name or None, chunk_size=1))

    def listing(self, folder: str) -> Listing:
        """As many requests as there are thousands of names."""
        inside(folder, self.url)
        with self._asking(folder):
            found = obstore.list_with_delimiter(self._store, folder or None)
        files = [meta["path"].rpartition("/")[2] for meta in found["objects"]]
        return Listing(sorted(files), sorted(p.rstrip("/").rpartition("/")[2] for p in found["common_prefixes"]))

    def files_after(self, folder: str, name: str) -> list[str]:
        """Asks only for those."""
        inside(folder, self.url)
        offset = f"{folder}/{name}" if name else None
        below = [path[len(folder) + 1 :] for path, *_ in self._objects(folder, offset)]
        return sorted(n for n in below if "/" not in n)

    def _objects(self, folder: str, offset: str | None = None) -> list[tuple[str, int, float]]:
        """(name, bytes, Unix time [s] of the last change) of all objects below a folder."""
        with self._asking(folder):
            blocks = obstore.list(self._store, folder or None, offset=offset, chunk_size=1000)
            return [(m["path"], m["size"], m["last_modified"].timestamp()) for block in blocks for m in block]

    def files(self, folder: str) -> dict[str, int]:
        """As many requests as there are thousands of objects."""
        inside(folder, self.url)
        start = len(folder) + 1 if folder else 0
        return {path[start:]: size for path, size, _ in self._objects(folder)}

    def last_change(self, name: str) -> float:
        """By the clock of the object store."""
        inside(name, self.url)
        times = [t for _, _, t in self._objects(name)]
        if not times:
            with self._asking(name):
                times = [obstore.head(self._store, name)["last_modified"].timestamp()]
        return max(times)

    def make_folder(self, folder: str) -> None:
        """There are no folders."""
        inside(folder, self.url)

    def check_writable(self) -> None:
        """Only a write tells."""

    def create(self, name: str, data: bytes) -> bool:
        """By a put that fails if there is an object (If-None-Match)."""
        inside(name, self.url)
        with self._asking(name):
            for _ in range(_TRIES):
                try:
                    obstore.put(self._store, name, data, mode="create", use_multipart=False)
                    return True
                except AlreadyExistsError:
                    try:
                        # A request that was sent again because its answer was lost meets what it wrote itself.
                        return bytes(obstore.get(self._store, name).bytes()) == data
                    except FileNotFoundError:
                        continue  # deleted since, or refused only because another was under way
        raise OSError(errno.EAGAIN, "object store says of an object both that it is there and not", self.where(name))

    def replace(self, name: str, data: bytes) -> None:
        """One request."""
        inside(name, self.url)
        with self._asking(name):
            obstore.put(self._store, name, data, use_multipart=False)

    def delete(self, names: Collection[str]) -> None:
        """In requests of many names where the object store has them."""
        paths = [inside(name, self.url) for name in names]
        with self._asking(paths[0] if paths else ""):
            try:
                obstore.delete(self._store, paths)
            except FileNotFoundError:  # some object stores say so, and stop there
                for path in paths:
                    try:
                        obstore.delete(self._store, path)
                    except FileNotFoundError:
                        continue

    def delete_folder(self, folder: str) -> None:
        """All objects below it."""
        self.delete([f"{folder}/{name}" for name in self.files(folder)])

    def move(self, source: str, target: str) -> None:
        """Copies, then deletes."""
        inside(target, self.url)
        below = [f"/{name}" for name in self.files(source)] or [""]
        with self._asking(source):
            list(self._files_pool.map(lambda n: obstore.copy(self._store, source + n, target + n), below))
        self.delete([source + n for n in below])

    def new_segment(self, stem: str) -> str:
        """By a name that nobody can have chosen."""
        return f"data/{stem}-{uuid.uuid4().hex[:12]}.zarr"

    def put_segment(self, segment: str, files: Mapping[str, Callable[[], Parts]], pool: ThreadPoolExecutor) -> Sums:
        """One request per file, of a large one per part."""
        names = [inside(f"{segment}/{name}", self.url) for name in files]
        return dict(zip(files, pool.map(self._put, names, files.values()), strict=True))

    def _put(self, name: str, parts: Callable[[], Parts]) -> dict[str, int]:
        made = list(pieces(parts()))
        data = b"".join(piece for piece, _ in made)
        with self._asking(name):
            obstore.put(self._store, name, data, use_multipart=len(data) > _WHOLE_BYTES, chunk_size=16 << 20)
        return {"bytes": len(data), "crc32c": made[-1][1] if made else 0}

    def refilled(self, segment: str, since: float) -> bool:
        """No name is used twice."""
        return False

    def map_segment(self, segment: str, sums: Callable[[], Sums], *, anew: bool = False) -> str:
        """A copy on the disk of this node, checked against the sums when it is fetched."""
        recorded = {inside(name, self.url): s for name, s in sums().items()}
        key = f"{self._key}-{inside(segment, self.url).replace('/', '_')}"
        return self._cache.get(key, recorded, partial(self._fetch, segment, recorded), anew)

    @contextmanager
    def as_folder(self, segment: str) -> Iterator[Path]:
        """A copy beside the others, which is deleted at the end."""
        found = self.files(segment)
        with self._cache.room(sum(found.values())) as folder:
            self._fetch(segment, {name: {"bytes": size} for name, size in found.items()}, folder)
            yield Path(folder)

    def _fetch(self, segment: str, sums: Sums, folder: str) -> None:
        """Write all files of a segment below `folder`."""
        for name in sums:
            os.makedirs(os.path.dirname(f"{folder}/{inside(name, self.url)}"), exist_ok=True)
        list(
            self._files_pool.map(
                lambda n: self._fetch_file(f"{segment}/{n}" if segment else n, f"{folder}/{n}", sums[n]), sums
            )
        )

    def _fetch_file(self, name: str, path: str, expected: Mapping[str, int]) -> None:
        """Raises OSError if it is not what is expected, also when it is asked for again."""
        for tries in range(1, _TRIES + 1):
            try:
                size, crc = self._stream(name, path, expected["bytes"])
                if size == expected["bytes"] and crc == expected.get("crc32c", crc):
                    return
                said = ", ".join(f"{k} {v}" for k, v in expected.items())
                problem = OSError(errno.EIO, f"object is damaged: bytes {size}, crc32c {crc}; {said}", self.where(name))
            except FileNotFoundError:
                raise
            except OSError as error:
                problem = error
            if tries == _TRIES:
                raise problem
            time.sleep(0.05 * tries)

    def _stream(self, name: str, path: str, most: int) -> tuple[int, int]:
        size, crc = 0, 0
        with self._asking(name), open(path, "wb") as f:
            for block in obstore.get(self._store, name).stream(min_chunk_size=1 << 20):
                data = bytes(block)
                size, crc = size + len(data), google_crc32c.extend(crc, data)
                if size > most:
                    break
                f.write(data)
        return size, crc

    def free_bytes(self) -> None:
        """There is no end."""
        return

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Some hundreds are begun before the first is taken."""
        rest = iter(items)
        while block := list(itertools.islice(rest, 8 * _AT_ONCE)):
            yield from self._work_pool.map(work, block)
