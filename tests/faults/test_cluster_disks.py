"""Disks and object stores that fail while a run writes to them: it stops with one line that names the cause, and when
the fault is lifted the same command ends as if nothing had happened.
"""

import contextlib
import shutil
import time

import pytest
from s3_server import BUCKET, Network, S3Server
from system import in_child, mount_disk
from train_process import ids, outcome, said, same, train, training, wait_for_rows, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

NO_LIMITS = ("replay.slow_free_bytes=0", "replay.stop_free_bytes=0")


@pytest.mark.parametrize("repeat", [0, 1])
def test_a_disk_that_is_full_when_episodes_are_committed(tmp_path, undisturbed, repeat):
    def work():
        disk, path = tmp_path / "disk", tmp_path / "run"
        mount_disk(disk, 60_000_000)
        url = f"replay.url={disk / 'store'}"
        with training(path, url, *NO_LIMITS) as process:
            wait_for_rows(path, 2 + 3 * repeat, process)
            fill(disk)
            assert process.wait(300) == 1, said(path)[-3000:]
        line = said(path).strip().splitlines()[-1]
        assert line.startswith("servofleet: ") and "No space left on device" in line and str(disk) in line, line
        (disk / "ballast").unlink()
        train(path, url, *NO_LIMITS)
        assert ids(disk / "store") == undisturbed["ids"]
        same(outcome(path, disk / "store"), undisturbed["outcome"])

    in_child(work)


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_disk_that_is_full_when_a_checkpoint_is_written(tmp_path, undisturbed, on_error):
    def work():
        path = tmp_path / "run"
        path.mkdir()
        disk, setting = path / "checkpoints", f"checkpoint.on_error={on_error}"
        mount_disk(disk, 60_000_000)
        with training(path, setting) as process:
            wait_for_rows(path, 2, process)
            fill(disk)
            if on_error == "stop":
                assert process.wait(300) == 1, said(path)[-3000:]
                assert "No space left on device" in said(path).strip().splitlines()[-1]
            else:
                told = "the run goes on, the checkpoint before stands"
                wait_until(lambda: told in said(path), lambda: said(path)[-3000:], process)
            (disk / "ballast").unlink()
            if on_error == "continue":
                assert process.wait(300) == 0, said(path)[-3000:]
        if on_error == "stop":
            assert "resuming from checkpoint" in train(path, setting)
        assert ids(path / "store") == undisturbed["ids"]
        same(outcome(path), undisturbed["outcome"])

    in_child(work)


def fill(disk):
    """Not a byte is left."""
    with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free < 4096


@pytest.mark.parametrize("repeat", [0, 1])
def test_an_object_store_that_is_out_of_reach_for_a_while(tmp_path, undisturbed, monkeypatch, repeat):
    server = S3Server()
    network = Network(server.port)
    try:
        url = f"s3://{BUCKET}/run-{repeat}"
        env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        env |= {"AWS_ENDPOINT_URL": network.endpoint, "SERVOFLEET_CACHE": str(tmp_path / "cache")}
        path = tmp_path / "run"
        with training(path, f"replay.url={url}", env=env) as process:
            wait_for_rows(path, 2 + repeat, process)
            # The next upload is cut in its middle, and nobody answers from then on: a moment is borne, long is not.
            network.cut_after(0)
            wait_until(lambda: (network._left or 0) < 0, lambda: said(path)[-3000:], process)
            time.sleep(4.0)
            network.restore()
            wait_for_rows(path, 4 + repeat, process)
            network.cut_after(0)
            assert process.wait(300) == 1, said(path)[-3000:]
        assert url in said(path).strip().splitlines()[-1], said(path)[-3000:]
        network.restore()
        assert "resuming from checkpoint" in train(path, f"replay.url={url}", env=env)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert ids(url) == undisturbed["ids"]
        same(outcome(path, url), undisturbed["outcome"])
    finally:
        network.close()
        server.stop()
