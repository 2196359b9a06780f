"""What is in deploy/: the Slurm script with stand-ins for Slurm's and Ray's commands; the keys of the Kubernetes file,
and the shell code in it.
"""

import os
import shlex
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from cluster.config_loading import load_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
# Of ray.io/v1 RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec, as of KubeRay 1.6.
JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
}  # fmt: skip
HEAD = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
WORKERS = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
    "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip
POD = {"containers", "restartPolicy", "terminationGracePeriodSeconds", "volumes"}
CONTAINER = {"env", "image", "lifecycle", "name", "resources", "volumeMounts"}


def script(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def slurm(tmp_path):
    """Starts the script with commands that write down how they were called."""

    def start(driver):
        called = tmp_path / "called"
        note = f'echo "$(basename "$0") $*" >> {called}'
        for name in ("srun", "scontrol", ".venv/bin/ray"):
            script(tmp_path, name, note)
        script(tmp_path, ".venv/bin/servofleet", f"{note}\n{driver}")
        env = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_PER_TASK": "16",
        }  # fmt: skip
        command = ["bash", str(DEPLOY / "slurm" / "train.sbatch"), "experiment=smoke", "dir=/shared/runs/a b"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return process, called

    return start


def wait_for(called, word):
    deadline = time.monotonic() + 30
    while not (called.exists() and word in called.read_text()):
        assert time.monotonic() < deadline, word
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_s_signal_reaches_the_driver_and_a_drained_run_is_requeued(slurm, tmp_path, number):
    # The driver takes its time, and its exit code is the one that counts.
    process, called = slurm(f"trap 'sleep 0.3; exit 75' USR1; touch {tmp_path}/up; while :; do sleep 0.05; done")
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == 75, process.stderr.read()
    lines = called.read_text().splitlines()
    assert "scontrol requeue 4711" in lines and any(x.startswith("ray stop") for x in lines)
    (driver,) = [x for x in lines if x.startswith("servofleet")]
    assert driver.endswith("grace_s=90 experiment=smoke dir=/shared/runs/a b")
    (others,) = [x for x in lines if x.startswith("srun")]
    assert "--nodes=2 --ntasks=2" in others and "--num-cpus=16" in others and "token" not in called.read_text().lower()


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_run_that_ended_otherwise_is_not_requeued(slurm, code):
    process, called = slurm(f"exit {code}")
    assert process.wait(30) == code, process.stderr.read()
    assert "scontrol" not in called.read_text()


def test_slurm_tells_early_enough_and_one_process_alone():
    lines = (DEPLOY / "slurm" / "train.sbatch").read_text().splitlines()
    (told,) = [x.split("=B:USR1@")[1] for x in lines if x.startswith("#SBATCH --signal")]
    (grace,) = [x for x in " ".join(lines).split() if x.startswith("grace_s=")]
    assert int(told) > float(grace.split("=")[1]) + 10
    assert "#SBATCH --requeue" in lines


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((DEPLOY / "kubernetes" / "rayjob.yaml").read_text())


def driver_settings(job):
    """The words of `servofleet train` in the entrypoint, which a shell of Ray's runs."""
    shell, option, inner = shlex.split(job["spec"]["entrypoint"])
    assert (shell, option) == ("sh", "-c")
    return inner.split("servofleet train ")[1].split()


def test_the_job_has_only_keys_that_kuberay_knows(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job["spec"]) <= JOB and set(cluster) <= CLUSTER and set(cluster["headGroupSpec"]) <= HEAD
    assert cluster["rayVersion"] == version("ray")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert all(set(group) <= WORKERS for group in groups[1:])
    for group in groups:
        pod = group["template"]["spec"]
        assert set(pod) <= POD and all(set(c) <= CONTAINER for c in pod["containers"])
        # Ray's start parameters are strings, or the operator refuses them.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_job_s_settings_are_ours_and_its_grace_fits_kubernetes(job):
    config = load_config(driver_settings(job))
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert config.ray_address == "auto" and head["terminationGracePeriodSeconds"] > config.grace_s + 10
    assert job["spec"]["backoffLimit"] > 10
    (mount,) = head["containers"][0]["volumeMounts"]
    assert config.dir.startswith(mount["mountPath"] + "/")


def test_before_the_head_pod_stops_its_driver_is_told_and_waited_for(job, tmp_path):
    script(
        tmp_path, "servofleet", f"trap 'sleep 0.3; touch {tmp_path}/saved; exit 75' TERM; while :; do sleep 0.05; done"
    )
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    here = job["spec"]["entrypoint"].replace("/runs", str(tmp_path))
    process = subprocess.Popen(here, shell=True, env=env)
    deadline = time.monotonic() + 30
    while not (tmp_path / "driver.pid").exists() or not (tmp_path / "driver.pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # until the stand-in has its trap
    (container,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    # As in a pod, somebody else waits for the driver.
    waiter = subprocess.Popen([x.replace("/runs", str(tmp_path)) for x in hook], env=env)
    assert process.wait(30) == 75
    assert waiter.wait(30) == 0 and (tmp_path / "saved").exists()
    assert (
        subprocess.run([x.replace("/runs", f"{tmp_path}/none") for x in hook], stderr=subprocess.DEVNULL).returncode
        == 0
    )
