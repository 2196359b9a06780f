import importlib.metadata
import os

import pytest

from actors.isaac import version
from actors.isaac.version import Gpu, IsaacError


def test_versions_and_their_manifests():
    assert [version.manifest_for(v) for v in ("5.1.0.0", "5.1.0-rc.19", "6.0.0.0", "6.2.1")] == [
        "5_1",
        "5_1",
        "6_0",
        "6_0",
    ]
    for other in ("5.0.0", "4.5.0.0", "7.0", "", "5.10.0", "latest"):
        with pytest.raises(IsaacError, match=r"allowed is 5\.1\.x or 6\.x"):
            version.manifest_for(other)


def test_an_installation_without_a_wheel_says_its_version_in_a_file(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    (tmp_path / "VERSION").write_text("6.0.1-rc.7\n")
    assert version.installed_version({"ISAAC_PATH": str(tmp_path)}) == "6.0.1-rc.7"
    for environment in ({}, {"ISAAC_PATH": str(tmp_path / "none")}):
        with pytest.raises(IsaacError, match="not installed"):
            version.installed_version(environment)


def test_gpus_without_ray_tracing_cores_are_known_by_name():
    for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA GH200 480GB", "Tesla V100-SXM2",
                 "NVIDIA A30", "NVIDIA H20", "NVIDIA H800"):  # fmt: skip
        assert not version.has_rt_cores(name), name
        with pytest.raises(IsaacError, match="ray-tracing"):
            version.check_gpus((Gpu("NVIDIA L4", "580", 1), Gpu(name, "580", 1)))
        version.check_gpus((Gpu(name, "580", 1),), allow_unsupported=True)
    for name in ("NVIDIA L4", "NVIDIA L40S", "NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX PRO 6000 Blackwell",
                 "NVIDIA GeForce RTX 4090", "NVIDIA A10G", "NVIDIA A40", "NVIDIA RTX A3000", "NVIDIA A10"):  # fmt: skip
        assert version.has_rt_cores(name), name
        version.check_gpus((Gpu(name, "580", 1),))
    with pytest.raises(IsaacError, match="lists none"):
        version.check_gpus((), allow_unsupported=True)


def test_nvidia_smi_is_read_and_what_it_does_wrong_is_said(tmp_path, monkeypatch):
    assert version.parse_gpus("NVIDIA L4, 580.65.06, 23034\n\n") == (Gpu("NVIDIA L4", "580.65.06", 23034),)
    with pytest.raises(IsaacError, match="line of nvidia-smi"):
        version.parse_gpus("No devices were found\n")

    program = tmp_path / "nvidia-smi"

    def behaving(script):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.list_gpus() == ()
    behaving("echo 'NVIDIA L40S, 580.65.06, 46068'")
    assert version.list_gpus() == (Gpu("NVIDIA L40S", "580.65.06", 46068),)
    behaving("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    with pytest.raises(IsaacError, match="status 18: Failed to initialize"):
        version.list_gpus()
    behaving(f"exec {'/bin/sleep' if os.path.exists('/bin/sleep') else '/usr/bin/sleep'} 30")
    with pytest.raises(IsaacError, match="did not answer"):
        version.list_gpus(timeout_s=0.1)


def test_the_licence_must_be_accepted():
    for value in ("YES", "Y", "1", "yes"):
        version.check_eula({"OMNI_KIT_ACCEPT_EULA": value})
    for environment in ({}, {"OMNI_KIT_ACCEPT_EULA": ""}, {"OMNI_KIT_ACCEPT_EULA": "0"}):
        with pytest.raises(IsaacError, match="OMNI_KIT_ACCEPT_EULA"):
            version.check_eula(environment)
