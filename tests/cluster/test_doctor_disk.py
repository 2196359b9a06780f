"""The disk under a run directory, and what may already be in it."""

import sqlite3

import pytest

from cluster.bench_replay_data import episode
from cluster.doctor_disk import check_mount, check_record, check_store
from replay.store import open_store

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / {root}/memory rw - tmpfs tmpfs rw,size=26M
31 22 0:26 / {root}/a\040b rw,relatime shared:1 - nfs4 server:/x rw
32 22 0:27 / {root}/box rw - ext4 /dev/vdb rw
33 22 0:28 / {root}/box rw - overlay overlay rw
"""


@pytest.mark.parametrize(
    ("folder", "ok", "seen"),
    [
        ("elsewhere", True, "ext4 at /"),
        ("memory", False, "tmpfs at"),
        ("memory/deep/er", False, "tmpfs at"),
        ("memory-not", True, "ext4 at /"),
        ("a b", True, "nfs4 at"),
        ("box", True, "gone with the container"),
    ],
)
def test_what_a_folder_is_on(tmp_path, folder, ok, seen):
    (tmp_path / folder).mkdir(parents=True)
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS.format(root=tmp_path))
    check = check_mount(tmp_path / folder, table)
    assert check.ok == ok and seen in check.seen
    assert ("reboot" in check.advice) == (not ok)


def test_this_system_can_be_told(tmp_path):
    assert tmp_path.as_posix() in check_mount(tmp_path).seen
    assert check_mount(tmp_path, tmp_path / "none").ok


def test_a_record_that_is_not_there_whole_or_broken(tmp_path):
    run = tmp_path / "run"
    fresh = check_record(run, tmp_path)
    assert fresh.ok and f"sqlite:///{run}/mlflow.db: not there yet" in fresh.seen
    assert list(tmp_path.iterdir()) == []
    run.mkdir()
    db = sqlite3.connect(run / "mlflow.db")
    with db:
        db.execute("CREATE TABLE runs (name TEXT)")
        db.executemany("INSERT INTO runs VALUES (?)", [("x" * 500,)] * 200)
    db.close()
    whole = check_record(run, run)
    assert whole.ok and "200 runs, ok" in whole.seen
    data = bytearray((run / "mlflow.db").read_bytes())
    data[4096:12288] = b"\xff" * 8192
    (run / "mlflow.db").write_bytes(data)
    broken = check_record(run, run)
    assert not broken.ok and "metrics.jsonl" in broken.advice
    (run / "mlflow.db").write_bytes(b"no database, no database at all" * 40)
    assert "not a database" in check_record(run, run).seen


def test_a_store_that_is_not_there_whole_or_damaged(tmp_path):
    where = tmp_path / "store"
    assert check_store(str(where), 60.0).ok
    store = open_store(where, "a", create=True)
    writer = store.writer("w", max_episodes=4)
    for number in range(4):
        writer.append(episode(number, 16))
    writer.close()
    store.close()
    whole = check_store(str(where), 60.0)
    assert whole.ok and "4 episodes, 324 rows; the newest 4 read whole" in whole.seen
    largest = max((where / "data").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    damaged = check_store(str(where), 60.0)
    assert not damaged.ok and "servofleet replay verify" in damaged.advice
