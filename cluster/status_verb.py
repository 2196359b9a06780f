"""`servofleet status RUN`: what a run is doing, from any shell that sees its directory. Touches nothing in it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import socket
import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cluster.role_log import last_errors
from cluster.status import OVER, RunStatus, process, read_status, seconds_of, to_json
from cluster.status_view import duration, line, panel
from common.errors import ServofleetError

# The driver writes between gradient steps; a long update of RL, or the final report, may take longer than this.
SILENT_S = 60.0
_EVERY_S = 2.0
_WELL = ("running", "finished", "stopped")


@dataclasses.dataclass(frozen=True)
class RunView:
    """What can be said of a run from outside.

    Attributes:
        state: running; finished; stopped (was asked to) or failed (by an error): both go on when it is started again;
            killed: its driver ended without a word; silent: it may be hung, or cut off; unknown: it left no status.
        says: the state in a sentence, with what to do.
        age_s: since the status was written; None if there is none.
        status: what the driver wrote last; None if nothing.
        errors: the newest error in each role's log, by role.
    """

    state: str
    says: str
    age_s: float | None
    status: RunStatus | None
    errors: dict[str, dict[str, Any]]

    @property
    def ok(self) -> bool:
        """Nobody has to look after it."""
        return self.state in _WELL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("where", metavar="RUN", help="run directory")
    parser.add_argument("--watch", action="store_true", help="show it anew every two seconds until the run is over")


def status(arguments: argparse.Namespace) -> int:
    """Run the verb: 0 if the run is well (running, finished or stopped), else 1.

    Raises:
        ServofleetError: if the directory holds no run, or what it holds cannot be read.
    """
    run, console = Path(arguments.where), Console()
    if not arguments.watch:
        view = look(run, time.time())
        print(json.dumps(as_json(view))) if arguments.json else console.print(shown(view, console.width, time.time()))
        return 0 if view.ok else 1
    try:
        return _watch(run, console, as_json_lines=arguments.json)
    except KeyboardInterrupt:  # how a person ends a watch; the run goes on
        return 0


def _watch(run: Path, console: Console, *, as_json_lines: bool) -> int:
    plain = as_json_lines or not console.is_terminal
    written = None
    with contextlib.nullcontext() if plain else Live(console=console, auto_refresh=False) as live:
        while True:
            view = look(run, time.time())
            if live is not None:
                live.update(shown(view, console.width, time.time()), refresh=True)
            elif (new := (view.state, view.status and view.status.written)) != written:
                written = new
                text = json.dumps(as_json(view)) if as_json_lines else (line(view.status) if view.status else view.says)
                print(text, flush=True)
            if view.state in (*OVER, "killed", "unknown"):
                break
            time.sleep(_EVERY_S)
    if live is None and not as_json_lines:
        print(view.says)
    return 0 if view.ok else 1


def look(run: Path, now: float) -> RunView:
    """What a run directory says of its run at the time `now` [s since the epoch].

    Raises:
        ServofleetError: if the directory holds no run, or what it holds cannot be read.
    """
    if not (run / "config.json").is_file():
        found = "holds no run" if run.is_dir() else "no such directory"
        raise ServofleetError(f"run = {str(run)!r}: {found}; `servofleet train` starts one")
    written = read_status(run)
    try:
        errors = last_errors(run)
    except OSError as e:
        raise ServofleetError(f"{run}/logs: cannot be read: {e.strerror or e}") from e
    if written is None:
        if (run / "report.json").is_file():
            return RunView(
                "finished", "finished; it left no status: an older servofleet trained it", None, None, errors
            )
        says = "it left no status: it never came so far, or an older servofleet trains it; `servofleet train` goes on"
        return RunView("unknown", says, None, None, errors)
    age = max(now - seconds_of(written.written), 0.0)
    state, says = _judge(written, age)
    return RunView(state, says, age, written, errors)


def _judge(status: RunStatus, age: float) -> tuple[str, str]:
    ago = f"{duration(age)} ago"
    goes_on = "`servofleet train` with the same settings goes on from the last checkpoint"
    if status.state == "finished":
        return "finished", f"finished {ago}"
    if status.state in OVER:
        why = f": {status.last_failure}" if status.state == "failed" else ""
        return status.state, f"{status.state} {ago}{why}; {goes_on}"
    driver = f"the driver (pid {status.pid} on {status.host})"
    if status.host == socket.gethostname():
        found = process(status.pid)
        if found is None or found[1] != status.pid_began or found[0] in "ZX":
            return "killed", f"{driver} is gone without a word; last sign {ago}; {goes_on}"
        if found[0] in "Tt":
            return "silent", f"{driver} is suspended; last sign {ago}; `kill -CONT {status.pid}` wakes it"
        if age > SILENT_S:
            return "silent", f"{driver} is alive; last sign {ago}: a long update, or it hangs"
    elif age > SILENT_S:
        return "silent", f"{driver} gave its last sign {ago}: it is dead, cut off, or in a long update; look there"
    return "running", f"running on {status.host}, pid {status.pid}; last sign {ago}"


def as_json(view: RunView) -> dict[str, Any]:
    """One object; `status` is that of status.json."""
    return {
        "ok": view.ok,
        "state": view.state,
        "says": view.says,
        "age_s": view.age_s,
        "status": None if view.status is None else to_json(view.status),
        "errors": view.errors,
    }


def shown(view: RunView, width: int, now: float) -> RenderableType:
    """For a terminal of so many columns."""
    parts: list[RenderableType] = []
    if view.status is not None:
        parts.append(panel(view.status, width, now, title=view.status.run_id))
    parts.append(Text(view.says, style="" if view.ok else "bold red"))
    for role, event in view.errors.items():
        cause = event.get("fields", {}).get("cause", "")
        parts.append(Text(f"last error of {role}, {event['time']}: {event['event']}{': ' if cause else ''}{cause}"))
    return Group(*parts)
