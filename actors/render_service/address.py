"""Where a render server listens: a unix socket in a folder of its user's own, or a port of the loopback interface.

Nothing else is allowed: the service knows no passwords, so whoever reaches it may use it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
import stat
from pathlib import Path

from common.errors import ConfigError, RendererError, bad_value

ALLOWED = "unix:///PATH, or PORT of 127.0.0.1 or [::1] as 127.0.0.1:PORT"
_MAX_PATH = 107  # bytes of a unix socket's path on Linux


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        path: of a unix socket, or None.
        host: "127.0.0.1" or "::1" where there is no path.
        port: 1 .. 65535; 0 lets the system choose.
    """

    path: Path | None = None
    host: str = ""
    port: int = 0

    def target(self) -> str:
        """What gRPC calls it."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path is not None else self.target()


def parse_address(text: str, field: str = "address") -> Address:
    """The address that a text names; `field` is what errors call it.

    Raises:
        ConfigError: naming the text, if it is none, or is reachable from other machines.
    """
    if text.startswith("unix:"):
        name = text.removeprefix("unix:")
        absolute = name.startswith("///") or (name.startswith("/") and not name.startswith("//"))
        path = Path("/" + name.lstrip("/")) if absolute else None
        if path is None or path == Path("/"):
            raise ConfigError(bad_value(field, text, "unix:///PATH, an absolute path"))
        if len(os.fsencode(path)) > _MAX_PATH:
            raise ConfigError(bad_value(field, text, f"a path of {_MAX_PATH} bytes at most"))
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(bad_value(field, text, ALLOWED))
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        why = "off this machine the service would need TLS and a token, which it has not"
        raise ConfigError(bad_value(field, text, f"{ALLOWED}: {why}"))
    return Address(host=host, port=int(port))


def claim(address: Address) -> None:
    """Make sure that a server may listen there; a socket that a killed server left behind is removed.

    Raises:
        ConfigError: if the folder of a unix socket is missing or other users may write into it, or the name is taken by
            something that is not a socket.
        RendererError: if a server already listens there.
    """
    if address.path is None:
        return
    folder = address.path.parent
    try:
        found = folder.stat()
    except OSError as e:
        raise ConfigError(bad_value("folder of the socket", str(folder), f"a folder that is there ({e})")) from e
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        seen = f"{folder}, owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}"
        allowed = f"a folder of user {os.getuid()} that nobody else may write into (mode 700)"
        raise ConfigError(bad_value("folder of the socket", seen, allowed))
    if not os.path.lexists(address.path):
        return
    if not stat.S_ISSOCK(address.path.lstat().st_mode):
        raise ConfigError(bad_value("socket", str(address.path), "a new name, or a socket left by a server"))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            address.path.unlink()  # nobody listens: its server was killed
            return
    raise RendererError(f"{address}: a server already listens there")
