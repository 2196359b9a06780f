"""Opening, committing, refreshing and reading a store."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import assert_same, make_episode, version

from common.episode import KINDS, Episode
from common.errors import StoreError
from replay.index import Query
from replay.record import encode_record, record_path
from replay.storage_local import LocalStorage
from replay.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "s", "a", create=True)


def commit(store: Store, episodes: list[Episode], writer: str = "w", **limits: int) -> None:
    w = store.writer(writer, **limits)
    acks = [ack for e in episodes for ack in w.append(e)] + w.close()
    assert sorted(a.episode_id for a in acks) == sorted(str(e.meta.id) for e in episodes)


@settings(max_examples=30)
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(1, 7), st.sampled_from([1, 8, 20, 40])), min_size=1, max_size=8
    ),
    max_episodes=st.integers(1, 4),
)
def test_random_episodes_of_all_kinds_come_back_identical(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple], max_episodes: int
) -> None:
    store = open_store(tmp_path_factory.mktemp("p") / "s", "a", create=True)
    episodes = [
        make_episode(kind, env=i, rows=rows, size=size, acted=version(i) if i % 2 else None)
        for i, (kind, rows, size) in enumerate(shapes)
    ]
    commit(store, episodes, max_episodes=max_episodes)
    store.refresh()
    for e in episodes:
        entry = store.entry(str(e.meta.id))
        assert_same(e, store.read_episode(entry))
        assert entry.sha256 == e.sha256() == store.read_episode(entry).sha256()
    store.close()


def test_nothing_shows_before_refresh_and_refresh_reads_only_what_is_new(store: Store, monkeypatch) -> None:
    commit(store, [make_episode(env=0)])
    with pytest.raises(StoreError, match="is not in store"):
        store.read_episode("run-a/0000/dagger/00000000/000000")
    assert store.select() == []
    assert store.refresh() == {"w": 1}
    commit(store, [make_episode(env=1)], "w")
    commit(store, [make_episode(env=2)], "v")
    read: list[str] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, name: (read.append(name), real(self, name))[1])
    assert store.refresh() == {"w": 2, "v": 1}
    new = ["commits/v/00000000.json", "commits/w/00000001.json"]
    assert read == new
    store.read_rows(["mask"], store.select(), np.arange(3), np.zeros(3, np.int64))
    assert read == new  # the sums of what was opened were known


def test_refresh_upto_shows_exactly_a_position_also_backwards(store: Store) -> None:
    for i in range(4):
        commit(store, [make_episode(env=i)])
    half = {"w": 2}
    assert store.refresh(upto=half) == half
    assert [e.id[-1] for e in store.select()] == ["0", "1"]
    store.refresh()
    assert len(store.select()) == 4
    assert store.refresh(upto=json.loads(json.dumps(half))) == half
    assert [e.id[-1] for e in store.select()] == ["0", "1"]
    with pytest.raises(StoreError, match=r"00000004\.json cannot be read"):
        store.refresh(upto={"w": 9})
    assert store.position() == half


def test_read_rows_gathers_over_segments_of_different_columns(store: Store) -> None:
    episodes = [make_episode(k, env=i, rows=4) for i in range(3) for k in ("pairs", "dagger")]
    commit(store, episodes, max_episodes=2)
    store.refresh()
    by_id = {str(e.meta.id): e for e in episodes}
    entries = store.select()
    index, rows = np.array([5, 0, 0, 3, 1]), np.array([3, 0, 2, 1, 3])
    fields = ["image", "mask", "match", "expert_twist", "label_valid", "world_T_cam"]
    got = store.read_rows(fields, entries, index, rows)
    for name in fields:
        expected = np.stack([by_id[entries[k].id].steps[name][r] for k, r in zip(index, rows, strict=True)])
        assert got[name].dtype == expected.dtype
        np.testing.assert_array_equal(got[name], expected)
    fixed = store.read_fixed(["goal_image", "goal_mask", "d_star", "intrinsics"], entries)
    for name, array in fixed.items():
        np.testing.assert_array_equal(array, np.stack([by_id[e.id].fixed[name] for e in entries]))


def test_read_rows_names_a_field_that_is_missing_or_of_another_shape(store: Store) -> None:
    commit(store, [make_episode("rollout"), make_episode("dagger", env=1), make_episode("dagger", env=2, size=24)])
    store.refresh()
    zero = np.zeros(1, np.int64)
    with pytest.raises(StoreError, match="'image': allowed is one of"):
        store.read_rows(["image"], store.select(Query(kind="rollout")), zero, zero)
    with pytest.raises(StoreError, match="shape of field image"):
        store.read_rows(["image"], store.select(Query(kind="dagger")), zero, zero)


def test_cached_and_mapped_reads_agree_and_few_maps_stay_open(tmp_path: Path, store: Store) -> None:
    commit(store, [make_episode(env=i, size=40) for i in range(12)], max_episodes=1)
    mapped = open_store(store.root, ram_bytes=0)
    mapped._segments.max_files = 6
    for s in (store, mapped):
        s.refresh()
    entries = store.select()
    index, rows = np.arange(12), np.arange(12) % 5
    for _ in range(2):
        a = store.read_rows(["image", "mask", "expert_twist"], entries, index, rows)
        b = mapped.read_rows(["image", "mask", "expert_twist"], entries, index, rows)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert store._segments.usage.cached_bytes > 0 and mapped._segments.usage.cached_bytes == 0
    mapped.segment(entries[0].segment)
    assert mapped._segments.usage.files <= 6
    mapped.close()
    assert mapped._segments.usage.files == 0


def test_open_errors_name_what_is_wrong(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_store(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(StoreError, match=r"no store\.json"):
        open_store(tmp_path / "other")
    with pytest.raises(StoreError, match=r"holds 'notes\.txt'"):
        open_store(tmp_path / "other", "a", create=True)
    with pytest.raises(StoreError, match="allowed is 'r' or 'a'"):
        open_store(store.root, "w")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="reading only"):
        open_store(store.root).writer("w")
    about = store.root / "store.json"
    good = about.read_text()
    body = {k: v for k, v in json.loads(good).items() if k != "crc32c"} | {"version": 99}
    for newer in (encode_record(body), json.dumps(body).encode()):  # the first stores had no checksum
        about.write_bytes(newer)
        with pytest.raises(StoreError, match=r"format version of store .* = 99: allowed is 1"):
            open_store(store.root)
    about.write_text(good.replace("crc32c", "crc32d"))
    with pytest.raises(StoreError, match="its checksum does not fit"):
        open_store(store.root)
    about.write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        open_store(store.root)
    about.write_text(good)
    open_store(store.root, "a", create=True)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "version", "stranger"])
def test_a_damaged_record_is_named_and_the_view_stays(store: Store, damage: str) -> None:
    commit(store, [make_episode(env=0)])
    store.refresh()
    commit(store, [make_episode(env=1)])
    path = record_path(store.root, "w", 1)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
    elif damage == "cut":
        del data[-9:]
    elif damage == "empty":
        data.clear()
    else:
        body = json.loads(data)
        del body["crc32c"]
        body |= {"version": 7} if damage == "version" else {"writer": "x"}
        data = bytearray(encode_record(body))
        if damage == "version":
            assert json.loads(data)["version"] == 7
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"00000001\.json"):
        store.refresh()
    assert store.position() == {"w": 1} and len(store.select()) == 1


def test_a_segment_without_record_is_never_read(store: Store) -> None:
    commit(store, [make_episode(env=0)])
    (store.root / "data" / "w-00000001.zarr").mkdir()
    assert store.refresh() == {"w": 1}
    assert len(store.select()) == 1


def test_reading_works_without_permission_to_write(store: Store) -> None:
    """In a child process, because a superuser's own writes are never refused."""
    commit(store, [make_episode()])
    for folder in [store.root, *store.root.parents]:
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            os.chmod(folder, 0o755)
    for folder, _, _ in os.walk(store.root):
        os.chmod(folder, 0o555)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            reader = open_store(store.root)
            reader.refresh()
            reader.read_episode(reader.select()[0])
            try:
                open_store(store.root, "a")
            except StoreError as error:
                status = 0 if "cannot be written" in str(error) else 2
        finally:
            os._exit(status)
    _, wait = os.waitpid(pid, 0)
    for folder, _, _ in os.walk(store.root):
        os.chmod(folder, 0o755)
    assert os.waitstatus_to_exitcode(wait) == 0
