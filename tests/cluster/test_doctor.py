from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from cluster import doctor
from cluster.doctor import Check
from common.config import RunConfig

DOCTOR = ("-c", "import json; print('noise'); print(json.dumps({'cache': '/', 'cuda': ['H'], 'wrong': ['cuda:0']}))")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(dir=str(tmp_path / "runs" / "a"))


def test_this_machine_passes_every_check_and_nothing_is_left_behind(config: RunConfig, tmp_path: Path) -> None:
    checks = doctor.check_machine(config)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"python", "torch", "cores", "memory", "disk space", "clock", "warp", "gpu", "ray cluster"} <= set(names)
    # Load, free space and memory are the machine's affair; what the installation decides must hold.
    decided = {"python", "torch", "ray", "zarr", "mlflow", "warp-lang", "threads", "warp", "ray cluster"}
    assert [check for check in checks if check.name in decided and not check.ok] == []
    assert list(tmp_path.iterdir()) == []


def test_versions_are_held_against_the_package_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "ray":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return {"torch": "2.13.1+cu130", "zarr": "2.18.0"}[name]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    torch, zarr, ray = doctor.check_versions(("torch", "zarr", "ray"))
    assert torch.ok and torch.advice == ""
    assert not zarr.ok and "2.18.0" in zarr.seen and "zarr" in zarr.advice
    assert not ray.ok and ray.seen == "not installed" and "2.60" in ray.advice


def test_collectors_that_ray_could_never_place(config: RunConfig) -> None:
    config.fleet.collectors, config.fleet.cpus_per_collector = 1000, 1.0
    check = doctor.check_cores(config)
    assert not check.ok and "reserve 1000" in check.seen and "fleet.collectors" in check.advice
    config.ray_address = "10.0.0.1:6379"  # a cluster has other machines
    assert doctor.check_cores(config).ok


@pytest.mark.parametrize(
    ("environment", "bad"),
    [
        ({}, ""),
        ({"OMP_NUM_THREADS": "1"}, ""),
        ({"OMP_NUM_THREADS": "100000"}, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "0"}, "MKL_NUM_THREADS"),
        ({"OPENBLAS_NUM_THREADS": "four"}, "OPENBLAS_NUM_THREADS"),
    ],
)
def test_thread_variables(environment: dict[str, str], bad: str) -> None:
    check = doctor.check_threads(environment)
    assert check.ok == (not bad)
    assert bad in check.advice


def test_memory_grows_with_the_fleet() -> None:
    assert doctor.check_memory(2, 8e9).ok
    assert not doctor.check_memory(8, 8e9).ok
    assert 1e7 < doctor.available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_small_shared_memory_and_full_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type(doctor.shutil.disk_usage(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(64_000_000, 0, 64_000_000))
    shared, disk = doctor.check_shared_memory(tmp_path), doctor.check_disk(tmp_path)
    assert not shared.ok and "--shm-size" in shared.advice
    assert not disk.ok and "dir=" in disk.advice
    assert doctor.check_shared_memory(tmp_path / "none").ok  # a system without /dev/shm


def test_slow_fsync_and_file_systems_without_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_durability(tmp_path).ok
    with monkeypatch.context() as patch:
        patch.setattr(doctor.os, "fsync", lambda _: time.sleep(0.12))
        slow = doctor.check_durability(tmp_path, rounds=2)
    assert not slow.ok and "local disk" in slow.advice

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(doctor.os, "link", refuse)
    unfit = doctor.check_durability(tmp_path)
    assert not unfit.ok and "Operation not supported" in unfit.seen
    assert list(tmp_path.iterdir()) == []


def test_the_folder_looked_at_is_the_nearest_that_exists(tmp_path: Path) -> None:
    assert doctor.existing_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").write_text("")
    assert doctor.existing_folder(tmp_path / "file" / "b") == tmp_path


def test_clock_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 2.0, 1.5, *([3.0] * 10)])
    monkeypatch.setattr(doctor.time, "monotonic", lambda: next(ticks))
    check = doctor.check_clock(samples=4)
    assert not check.ok and "goes back" in check.seen and "never" not in check.seen


def test_warp_reports_wrong_devices_crashes_and_hangs() -> None:
    warp, _, gpu = doctor.check_warp(20.0, (sys.executable, *DOCTOR))
    assert not warp.ok and "cuda:0" in warp.seen
    assert gpu.ok and gpu.seen == "H"
    (crashed,) = doctor.check_warp(20.0, (sys.executable, "-c", "raise ImportError('no such driver')"))
    assert not crashed.ok and "no such driver" in crashed.seen
    (hung,) = doctor.check_warp(0.5, (sys.executable, "-c", "import time; time.sleep(60)"))
    assert not hung.ok and "0.5 s" in hung.seen


def test_ray_addresses_that_nobody_or_no_ray_answers() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        refused = doctor.check_ray(address, 5.0)
        listener.listen()
        began = time.monotonic()
        silent = doctor.check_ray(address, 2.0)
    assert not refused.ok and "refused" in refused.seen and "ray_address" in refused.advice
    assert not silent.ok and "within 2 s" in silent.seen
    assert time.monotonic() - began < 10.0


@pytest.mark.slow
def test_a_real_ray_cluster_is_reachable() -> None:
    import ray

    context = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        check = doctor.check_ray(context.address_info["gcs_address"], 60.0)
    finally:
        ray.shutdown()
    assert check.ok and "1 nodes, 1 CPUs" in check.seen


def test_printing_says_what_to_fix_and_json_holds_everything() -> None:
    checks = [Check("one", True, "[fine]", "unused"), Check("two", False, "bad", "mend it")]
    text = Console(file=io.StringIO(), width=100)
    doctor.print_checks(checks, console=text)
    printed = text.file.getvalue()
    assert "[fine]" in printed and "fix two: mend it" in printed and "1 of 2" in printed and "unused" not in printed
    wire = Console(file=io.StringIO(), width=20)
    doctor.print_checks(checks, as_json=True, console=wire)
    report = json.loads(wire.file.getvalue())
    assert report == {
        "ok": False,
        "checks": [
            {"name": "one", "ok": True, "seen": "[fine]", "advice": ""},
            {"name": "two", "ok": False, "seen": "bad", "advice": "mend it"},
        ],
    }


def test_the_doctor_needs_none_of_the_libraries_that_it_examines() -> None:
    code = (
        "import sys, cluster.doctor; print([m for m in ('torch', 'ray', 'mlflow', 'warp', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
