"""What every kind of storage promises to the protocol: of all that create one name one wins, and nothing leads out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

import replay.storage_local
from common.errors import StoreError
from replay.storage import Listing, Storage, open_storage
from replay.storage_local import LocalStorage
from replay.storage_object import ObjectStorage


def fill(storage: Storage, *names: str) -> None:
    storage.make_folder("")
    for name in names:
        storage.make_folder(name.rpartition("/")[0])
        assert storage.create(name, name.encode())


def test_files_come_and_go(storage: Storage) -> None:
    assert not storage.exists("") or isinstance(storage, LocalStorage)
    fill(storage, "a/00000002.json", "a/00000000.json", "a/b/00000001.json", "about")
    assert storage.exists("") and storage.exists("a") and storage.exists("a/b") and not storage.exists("a/c")
    assert storage.exists("about") and not storage.exists("abou")
    assert storage.listing("a") == Listing(["00000000.json", "00000002.json"], ["b"])
    assert storage.listing("") == Listing(["about"], ["a"]) and storage.listing("none") == Listing([], [])
    assert [n for n in storage.files_after("a", "00000000.json") if n != "b"] == ["00000002.json"]
    assert storage.files_after("none", "") == []
    assert storage.files("a") == {"00000000.json": 15, "00000002.json": 15, "b/00000001.json": 17}
    assert not storage.create("about", b"other") and storage.read("about") == b"about"
    storage.replace("about", b"new")
    assert storage.read("about") == b"new"
    assert storage.last_change("a") >= storage.last_change("a/00000000.json") > 1e9
    storage.move("a/b", "aside/b")
    storage.move("about", "aside/about")
    assert storage.listing("aside") == Listing(["about"], ["b"]) and not storage.exists("a/b")
    storage.delete(["a/00000002.json", "a/never"])
    assert storage.listing("a").files == ["00000000.json"]
    storage.delete_folder("aside")
    storage.delete_folder("aside")  # another process may have been faster
    assert storage.files("aside") == {} and not storage.exists("aside")
    with pytest.raises(FileNotFoundError) as caught:
        storage.read("aside/about")
    assert caught.value.strerror and str(caught.value.filename) == storage.where("aside/about")
    assert list(storage.each(lambda n: n + 1, range(600))) == list(range(1, 601))


def test_one_of_many_that_create_a_name_succeeds_and_all_see_it(storage: Storage) -> None:
    storage.make_folder("")
    storage.make_folder("race")
    barrier = threading.Barrier(4)

    def create(k: int) -> bool:
        barrier.wait()
        won = storage.create("race/one", f"writer {k}".encode())
        assert storage.read("race/one")
        return won

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(create, range(4)))
    assert sum(won) == 1 and storage.read("race/one") == f"writer {won.index(True)}".encode()


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../up", "a//b", "./a", "a\\..\\b", "a\0b"])
def test_names_that_lead_out_are_refused_by_every_method(storage: Storage, name: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: storage.read(name),
        lambda: storage.exists(name),
        lambda: storage.listing(name),
        lambda: storage.files_after(name, ""),
        lambda: storage.files(name),
        lambda: storage.last_change(name),
        lambda: storage.make_folder(name),
        lambda: storage.create(name, b""),
        lambda: storage.replace(name, b""),
        lambda: storage.delete([name]),
        lambda: storage.delete_folder(name),
        lambda: storage.move(name, "x"),
        lambda: storage.move("x", name),
        lambda: storage.map_segment("data/x", lambda: {name: {"bytes": 1, "crc32c": 0}, "zarr.json": {"bytes": 0}}),
        lambda: storage.map_segment(name, lambda: {}),
    ]
    skipped = 1 if isinstance(storage, LocalStorage) else 0  # a local segment is mapped where it lies
    for call in calls[: -2 * skipped or None]:
        with pytest.raises(StoreError, match="relative, without"):
            call()


def test_a_segment_is_put_mapped_and_looked_at(storage: Storage) -> None:
    storage.make_folder("")
    storage.make_folder("data")
    segment, other = storage.new_segment("w-00000000"), storage.new_segment("w-00000000")
    assert segment != other and segment.startswith("data/w-00000000") and segment.endswith(".zarr")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    files = {"zarr.json": lambda: [b"{}"], "iou/c.0": lambda: [array, array, b""]}
    with ThreadPoolExecutor(2) as pool:
        sums = storage.put_segment(segment, files, pool)
    body = array.tobytes() * 2
    whole = body + google_crc32c.value(body).to_bytes(4, "little")
    assert sums["iou/c.0"] == {"bytes": 52, "crc32c": google_crc32c.value(whole)}
    folder = Path(storage.map_segment(segment, lambda: sums))
    assert (folder / "iou/c.0").read_bytes() == whole and (folder / "zarr.json").read_bytes() == b"{}"
    with storage.as_folder(segment) as now:
        assert (now / "iou/c.0").read_bytes() == whole
    storage.delete_folder(segment)
    assert storage.files(segment) == {}


@pytest.mark.parametrize("parts", [3, 3000])
@pytest.mark.parametrize("in_ram", [False, True])
def test_a_file_is_whole_however_little_one_write_moves(tmp_path: Path, monkeypatch, parts: int, in_ram: bool) -> None:
    monkeypatch.setattr(replay.storage_local, "is_in_ram", lambda folder: in_ram)
    real_writev, real_write = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda file, blocks: real_writev(file, [blocks[0], blocks[1][:7]]))
    monkeypatch.setattr(os, "write", lambda file, data: real_write(file, data[:11]))
    storage = LocalStorage(tmp_path)
    storage.make_folder("data")
    rows = [np.arange(12, dtype=np.int64) + k for k in range(parts)]
    with ThreadPoolExecutor(2) as pool:
        sums = storage.put_segment(storage.new_segment("w"), {"x/c.0": lambda: [*rows, b""]}, pool)
    body = b"".join(row.tobytes() for row in rows)
    data = (tmp_path / "data/w.zarr/x/c.0").read_bytes()
    assert data == body + google_crc32c.value(body).to_bytes(4, "little")
    assert sums["x/c.0"] == {"bytes": len(data), "crc32c": google_crc32c.value(data)}


def test_in_ram_no_thread_is_asked_to_write(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(replay.storage_local, "is_in_ram", lambda folder: folder == tmp_path)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()  # from now on it refuses all work
    storage = LocalStorage(tmp_path)
    storage.make_folder("data")
    files = {"zarr.json": lambda: [b"{}"], "x/c.0": lambda: [b"abc"]}
    assert storage.put_segment(storage.new_segment("w"), files, pool).keys() == files.keys()
    assert storage.files("data/w.zarr") == {"zarr.json": 2, "x/c.0": 3}


def test_paths_and_urls_are_told_apart(tmp_path: Path) -> None:
    for where in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert open_storage(where).folder == tmp_path
    place = open_storage("s3://bucket/some/prefix/", cache_dir=tmp_path)
    assert isinstance(place, ObjectStorage) and place.folder is None and open_storage(place) is place
    assert place.where("store.json") == "s3://bucket/some/prefix/store.json"
    assert isinstance(
        open_storage("gs://bucket/p", cache_dir=tmp_path, options={"skip_signature": "true"}), ObjectStorage
    )
    for url, options, message in (
        ("ftp://host/x", {}, "store ftp://host/x cannot be opened"),
        ("s3://bucket/x", {"no_such": "1"}, "no_such"),
        ("s3://bucket/x", {"timeout_s": "soon"}, "storage_options timeout_s = 'soon'"),
        (str(tmp_path), {"region": "x"}, "none for the local store"),
    ):
        with pytest.raises(StoreError, match=message):
            open_storage(url, options=options)
    with pytest.raises(StoreError, match="cache_bytes = 0"):
        open_storage("s3://bucket/x", cache_bytes=0)
