"""The command line and the folders of a supervised server."""

import os

import pytest
from misbehaving import serving

from actors.render_service import supervisor_command
from actors.render_service.supervisor_command import ask_health, known_machine, logs_folder, main, supervise
from common.config import RendererConfig
from common.errors import ConfigError, RendererLostError


@pytest.fixture
def argv(monkeypatch, tmp_path):
    """(settings, arguments of `supervise`) -> the command line and the address of a start."""
    kept = []
    monkeypatch.setattr(supervisor_command, "Supervisor", lambda *args, **kwargs: kept.append((args, kwargs)))

    def made(settings, **arguments):
        supervise(RendererConfig(place="supervised", folder=str(tmp_path), **settings), "c000", 7, **arguments)
        (_, make_argv, _, folder), options = kept[-1]
        assert folder == tmp_path / "c000" and options["alone"] == bool(arguments.get("listen"))
        return make_argv(tmp_path / "sockets")

    return made


def test_the_command_line_says_what_the_settings_say(argv, tmp_path):
    command, address = argv({})
    assert address == f"unix://{tmp_path}/sockets/render.sock"
    assert command[1:] == (
        ["-P", "-m", "actors.render_service", "--backend", "warp", "--listen", address, "--max-envs", "7"]
    )
    settings = {"backend": "isaacsim", "python": "/opt/isaac/bin/python", "device": "cuda:1", "args": ["--tiles", "4"]}
    command, _ = argv(settings, size=64)
    assert command[0] == "/opt/isaac/bin/python"
    assert command[-6:] == ["--device", "cuda:1", "--size", "64x64", "--tiles", "4"]
    assert argv({}, listen="127.0.0.1:5000")[1] == "127.0.0.1:5000"


def test_health_is_what_the_server_says(tmp_path):
    tmp_path.chmod(0o700)
    with serving(f"unix://{tmp_path}/s") as service:
        health = ask_health(service.bound, 5.0)
        assert health.rss_bytes > 10e6 and health.resets == 0 and health.busy_s == 0.0 and not health.advised
        service.backend = None
        with pytest.raises(RendererLostError, match="backend is starting"):
            ask_health(service.bound, 5.0)
    with pytest.raises(RendererLostError, match="Health: UNAVAILABLE"):
        ask_health(service.bound, 5.0)


def test_logs_are_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert logs_folder(RendererConfig()) == tmp_path / f"servofleet-{os.getuid()}" / "render-servers"
    assert (tmp_path / f"servofleet-{os.getuid()}").stat().st_mode & 0o077 == 0
    (tmp_path / f"servofleet-{os.getuid()}").rmdir()
    (tmp_path / f"servofleet-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"renderer\.folder = '': allowed is a folder of yours"):
        logs_folder(RendererConfig())
    assert logs_folder(RendererConfig(folder="~/logs")).is_absolute()


def test_machines_are_known_by_backend_and_interpreter():
    names = {known_machine(backend, python) for backend in ("warp", "isaacsim") for python in ("/a", "/b")}
    assert len(names) == 4


@pytest.mark.slow
def test_a_supervisor_on_its_own_says_why_it_gives_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of this process stay
    address = f"unix://{tmp_path}/nowhere/s"  # the folder is missing, which the server refuses
    assert main(["--listen", address, "--logs", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "supervisor: exit code 64: its command line is refused" in said and "server-0001.log" in said
