"""What a run directory leans on: the disk under it, the store and the MLflow record that may already be in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cluster.doctor_check import GB, Check, probe

_MIN_DISK_BYTES = 5 * GB
_MIN_FILES = 100_000
_MAX_FSYNC_S = 0.1
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


def existing_folder(path: Path) -> Path:
    """The folder itself or its nearest ancestor that exists: where a run directory would be made."""
    path = path.expanduser().absolute()
    while not path.is_dir():
        path = path.parent
    return path


def check_disk(folder: Path) -> Check:
    """Free space for the replay store and the checkpoints."""
    free = shutil.disk_usage(folder).free
    table = os.statvfs(folder)
    few = table.f_files > 0 and table.f_favail < _MIN_FILES  # some file systems have no limit, and say 0
    seen = f"{free / GB:.1f} GB free at {folder}" + (f", room for {table.f_favail} files" if few else "")
    advice = f"free {_MIN_DISK_BYTES / GB:.0f} GB and room for {_MIN_FILES} files (df -i), or set dir= elsewhere"
    return Check("disk space", free >= _MIN_DISK_BYTES and not few, seen, advice)


def check_durability(folder: Path, rounds: int = 8) -> Check:
    """What the store's promises need from the file system: fsync (its latency), hard links and locks."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            seconds = []
            for i in range(rounds):
                with open(Path(name) / str(i), "wb") as f:
                    f.write(bytes(65536))
                    f.flush()
                    began = time.perf_counter()
                    os.fsync(f.fileno())
                    seconds.append(time.perf_counter() - began)
            os.link(Path(name) / "0", Path(name) / "link")
            with open(Path(name) / "0") as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        advice = "set dir= to a folder you may write, on a file system with hard links and locks"
        return Check("run directory", False, f"{folder}: {e.strerror or e}", advice)
    median = statistics.median(seconds)
    seen = f"{folder}: fsync of 64 kB takes {median * 1e3:.1f} ms; hard links and locks work"
    return Check(
        "run directory", median <= _MAX_FSYNC_S, seen, "set dir= to a local disk: every commit waits for fsync"
    )


def check_mount(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> Check:
    """What file system the folder is on: what lies in memory is gone after a reboot.

    Args:
        folder: an existing one.
        table: of mounts, as Linux writes it.
    """
    if not table.exists():
        return Check("file system", True, f"{folder}: cannot be told on this system")
    mounts: list[tuple[Path, str]] = []
    for line in table.read_text().splitlines():
        left, _, right = line.partition(" - ")
        # Blanks in names are octal there.
        point = Path(left.split()[4].encode().decode("unicode_escape"))
        mounts.insert(0, (point, right.split()[0]))
    # Of two mounts on one point, the later one is seen, and `max` takes the first of equals.
    point, kind = max(
        ((p, k) for p, k in mounts if folder.resolve().is_relative_to(p)), key=lambda mount: len(mount[0].parts)
    )
    seen = f"{folder}: {kind} at {point}"
    if kind == "overlay":
        seen += ", a container's own layer: gone with the container"
    advice = "set dir= to a disk: what lies in memory is gone after a reboot, and takes memory from the run"
    return Check("file system", kind not in _IN_MEMORY, seen, advice)


def check_record(run: Path, folder: Path) -> Check:
    """MLflow's database: the one of the run, if it was started, and whether SQLite works on that file system.

    Args:
        run: run directory, which need not exist.
        folder: it or its nearest ancestor that exists.
    """
    path = run / "mlflow.db"
    uri = f"sqlite:///{path.expanduser().absolute()}"
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            _write_a_row(Path(name) / "probe.db")
        if not path.exists():
            return Check("record", True, f"{uri}: not there yet; SQLite {sqlite3.sqlite_version} works here")
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
        try:
            complaint = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            runs = db.execute("SELECT count(*) FROM runs").fetchone()[0]
        finally:
            db.close()
    except (sqlite3.Error, OSError) as e:
        advice = "set dir= to a local disk, or restore mlflow.db; metrics.jsonl has the same numbers"
        return Check("record", False, f"{uri}: {e}", advice)
    advice = "restore mlflow.db from a copy, or move it away: metrics.jsonl has the same numbers"
    return Check("record", complaint == "ok", f"{uri}: {runs} runs, {complaint}", advice)


def _write_a_row(path: Path) -> None:
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute("CREATE TABLE probe (x INTEGER)")
            db.execute("INSERT INTO probe VALUES (1)")
    finally:
        db.close()


def check_store(where: str, deadline_s: float) -> Check:
    """The replay store, if there is one: can it be opened, its records read, its newest episodes read whole?

    Args:
        where: folder or URL.
        deadline_s: limit [s].
    """
    if "://" not in where and not Path(where).exists():
        return Check("replay store", True, f"{where}: not there yet")
    found = probe((sys.executable, "-m", "cluster.doctor_store", where), deadline_s)
    advice = f"servofleet replay verify {where} lists what is damaged, servofleet replay repair sets it aside"
    if isinstance(found, str):
        return Check("replay store", False, f"{where}: {found}", advice)
    seen = f"{where}: {found['episodes']} episodes, {found['rows']} rows; the newest {found['read']} read whole"
    return Check("replay store", True, seen)
