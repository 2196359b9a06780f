from __future__ import annotations

import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from cluster import doctor
from cluster.doctor_check import Check
from cluster.doctor_cluster import check_cluster
from cluster.doctor_disk import check_disk, check_durability, existing_folder
from common.config import RunConfig

DOCTOR = ("-c", "import json; print('noise'); print(json.dumps({'cache': '/', 'cuda': ['H'], 'wrong': ['cuda:0']}))")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(dir=str(tmp_path / "runs" / "a"))


def test_this_machine_passes_every_check_and_nothing_is_left_behind(config: RunConfig, tmp_path: Path) -> None:
    checks = doctor.check_machine(config)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {
        "python", "torch", "ray", "zarr", "mlflow", "warp-lang", "constraints", "cores", "threads", "memory",
        "shared memory", "limits", "ports", "disk space", "file system", "run directory", "replay store", "record",
        "clock", "warp", "kernel cache", "gpu", "ray cluster",
    } == set(names)  # fmt: skip
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
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64_000_000, 0, 64_000_000))
    shared, disk = doctor.check_shared_memory(tmp_path), check_disk(tmp_path)
    assert not shared.ok and "--shm-size" in shared.advice
    assert not disk.ok and "dir=" in disk.advice
    assert doctor.check_shared_memory(tmp_path / "none").ok  # a system without /dev/shm


def test_slow_fsync_and_file_systems_without_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert check_durability(tmp_path).ok
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: time.sleep(0.12))
        slow = check_durability(tmp_path, rounds=2)
    assert not slow.ok and "local disk" in slow.advice

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    unfit = check_durability(tmp_path)
    assert not unfit.ok and "Operation not supported" in unfit.seen
    assert list(tmp_path.iterdir()) == []


def test_the_folder_looked_at_is_the_nearest_that_exists(tmp_path: Path) -> None:
    assert existing_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").write_text("")
    assert existing_folder(tmp_path / "file" / "b") == tmp_path


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
        (refused,) = check_cluster(address, 5.0)
        listener.listen()
        began = time.monotonic()
        (silent,) = check_cluster(address, 2.0)
    assert not refused.ok and "refused" in refused.seen and "ray_address" in refused.advice
    assert not silent.ok and "within 2 s" in silent.seen
    assert time.monotonic() - began < 10.0


@pytest.mark.slow
def test_a_real_ray_cluster_is_reachable() -> None:
    import ray

    context = ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        checks = check_cluster(context.address_info["gcs_address"], 60.0)
    finally:
        ray.shutdown()
    assert [c.name for c in checks if not c.ok] == [] and "1 nodes, 1 CPUs" in checks[0].seen
    names = ["ray cluster", "cluster nodes", "cluster versions", "cluster clocks", "cluster shared memory"]
    assert [c.name for c in checks] == names


def test_versions_other_than_the_tested_ones_are_named(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    assert doctor.check_constraints(pins).ok  # an installed package has none
    pins.write_text("# tested\nrich>=1\nnot-installed-here==1.0\n")
    fits = doctor.check_constraints(pins)
    assert fits.ok and fits.seen == "1 versions as tested"
    pins.write_text("rich==0.1\n")
    check = doctor.check_constraints(pins)
    assert not check.ok and check.seen.startswith("rich ") and "==0.1" in check.seen and "make setup" in check.advice


def test_limits_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    hard = {resource.RLIMIT_NOFILE: 1024, resource.RLIMIT_NPROC: 100_000, resource.RLIMIT_FSIZE: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, hard[which]))
    check = doctor.check_limits()
    assert not check.ok and check.seen == "open files: 1024, processes: 100000, file size: unlimited"
    assert "raise the hard limit of open files to 4096" in check.advice
    hard[resource.RLIMIT_NOFILE] = 4096
    assert doctor.check_limits().ok


def test_ports_that_are_few_or_that_a_firewall_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ports = tmp_path / "range"
    ports.write_text("50000\t50100\n")
    few = doctor.check_ports(ports)
    assert not few.ok and "50000 .. 50100" in few.seen and "sysctl" in few.advice
    assert doctor.check_ports(tmp_path / "none").ok
    monkeypatch.setattr(doctor, "own_address", lambda: "192.0.2.77")  # nobody's
    held = doctor.check_ports(ports)
    assert not held.ok and "192.0.2.77" in held.seen and "firewall" in held.advice


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
