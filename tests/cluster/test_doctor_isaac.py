import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.isaac.version import Gpu
from cluster import cli, doctor_isaac
from cluster.doctor_isaac import check_isaac

GOOD = Gpu("NVIDIA L40S", "580.65.06", 46068)


def by_name(checks):
    return {c.name: c for c in checks}


def test_a_machine_with_everything_passes_and_one_thing_missing_is_named(monkeypatch, tmp_path):
    icd = tmp_path / "nvidia_icd.json"
    icd.write_text(json.dumps({"ICD": {"library_path": "libGLX_nvidia.so.0"}}))
    environment = {"OMNI_KIT_ACCEPT_EULA": "YES", "VK_ICD_FILENAMES": str(icd), "NVIDIA_DRIVER_CAPABILITIES": "all"}
    monkeypatch.setattr(doctor_isaac, "list_gpus", lambda: (GOOD,))
    monkeypatch.setattr(doctor_isaac.platform, "libc_ver", lambda: ("glibc", "2.39"))
    monkeypatch.setattr(doctor_isaac, "installed_version", lambda environment: "5.1.0.0")
    monkeypatch.setattr(doctor_isaac.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor_isaac, "PYTHONS", {"5_1": sys.version_info[:2]})
    for name in ("MIN_MEMORY", "MIN_DISK"):
        monkeypatch.setattr(doctor_isaac, name, 0.0)
    assert [c for c in check_isaac(environment) if not c.ok] == []

    def lacks(*changes, **variables):
        with monkeypatch.context() as m:
            for change in changes:
                m.setattr(*change)
            return [c.name for c in check_isaac({**environment, **variables}) if not c.ok]

    assert lacks(OMNI_KIT_ACCEPT_EULA="") == ["licence"]
    assert lacks(VK_ICD_FILENAMES=str(tmp_path / "none.json")) == ["vulkan"]
    icd.with_name("bad.json").write_text("{}")
    assert lacks(VK_ICD_FILENAMES=str(tmp_path / "bad.json")) == ["vulkan"]
    assert lacks(NVIDIA_DRIVER_CAPABILITIES="compute,utility") == ["container capabilities"]
    assert lacks((doctor_isaac.platform, "libc_ver", lambda: ("glibc", "2.31"))) == ["glibc"]
    assert lacks((doctor_isaac.platform, "libc_ver", lambda: ("musl", "2.40"))) == ["glibc"]
    assert lacks((doctor_isaac, "PYTHONS", {"5_1": (3, 1)})) == ["python"]
    assert lacks((doctor_isaac.importlib.util, "find_spec", lambda name: None)) == ["isaacsim"]
    assert lacks((doctor_isaac, "installed_version", lambda environment: "4.5.0")) == ["isaacsim"]
    assert lacks((doctor_isaac, "MIN_DISK", 1e18)) == ["disk space"]
    assert lacks((doctor_isaac, "MIN_MEMORY", 1e18)) == ["memory"]
    for gpu, missing in (
        (Gpu("NVIDIA H200", "580.65.06", 143771), "ray-tracing cores"),
        (Gpu("NVIDIA L4", "570.86.10", 23034), "gpu driver"),
        (Gpu("NVIDIA GeForce RTX 4060", "595.58", 8188), "gpu memory"),
    ):
        assert lacks((doctor_isaac, "list_gpus", lambda gpu=gpu: (GOOD, gpu))) == [missing]
    assert lacks((doctor_isaac, "list_gpus", tuple)) == ["gpu"]


def test_a_driver_that_hangs_is_a_finding_and_not_an_error(monkeypatch):
    def hangs():
        raise doctor_isaac.IsaacError("nvidia-smi did not answer within 20 s")

    monkeypatch.setattr(doctor_isaac, "list_gpus", hangs)
    found = by_name(check_isaac({}))["gpu"]
    assert not found.ok and "did not answer" in found.seen and found.advice


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine may be fit for Isaac Sim")
def test_the_command_says_what_this_machine_lacks(monkeypatch, capsys):
    monkeypatch.delenv("OMNI_KIT_ACCEPT_EULA", raising=False)
    assert cli.main(["doctor", "--isaac", "--json"]) == 1
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    missing = {c["name"]: c["advice"] for c in report["checks"] if not c["ok"]}
    assert report["ok"] is False and {"gpu", "isaacsim", "licence"} <= set(missing)
    assert all(missing.values())


def test_it_runs_in_a_python_without_the_trainers_libraries():
    code = (
        "import sys\nimport cluster.doctor_isaac\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'rich', 'hydra', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
