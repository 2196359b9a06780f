"""Starting Isaac Sim's application, once per process, under the rules that its own code sets.

`SimulationApp` installs signal handlers, reads `sys.argv`, must come before any other module of Isaac or USD, and ends
the process when it is closed. So: main thread, arguments cleared, one app, closed last.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

from actors.isaac.api import Api, load_manifest
from actors.isaac.version import (
    PYTHONS,
    IsaacError,
    Manifest,
    check_eula,
    check_gpus,
    installed_version,
    list_gpus,
    manifest_for,
)
from common.errors import bad_value

# Modules that may only be imported by a running app.
_TOO_EARLY = ("omni", "pxr", "carb", "isaacsim.core")
_state: dict[str, bool] = {"started": False}


@dataclasses.dataclass(frozen=True)
class AppConfig:
    """How the application is started.

    Attributes:
        portable_root: folder of this process alone for Kit's caches and logs; processes that share one lock each other.
        cpu_threads: of Kit; 0 is every processor this process may use. Kit itself counts the machine's, not the
            container's.
        allow_unsupported_gpu: start on a GPU without ray-tracing cores.
    """

    portable_root: Path
    cpu_threads: int = 0
    allow_unsupported_gpu: bool = False


class App:
    """A running application. Everything of it belongs to the thread that started it."""

    def __init__(self, simulation_app: Any, api: Api, version: str) -> None:
        self._app = simulation_app
        self._thread = threading.get_ident()
        self.api = api
        self.version = version
        self.updates = 0

    def update(self) -> None:
        """One frame of Kit.

        Raises:
            IsaacError: from another thread, which would deadlock, or after `close`.
        """
        if threading.get_ident() != self._thread:
            raise IsaacError("Isaac Sim was updated from another thread than the one that started it: it would hang")
        self._running().update()
        self.updates += 1

    def close(self) -> None:
        """End the application and, with it, usually the process: nothing after this call can be relied on."""
        app, self._app = self._app, None
        if app is not None:
            app.close(wait_for_replicator=False)

    def _running(self) -> Any:
        if self._app is None:
            raise IsaacError("Isaac Sim is closed, and starts once per process: start another process")
        return self._app


def start(config: AppConfig) -> App:
    """Start Isaac Sim in this process.

    Raises:
        IsaacError: if Isaac Sim, its Python, the GPU or the licence's acceptance is missing; if this is not the main
            thread; if an app was started here before; if modules of Omniverse or USD are already imported.
    """
    _check_process()
    check_eula(os.environ)
    version = installed_version()
    manifest = manifest_for(version)
    _check_python(manifest)
    check_gpus(list_gpus(), config.allow_unsupported_gpu)
    api = Api(load_manifest(manifest))
    config.portable_root.mkdir(parents=True, exist_ok=True)
    # Unknown arguments would be handed to Kit; this one is only looked for here, and only as two words.
    sys.argv = [sys.argv[0], "--portable-root", str(config.portable_root)]
    _state["started"] = True
    threads = config.cpu_threads or len(os.sched_getaffinity(0))
    simulation_app = api.start_app({"limit_cpu_threads": threads})
    app = App(simulation_app, api, version)
    api.verify()
    for path, value in api.settings().items():
        simulation_app.set_setting(path, value)
    return app


def _check_process() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise IsaacError("Isaac Sim installs signal handlers: start it from the process's main thread")
    if _state["started"]:
        raise IsaacError("Isaac Sim was started in this process before, and starts once: start another process")
    early = sorted(m for m in sys.modules if any(m == e or m.startswith(f"{e}.") for e in _TOO_EARLY))
    if early:
        raise IsaacError(bad_value("modules imported before Isaac Sim", early[:5], f"none of {_TOO_EARLY}"))


def _check_python(manifest: Manifest) -> None:
    wanted = PYTHONS[manifest]
    if sys.version_info[:2] != wanted:
        seen = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise IsaacError(
            bad_value("Python", seen, f"{wanted[0]}.{wanted[1]} for Isaac Sim {manifest.replace('_', '.')}")
        )
