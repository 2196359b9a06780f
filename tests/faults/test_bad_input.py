"""Whatever bytes the files of a store hold, nothing but a StoreError of one line comes of it, and no huge memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import sqlite3
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import NASTY, body_of, changed, make_store, places, use, write_checked
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import StoreError
from common.rng import Purpose, philox
from replay.store import open_store
from replay.verify import find_faults

pytestmark = pytest.mark.faults
CHECKED = ("commits/w/00000001.json", "tombstones/00000000.json", "pins/mine.json", "decisions/00000000.json")
PLAIN = ("store.json", "data/w-00000001.zarr/zarr.json")
BINARY = ("data/w-00000001.zarr/image/c.0.0.0.0", "data/w-00000001.zarr/low_f32/c.0.0")
MEMORY = 3 << 30  # bytes of addresses above what the process has


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """One store for all examples: each puts back what it changed."""
    with tempfile.TemporaryDirectory() as folder:
        yield make_store(Path(folder) / "s")


class Replaced:
    """Other bytes in a file, for as long as the context lasts."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.good = path, data, path.read_bytes()

    def __enter__(self) -> None:
        self.path.write_bytes(self.data)

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.good)


@settings(max_examples=12)
@given(name=st.sampled_from([*CHECKED, *PLAIN, *BINARY]), data=st.binary(max_size=400))
def test_random_bytes_in_place_of_a_file_are_refused_by_name(root: Path, name: str, data: bytes) -> None:
    with Replaced(root / name, data):
        assert any(name.split("/")[-1] in error or name in error for error in [*use(root), *map(str, faults_of(root))])
    assert not use(root)


def faults_of(root: Path) -> list[Any]:
    try:
        return list(find_faults(root))
    except StoreError as error:
        return [error]


@settings(max_examples=12)
@given(name=st.sampled_from([*CHECKED, *PLAIN]), cut=st.floats(0.0, 1.0), extra=st.binary(max_size=3))
def test_files_that_are_cut_or_longer_are_refused(root: Path, name: str, cut: float, extra: bytes) -> None:
    good = (root / name).read_bytes()
    data = good[: int(cut * len(good))] + extra
    if data.strip() != good.strip():
        with Replaced(root / name, data):
            assert faults_of(root) != []
            use(root)


@contextlib.contextmanager
def mutated(root: Path, name: str, at: tuple[Any, ...], new: Any) -> Iterator[Path]:
    """A file with another value in it, its checksum right, until the context ends."""
    path = root / name
    body = changed(json.loads(path.read_bytes()) if name in PLAIN else body_of(path), at, new)
    with Replaced(path, path.read_bytes()):
        if name in PLAIN:
            path.write_text(json.dumps(body))
        else:
            write_checked(path, body)
        yield path


def mutate(root: Path, name: str, at: tuple[Any, ...], new: Any) -> None:
    with mutated(root, name, at, new):
        use(root, lies=True)


@settings(max_examples=30)
@given(data=st.data())
def test_values_that_cannot_be_are_refused_also_where_the_checksum_holds(root: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*CHECKED, *PLAIN]))
    at = data.draw(st.sampled_from(list(places(body_of(root / name)))))
    new = data.draw(st.sampled_from([*NASTY, ...] if at else NASTY))
    mutate(root, name, at, new)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHECKED, *PLAIN])
def test_many_values_in_many_places(root: Path, name: str) -> None:
    cases = [(at, new) for at in places(body_of(root / name)) for new in ([*NASTY, ...] if at else NASTY)]
    seed = secrets.randbits(32)
    print(f"seed: {seed}")
    for k in philox(seed, Purpose.SAMPLER).permutation(len(cases))[:600]:
        mutate(root, name, *cases[k])


# What was once answered by another exception, by a wrong answer, or by counting for ever.
KNOWN: list[tuple[str, tuple[Any, ...], Any]] = [
    ("commits/w/00000001.json", ("committed_at",), None),
    ("commits/w/00000001.json", ("committed_at",), []),
    ("commits/w/00000001.json", ("seq",), "a\nb"),
    ("commits/w/00000001.json", ("files",), {"": 0}),
    ("commits/w/00000001.json", ("files",), []),
    ("commits/w/00000001.json", ("files", "zarr.json"), {}),
    ("commits/w/00000001.json", ("files", "image/c.0.0.0.0", "crc32c"), None),
    ("commits/w/00000001.json", ("files", "image/c.0.0.0.0", "bytes"), 2**64),
    ("commits/w/00000001.json", ("episodes", 0, "id"), []),
    ("commits/w/00000001.json", ("episodes", 0, "id"), "x"),
    ("commits/w/00000001.json", ("episodes", 0, "sha256"), 5),
    ("commits/w/00000001.json", ("episodes", 0, "start"), -1),
    ("commits/w/00000001.json", ("episodes", 0, "start"), 1.5),
    ("commits/w/00000001.json", ("episodes", 0, "rows"), 2**62),
    ("commits/w/00000001.json", ("episodes", 0, "valid_rows"), True),
    ("commits/w/00000001.json", ("episodes", 0, "iou_final"), "x"),
    ("commits/w/00000001.json", ("episodes", 0, "meta", "phase"), ["il"]),
    ("tombstones/00000000.json", ("created_at",), 10**400),
    ("tombstones/00000000.json", ("records", 0, "seq"), 2**62),
    ("tombstones/00000000.json", ("records", 0, "seq"), "0"),
    ("tombstones/00000001.json", ("records", 0, "seq"), 50_000_000),
    ("decisions/00000000.json", ("going",), [["w", 2**62]]),
    ("decisions/00000000.json", ("going",), 5),
    ("pins/mine.json", ("position", "w"), 50_000_000),
    ("pins/mine.json", ("created_at",), 10**400),
    ("pins/mine.json", ("position", "w"), 2**62),
    ("pins/mine.json", ("position", "w"), 0.5),
    ("pins/mine.json", ("phases",), [5]),
    ("pins/mine.json", ("kinds",), 5),
    ("data/w-00000001.zarr/zarr.json", ("attributes", "fields", "action", 0), "x"),
    ("store.json", ("store_id",), 2**64),
    ("data/w-00000001.zarr/zarr.json", ("attributes", "fields", "image"), [2**40, 2**40, 3]),
    ("data/w-00000001.zarr/zarr.json", ("attributes", "fields", "action"), [2**40]),
    ("data/w-00000001.zarr/zarr.json", ("attributes", "fields", "action"), []),
]


@pytest.mark.parametrize(("name", "at", "new"), KNOWN, ids=lambda v: str(v)[:40])
def test_each_of_these_is_refused_by_name(root: Path, name: str, at: tuple[Any, ...], new: Any) -> None:
    with mutated(root, name, at, new) as path:
        assert any(path.name in str(fault) or "store_id" in str(fault) for fault in faults_of(root))
        use(root, lies=True)


def in_a_process_of_little_memory(work: Callable[[], object]) -> None:
    """Run in a child that may map only so much more; it must end well."""
    child = os.fork()
    if child == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the parent sees how it ended
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


SIZES = (2**31, 2**38, 2**47, 2**62)


@pytest.mark.parametrize("size", SIZES)
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(root: Path, size: int) -> None:
    record, group = root / CHECKED[0], root / PLAIN[1]
    in_record = [("episodes", 0, "rows"), ("episodes", 0, "start"), ("files", "image/c.0.0.0.0", "bytes")]
    bodies: list[tuple[Path, bytes]] = []
    for at in in_record:
        body = changed(body_of(record), at, size)
        if at[-1] == "rows":
            body = changed(body, ("episodes", 0, "valid_rows"), size)
        with Replaced(record, record.read_bytes()):
            write_checked(record, body)
            bodies.append((record, record.read_bytes()))
    metadata = json.loads(group.read_bytes())
    for at in (
        ("consolidated_metadata", "metadata", "image", "shape", 0),
        ("consolidated_metadata", "metadata", "low_f32", "shape", 0),
        ("attributes", "fields", "image", 0),
        ("attributes", "fields", "action", 0),
    ):
        bodies.append((group, json.dumps(changed(metadata, at, size)).encode()))

    def work() -> None:
        for path, data in bodies:
            with Replaced(path, data):
                assert [*use(root, lies=True), *faults_of(root)], f"{path.name}: nothing was refused"

    in_a_process_of_little_memory(work)


def test_json_that_nests_too_deep_is_refused(root: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for name in (*CHECKED, *PLAIN):
        path = root / name
        with Replaced(path, path.read_bytes()):
            if name in PLAIN:
                path.write_text('{"attributes": ' + deep + "}")
            else:
                write_deep(path, deep)
            assert faults_of(root)
            use(root, lies=True)


def write_deep(path: Path, deep: str) -> None:
    import google_crc32c

    text = ('{"version": 1, "x": ' + deep).encode()
    path.write_bytes(text + b', "crc32c": "%08x"}' % google_crc32c.value(text))


@settings(max_examples=8)
@given(data=st.binary(max_size=5000))
@example(data=b"")
@example(data=b"SQLite format 3\x00" + bytes(84))
def test_any_bytes_as_an_index_are_replaced(root: Path, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index.sqlite"
        index.write_bytes(data)
        assert use(root, index) == []
        with sqlite3.connect(index) as db:
            assert db.execute("SELECT COUNT(*) FROM episodes").fetchone() == (2,)
        db.close()


@pytest.mark.parametrize(
    "where", ["data/../../etc", "/etc", "data/w-00000001.zarr/../../../x", "..", "data/.hidden", ""]
)
@pytest.mark.parametrize("name", CHECKED[:2])
def test_a_path_out_of_the_store_is_refused(root: Path, name: str, where: str) -> None:
    path = root / name
    at = ("segment",) if name.startswith("commits") else ("records", 0, "segment")
    if where == "" and at[0] == "records":
        pytest.skip("the segment of a lost record has no name")
    with Replaced(path, path.read_bytes()):
        write_checked(path, changed(body_of(path), at, where))
        assert str(path) in str(faults_of(root)[0])
        with pytest.raises(StoreError, match=path.name):
            open_store(root).refresh()


def test_a_link_out_of_the_store_is_not_followed(root: Path, tmp_path: Path) -> None:
    """Also where what it leads to is, byte for byte, what the record names."""
    segment = root / "data" / "w-00000001.zarr"
    for inner in ("", "image", "image/c.0.0.0.0", "zarr.json", "image/zarr.json"):
        place, elsewhere = segment / inner if inner else segment, tmp_path / (inner or "all")
        elsewhere.parent.mkdir(exist_ok=True)
        shutil.move(place, elsewhere)
        place.symlink_to(elsewhere)
        assert any("link" in str(fault) and str(place.relative_to(root)) in str(fault) for fault in faults_of(root)), (
            inner
        )
        store = open_store(root)
        store.refresh()
        if inner != "image/zarr.json":  # that one is for others to read
            with pytest.raises(StoreError, match="link"):
                for entry in store.select():
                    store.read_episode(entry)
        store.close()
        place.unlink()
        shutil.move(elsewhere, place)
    assert use(root) == []
