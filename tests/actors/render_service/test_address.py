import socket
import stat

import pytest
from misbehaving import serving

from actors.render_service.address import Address, claim, parse_address
from common.errors import ConfigError, RendererError


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("127.0.0.1:50551", "127.0.0.1:50551"),
        ("127.8.9.1:1", "127.8.9.1:1"),
        ("localhost:7", "127.0.0.1:7"),
        ("[::1]:7", "[::1]:7"),
    ],
)
def test_this_machine_is_allowed(text, target) -> None:
    address = parse_address(text)
    assert address.target() == target
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:1", "[::]:1", "10.1.2.3:50551", "example.com:80", ":80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"],
)
def test_everything_else_is_refused_with_the_reason(text) -> None:
    with pytest.raises(ConfigError, match=r"--listen = .*allowed is"):
        parse_address(text, "--listen")


@pytest.mark.parametrize("text", ["unix://x.sock", "unix:x", "unix:///", "", "unix:///" + "x" * 120])
def test_no_path_or_too_long_a_one_is_refused(text) -> None:
    with pytest.raises(ConfigError, match=r"address = .*allowed is"):
        parse_address(text)


def test_an_address_of_other_machines_says_why() -> None:
    with pytest.raises(ConfigError, match="would need TLS and a token"):
        parse_address("0.0.0.0:1")


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o1777])
def test_a_folder_that_others_may_write_into_is_refused(tmp_path, mode) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=r"folder of the socket = .*nobody else"):
        claim(Address(path=tmp_path / "s"))
    tmp_path.chmod(0o700)
    claim(Address(path=tmp_path / "s"))


def test_a_folder_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="a folder that is there"):
        claim(Address(path=tmp_path / "no" / "s"))


def test_a_dead_socket_is_removed_and_a_live_one_or_a_file_is_not(tmp_path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(RendererError, match="a server already listens there"):
            claim(Address(path=path))
    claim(Address(path=path))
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(ConfigError, match=r"socket = .*a new name"):
        claim(Address(path=path))
    assert path.read_text() == "precious"


def test_the_socket_is_its_users_alone_and_a_second_server_is_refused(tmp_path) -> None:
    tmp_path.chmod(0o700)
    address = f"unix://{tmp_path}/s"
    with serving(address):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        with pytest.raises(RendererError, match="already listens"), serving(address):
            pass
    with serving("127.0.0.1:0") as service, pytest.raises(RendererError, match="cannot listen"), serving(service.bound):
        pass
