"""The process: clean, logged, and gone with everything it started, whoever dies first."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from supervised_for_tests import STAND_IN, alive, ask, eventually

from actors.render_service.supervisor_process import (
    ServerProcess,
    clean_environment,
    last_line,
    log_path,
    socket_folder,
)
from common.errors import RendererLostError

ROOT = Path(__file__).resolve().parents[3]


def start(tmp_path, *how, python=sys.executable, log_bytes=10_000):
    sockets = socket_folder()
    argv = [python, "-I", "-S", str(STAND_IN), str(sockets / "s"), *how]
    process = ServerProcess(argv, clean_environment([], ""), tmp_path / "log", log_bytes, sockets)
    return process, str(sockets / "s")


def answer(address):
    deadline = time.monotonic() + 10.0
    while True:
        try:
            return ask(address)
        except RendererLostError:
            assert time.monotonic() < deadline, "no server"
            time.sleep(0.01)


def test_a_server_asked_to_end_drains_and_leaves_nothing(tmp_path):
    process, address = start(tmp_path, f"drained={tmp_path / 'drained'}")
    said = answer(address)
    assert process.poll() is None and process.pid == said["pid"]
    assert process.end(10.0) == 0 == process.poll()
    assert (tmp_path / "drained").exists() and last_line(tmp_path / "log") == "started"
    assert not alive(said["pid"]) and not Path(address).parent.exists()


@pytest.mark.parametrize("stopped", [False, True], ids=["stubborn", "stopped"])
def test_a_server_that_does_not_end_is_killed_with_what_left_its_group(tmp_path, stopped):
    process, address = start(tmp_path, "stubborn=1", "child=1")
    said = answer(address)
    assert os.getsid(said["child"]) != os.getsid(said["pid"]) != os.getsid(0)
    if stopped:
        os.kill(said["pid"], signal.SIGSTOP)
    assert process.end(0.1) == -signal.SIGKILL
    assert not alive(said["pid"]) and not alive(said["child"])


def test_what_a_dead_server_started_goes_with_it(tmp_path):
    process, address = start(tmp_path, "child=1")
    said = answer(address)
    os.kill(said["pid"], signal.SIGSEGV)
    eventually(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGSEGV and not alive(said["child"])
    process.end(0.0)


def test_no_orphan_when_the_supervisor_is_killed(tmp_path):
    code = f"""
        import sys, time
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(ROOT)!r}]
        from pathlib import Path
        from test_supervisor_process import answer, start
        process, address = start(Path({str(tmp_path)!r}), "stubborn=1", "child=1")
        said = answer(address)
        print(said["pid"], said["child"], address, flush=True)
        time.sleep(1000)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        server, child, address = parent.stdout.readline().split()
        os.kill(int(server), signal.SIGSTOP)  # it could not notice by itself
        parent.kill()
    eventually(lambda: not alive(server) and not alive(child))
    eventually(lambda: not Path(address).parent.exists())


def test_no_orphan_when_the_guard_is_killed(tmp_path):
    process, address = start(tmp_path, "stubborn=1")
    said = answer(address)
    process._guard.kill()
    eventually(lambda: not alive(said["pid"]))
    with pytest.raises(RendererLostError, match="guard was killed"):
        while process.poll() is None:
            time.sleep(0.01)
    assert process.poll() == -signal.SIGKILL == process.end(1.0) and not Path(address).parent.exists()


def test_the_exit_code_arrives(tmp_path):
    process, _ = start(tmp_path, "exit=71", "say=no_memory")
    eventually(lambda: process.poll() is not None)
    assert process.end(5.0) == 71 and last_line(tmp_path / "log") == "no_memory"


def test_an_interpreter_that_is_not_there_is_a_bad_argument(tmp_path):
    process, address = start(tmp_path, python="/nowhere/python")
    eventually(lambda: process.poll() is not None)
    assert process.end(0.0) == 64 and not Path(address).parent.exists()
    assert last_line(tmp_path / "log") == "/nowhere/python: cannot be run: No such file or directory"


def test_the_environment_is_a_list_of_what_is_allowed(tmp_path, monkeypatch):
    for name in ("RAY_JOB_ID", "PYTHONSTARTUP", "AWS_SECRET_ACCESS_KEY", "MINE", "OMNI_KIT_ACCEPT_EULA"):
        monkeypatch.setenv(name, "1")
    kept = clean_environment(["MINE"], "")
    assert {"PATH", "MINE", "OMNI_KIT_ACCEPT_EULA"} <= set(kept)
    assert not {"RAY_JOB_ID", "PYTHONSTARTUP", "AWS_SECRET_ACCESS_KEY"} & set(kept)
    assert kept["PYTHONPATH"] == str(ROOT) and "PYTHONPATH" not in clean_environment([], "/opt/isaac/bin/python")
    process, address = start(tmp_path)
    said = answer(address)
    process.end(5.0)
    assert "RAY_JOB_ID" not in said["environment"] and said["environment"]["OMP_NUM_THREADS"] == "1"
    assert said["argv"] == [str(STAND_IN), address]


def test_a_log_stays_within_its_bytes_and_keeps_the_newest(tmp_path):
    talk = "import sys; [print(f'line {i:05d}', flush=True) for i in range(3000)]"
    sockets = socket_folder()
    process = ServerProcess([sys.executable, "-c", talk], clean_environment([], ""), tmp_path / "log", 4000, sockets)
    eventually(lambda: process.poll() is not None)
    process.end(0.0)
    assert last_line(tmp_path / "log") == "line 02999"
    sizes = [(tmp_path / name).stat().st_size for name in ("log", "log.1")]
    assert 2000 < sum(sizes) <= 4000


def test_logs_are_numbered_and_the_oldest_go(tmp_path):
    for number in range(1, 6):
        path = log_path(tmp_path / "logs", keep=3)
        assert path.name == f"server-{number:04d}.log"
        path.write_text("x")
        path.with_name(f"{path.name}.1").write_text("older")
    assert sorted(p.name for p in (tmp_path / "logs").glob("*.log")) == [f"server-000{n}.log" for n in (3, 4, 5)]
    assert len(list((tmp_path / "logs").iterdir())) == 6
    assert last_line(tmp_path / "none") == ""


def test_a_supervisor_is_light(tmp_path):
    """It keeps Isaac Sim in its own Python environment, where there may be nothing else."""
    heavy = ("torch", "ray", "mlflow", "warp", "zarr", "grpc", "numpy")
    code = f"import sys; sys.modules |= dict.fromkeys({heavy}); import actors.render_service.supervisor"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
