"""The whole store on a real S3 server: commits over a failing network, copies on the node's disk, every verb."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from records import assert_same, make_episode
from s3_server import BUCKET, NAMES_AT_ONCE, Network, S3Server, options

from cluster.cli import main
from common.errors import StoreError
from replay.dataset import open_dataset
from replay.export import export
from replay.inspect import content_sha256, store_info
from replay.merge import merge
from replay.pins import pin, unpin
from replay.record import encode_record
from replay.repair import repair
from replay.retention import Retention, plan_prune, prune, sweep, uncommitted
from replay.storage import Storage, open_storage
from replay.store import Store, open_store
from replay.verify import find_faults


def episode(env: int):
    return make_episode("rollout", env=env, rows=2, size=8)


def commit(store: Store, *envs: int, writer: str = "w") -> None:
    w = store.writer(writer, max_episodes=1, in_flight=2)
    for env in envs:
        w.append(episode(env))
    w.close()
    store.refresh()


@pytest.fixture
def store(s3_storage: Storage) -> Store:
    return open_store(s3_storage, "a", create=True)


def shown(store: Store) -> list[int]:
    return [e.meta.id.env for e in store.select()]


def test_a_store_is_written_read_pruned_and_kept_in_order(store: Store, tmp_path: Path) -> None:
    place = store.storage
    commit(store, 0, 1, 2)
    for entry in store.select():
        assert_same(store.read_episode(entry), episode(entry.meta.id.env))
    with pytest.raises(StoreError, match="has no folder on this machine"):
        store.root  # noqa: B018
    position = store.position()
    pin(place, "mine", {"w": 1}, "a test")
    prune(store, plan_prune(store, Retention(newest_rows=2)))
    assert (lambda s: (s.deleted, s.pinned, s.uncommitted))(sweep(store, grace_s=0)) == (1, 0, 0)
    assert shown(store) == [0, 2] and len(place.listing("data").folders) == 2
    with pytest.raises(StoreError, match="pin late: record w/1"):
        pin(place, "late", position, "too late")
    unpin(place, "mine")
    found = store_info(place)
    assert (found["episodes"], found["orphans"], found["path"]) == (2, 0, place.url) and find_faults(place) == []
    fresh = open_store(place, index_path=tmp_path / "index.sqlite")
    fresh.refresh()
    assert shown(fresh) == [0, 2] and fresh.refresh() == fresh.position()


def test_what_is_damaged_in_the_object_store_is_named_and_repaired(memory_storage: Storage) -> None:
    place = memory_storage
    store = open_store(place, "a", create=True)
    commit(store, 0, 1, 2)
    first, second, third = store.records()
    z = f"{first.segment}/z/c.0.0"
    good = place.read(z)
    place.replace(z, good[:-1] + b"?")
    place.delete([f"{second.segment}/zarr.json"])
    place.replace(f"{third.segment}/more", b"?")
    fresh = open_store(place)
    fresh.refresh()
    with pytest.raises(StoreError, match=f"object is damaged.*{z}"):
        fresh.read_episode(fresh.select()[0])
    faults = {f.path: f.text for f in find_faults(place) if f.kind == "data"}
    assert set(faults) == {first.segment, second.segment, third.segment}
    assert place.where(z) in faults[first.segment] and "crc32c" in faults[first.segment]
    assert "the record names no such file" in faults[third.segment]
    done = repair(place)
    assert done.quarantine.startswith(place.url) and len(done.saved) == 1 and len(done.lost) == 2
    store.refresh()
    assert shown(store) == [2] and find_faults(place) == []
    assert place.read(f"{done.quarantine.removeprefix(place.url + '/')}/{z}") == good[:-1] + b"?"


def test_stores_of_both_kinds_are_merged_and_exported(store: Store, tmp_path: Path) -> None:
    commit(store, 0, 1)
    local = open_store(tmp_path / "local", "a", create=True)
    commit(local, 1, 2)
    there = store.storage.url + "-merged"
    target = open_storage(there, options=store_options(store), cache_dir=tmp_path / "cache")
    assert merge([store.storage, tmp_path / "local"], target).episodes == 3
    back = merge([target], tmp_path / "back")
    assert back.copied == 3 and content_sha256(tmp_path / "back") == content_sha256(target)
    with pytest.raises(StoreError, match="among its sources"):
        merge([target], target)
    assert export(target, tmp_path / "out.parquet", "parquet")["episodes"] == 3
    assert open_dataset(target, fields=["reward"]).sizes["episode"] == 3


def store_options(store: Store) -> dict[str, str]:
    return options(store.storage._store.config["endpoint"])  # type: ignore[attr-defined]


def test_writers_on_two_nodes_that_race_for_a_number_get_one_each(store: Store) -> None:
    writers = [store.writer("w", max_episodes=1) for _ in range(2)]

    def work(k: int) -> list[int]:
        return [a.seq for i in range(3) for a in writers[k].append(episode(10 * k + i))]

    with ThreadPoolExecutor(2) as pool:
        seqs = [s for part in pool.map(work, range(2)) for s in part]
    assert sorted(seqs) == list(range(6)) and store.refresh() == {"w": 6}
    assert shown(store) == [0, 1, 2, 10, 11, 12] and len({e.segment for e in store.select()}) == 6


@pytest.mark.parametrize("moment", ["segment", "record"])
def test_a_server_that_goes_in_the_middle_of_a_commit_loses_nothing(
    store: Store, s3_url: str, network: Network, tmp_path: Path, moment: str
) -> None:
    place = open_storage(s3_url, options=options(network.endpoint), cache_dir=tmp_path / "cache")
    w = open_store(place, "a").writer("w", max_episodes=2)
    acked = [*w.append(episode(0)), *w.append(episode(1))]
    files = len(store.storage.files("data"))
    w.append(episode(2))
    network.cut_after(5 if moment == "segment" else files)
    started = time.monotonic()
    with pytest.raises(StoreError, match=rf"store {s3_url} cannot be written by 'w': object store failed: .*{s3_url}/"):
        w.flush()
    assert time.monotonic() - started < 20
    with pytest.raises(StoreError, match="cannot be written by 'w'"):
        w.flush()
    store.refresh()
    assert shown(store) == [0, 1] and len(acked) == 2
    network.restore()
    (ack,) = w.flush()
    assert ack.episode_id.endswith("2") and w.close() == []
    commit(store, 2, writer="again")
    assert shown(store) == [0, 1, 2]
    torn = {f.kind for f in find_faults(store.storage, lease_s=-60.0)}
    assert torn == {"orphan"} and find_faults(store.storage) == []


def test_a_record_whose_answer_is_lost_counts_once(store: Store, s3_url: str, network: Network, tmp_path: Path) -> None:
    place = open_storage(s3_url, options=options(network.endpoint, retries="3"), cache_dir=tmp_path / "cache")
    w = open_store(place, "a").writer("w", max_episodes=1)
    network.lose_answer_to(b"commits/w/00000000.json")
    acks = [*w.append(episode(0)), *w.append(episode(1))]
    assert network.lost == 1 and [a.seq for a in acks] == [0, 1]
    assert store.refresh() == {"w": 2} and len(store.storage.listing("data").folders) == 2


def test_a_server_that_does_not_answer_ends_in_one_clear_error(s3_server: S3Server, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/hangs"
    place = open_storage(url, options=options(s3_server.endpoint, timeout_s="0.3"), cache_dir=tmp_path)
    s3_server.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(
            StoreError, match=rf"store {url} cannot be opened: object store failed: .*\({url}/store.json\)"
        ):
            open_store(place)
        assert time.monotonic() - started < 10
    finally:
        s3_server.process.send_signal(signal.SIGCONT)
    with pytest.raises(StoreError, match=f"store {url} does not exist"):
        open_store(url, storage_options=options(s3_server.endpoint), cache_dir=tmp_path)
    nowhere = "s3://no-such-bucket-here/x"
    with pytest.raises(StoreError, match=f"store {nowhere} cannot be opened|store {nowhere} does not exist"):
        open_store(nowhere, storage_options=options(s3_server.endpoint), cache_dir=tmp_path)


def test_every_verb_names_the_store_that_does_not_answer(
    store: Store, s3_url: str, network: Network, tmp_path: Path
) -> None:
    commit(store, 0)
    place = open_storage(s3_url, options=options(network.endpoint, retries="0"), cache_dir=tmp_path / "gone")
    away = open_store(place, "a")
    position = away.refresh()
    entry = away.select()[0]
    network.close()
    for act in (
        away.refresh,
        away.records,
        lambda: away.writer("w"),
        lambda: away.read_episode(entry),
        lambda: sweep(away),
        lambda: plan_prune(away, Retention(newest_rows=0)),
        lambda: prune(away, plan_prune(store, Retention(newest_rows=0))),
        lambda: pin(place, "p", position, "x"),
        lambda: unpin(place, "p"),
        lambda: find_faults(place),
        lambda: repair(place),
        lambda: store_info(place),
        lambda: merge([tmp_path / "none"], place),
        lambda: merge([place], tmp_path / "out"),
        lambda: open_dataset(place),
        lambda: uncommitted(away),
    ):
        with pytest.raises(StoreError, match=rf"{s3_url}.*object store failed|does not exist"):
            act()
    assert find_faults(store.storage) == [] and store.refresh() == {"w": 1}


def test_a_damaged_copy_and_one_that_was_evicted_are_fetched_again(store: Store, tmp_path: Path) -> None:
    commit(store, 0, 1)
    one = store.records()[0].nbytes
    small = open_storage(store.url, options=store_options(store), cache_dir=tmp_path / "small", cache_bytes=one + 9)
    reader = open_store(small)
    reader.refresh()
    for env in (0, 1, 0, 1):
        reader.release()
        assert_same(reader.read_episode(reader.select()[env]), episode(env))
        copies = [p for p in (tmp_path / "small").iterdir() if p.is_dir()]
        assert len(copies) == 1 and sum(p.stat().st_size for p in copies[0].rglob("*") if p.is_file()) <= one + 9
    entry = reader.select()[1]
    shard = copies[0] / "z" / "c.0.0"
    good = shard.read_bytes()
    shard.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    other = open_store(small)  # has not checked it yet
    other.refresh()
    assert_same(other.read_episode(entry), episode(1))
    assert shard.read_bytes() == good
    # Between the opening of a segment and that of an array its copy may be evicted.
    late = open_store(small)
    late.refresh()
    late.segment(entry.segment)
    assert_same(other.read_episode(other.select()[0]), episode(0))
    assert_same(late.read_episode(entry), episode(1))


def test_a_record_that_points_outside_is_refused(store: Store) -> None:
    commit(store, 0)
    body = json.loads(store.storage.read("commits/w/00000000.json"))
    del body["crc32c"], body["version"]
    for wrong in ({"segment": "data/../x"}, {"segment": "/data/x"}, {"files": {"../../x": {"bytes": 1, "crc32c": 0}}}):
        store.storage.replace("commits/w/00000001.json", encode_record(body | {"seq": 1} | wrong))
        with pytest.raises(StoreError, match="path in commit record s3://"):
            open_store(store.storage).refresh()
    for name, wrong in (("bytes", 2**60), ("bytes", -1), ("bytes", 1.5)):
        files = {n: f | {name: wrong} for n, f in body["files"].items()}
        store.storage.replace("commits/w/00000001.json", encode_record(body | {"seq": 1, "files": files}))
        with pytest.raises(StoreError, match=r"bytes or rows in commit record s3://"):
            open_store(store.storage).refresh()


def test_more_names_than_fit_into_one_answer_are_all_listed(s3_storage: Storage, s3_server: S3Server) -> None:
    place, prefix = s3_storage, s3_storage.url.split("/", 3)[3]
    assert NAMES_AT_ONCE == 100
    keys = [f"{prefix}/commits/w/{n:08d}.json" for n in range(205)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3_server.client.put_object(Bucket=BUCKET, Key=key, Body=b"{}"), keys))
    answer = s3_server.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    assert answer["IsTruncated"] and answer["KeyCount"] == 100
    assert len(place.listing("commits/w").files) == 205 and place.listing("commits").folders == ["w"]
    assert place.files_after("commits/w", "00000202.json") == ["00000203.json", "00000204.json"]
    place.delete_folder("commits")
    assert place.files("") == {}


def test_the_command_line_takes_urls(store: Store, s3_server: S3Server, tmp_path: Path, monkeypatch, capsys) -> None:
    commit(store, 0, 1)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", s3_server.endpoint),
        ("SERVOFLEET_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setenv(name, value)
    run: Callable[..., dict] = lambda *a: (main(["replay", *a, "--json"]), json.loads(capsys.readouterr().out))[1]
    assert run("info", store.url)["episodes"] == 2 and run("verify", store.url)["whole"]
    assert run("merge", store.url, "-o", str(tmp_path / "copy"))["episodes"] == 2
    assert run("prune", store.url, "--newest-steps", "2", "--grace-hours", "0")["swept"]["deleted"] == 1
    assert run("repair", store.url, "--dry-run")["faults"] == []
    assert run("export", store.url, str(tmp_path / "x"), "--to", "parquet")["episodes"] == 1


def test_cold_segments_are_fetched_at_the_same_time(memory_storage: Storage, monkeypatch) -> None:
    store = open_store(memory_storage, "a", create=True)
    commit(store, *range(4))
    busy, most = 0, 0
    reader = open_store(store.storage)
    reader.refresh()
    real = type(store.storage)._fetch

    def fetch(*a):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        time.sleep(0.2)
        real(*a)
        busy -= 1

    monkeypatch.setattr(type(store.storage), "_fetch", fetch)
    entries = reader.select()
    rows = reader.read_rows(["z"], entries, np.arange(4), np.zeros(4, np.int64))["z"]
    assert most == 4
    for k in range(4):
        assert (rows[k] == episode(k).steps["z"][0]).all()
