"""How a run's status looks: a panel with one row per role, and one line for logs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.status import OVER, RoleRates, RunStatus, seconds_of

_WIDTH = 110
_ABOUT = {
    "tasks": "tasks",
    "store_disk": "the disk",
    "store_writer": "the writer",
    "data": "data",
    "collectors": "collectors",
    "checkpoint": "checkpoints",
}


def panel(status: RunStatus, width: int, now: float, title: str = "servofleet train", more: str = "") -> Panel:
    """A panel of at most 110 columns.

    Args:
        status: what to show.
        width: of the terminal, in columns.
        now: the time to count ages from [s since the epoch].
        title: of the panel.
        more: a line below the rest.
    """
    parts: list[RenderableType] = [_head(status)]
    if status.roles:
        parts += [Text(), roles(status), Text()]
    below = Table.grid(padding=(0, 2))
    for name, value in _below(status, now):
        below.add_row(Text(name, style="dim"), Text(value))
    parts.append(below)
    if more:
        parts.append(Text(more))
    return Panel(Group(*parts), title=title, width=min(width, _WIDTH))


def roles(status: RunStatus) -> Table:
    """One row per role."""
    table = Table("role", box=None, pad_edge=False, padding=(0, 2))
    for name in ("alive", "restarts", "rows/s", "RSS"):
        table.add_column(name, justify="right")
    table.add_column("waits for")
    for role in status.roles:
        s = role.status
        alive = Text(f"{s.alive}/{s.wanted}", style="" if s.alive >= s.wanted else "bold red")
        speed = f"{role.samples_per_s:.0f}" if s.samples else "-"
        memory = f"{s.rss_bytes / 1e6:.0f} MB" if s.rss_bytes else "-"
        table.add_row(Text(s.role), alive, _restarts(role), speed, memory, waits_in_words(role))
    return table


def waits_in_words(role: RoleRates) -> str:
    """What a role waits for, the longest first; what is below one percent is left out."""
    shares = sorted(((share, why) for why, share in role.waits.items() if share >= 0.01), reverse=True)
    return ", ".join(f"{_ABOUT.get(why, why)} {100 * share:.0f} %" for share, why in shares)


def line(status: RunStatus) -> str:
    """The state in one line."""
    return "  ".join(f"{name} {value}" for name, value in facts(status))


def facts(status: RunStatus) -> Iterator[tuple[str, str]]:
    """Name and value of what the line holds."""
    yield ("phase", status.phase) if status.phase else ("state", status.state)
    if status.rounds:
        yield "round", f"{status.round}/{status.rounds}"
        yield "ETA of phase", duration(status.eta_s)
    yield "render", f"{status.frames_per_s:.0f} frames/s"
    found = {role.status.role: role for role in status.roles}
    if "collectors" in found:
        yield "collect", f"{found['collectors'].samples_per_s:.0f} rows/s"
    if "learner" in found and found["learner"].waits:
        yield "learn", f"{found['learner'].samples_per_s:.0f} rows/s"
        yield "learner waits", f"{100 * sum(found['learner'].waits.values()):.0f} %"
    if status.metrics.get("slowed_s", 0.0) > 0.0:
        yield "disk nearly full", f"writers waited {status.metrics['slowed_s']:.1f} s"
    if status.policy_lag_versions is not None:
        yield "policy lag", _lag(status)
    if "collectors" in found:
        s = found["collectors"].status
        yield "collectors", f"{s.alive}/{s.wanted}, {s.restarts} restarts"
    for key, label in (("total_loss", "loss"), ("reward", "reward"), ("iou_final", "iou_final")):
        if key in status.metrics:
            yield label, f"{status.metrics[key]:.3f}"


def duration(seconds: float | None) -> str:
    """Minutes and seconds, or hours and minutes from ten hours on; "?" for None."""
    if seconds is None:
        return "?"
    whole = int(seconds)
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min" if whole >= 36000 else f"{whole // 60}:{whole % 60:02d}"


def size(count: float) -> str:
    """Bytes in words."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def _head(status: RunStatus) -> Table:
    head = Table.grid(padding=(0, 2))
    done = f"round {status.round}/{status.rounds}" if status.rounds else ""
    done += f", {duration(status.eta_s)} to go" if done and status.state not in OVER else ""
    state = status.state if status.state in OVER or not status.phase else f"{status.state} {status.phase}"
    bar = ProgressBar(total=max(status.rounds, 1), completed=status.round, width=40)
    head.add_row(Text(state, style="bold"), bar, Text(done))
    return head


def _below(status: RunStatus, now: float) -> Iterator[tuple[str, str]]:
    if status.metrics:
        named = {"total_loss": "loss", "slowed_s": "slowed by the disk [s]"}
        yield "last round", "  ".join(f"{named.get(k, k)} {v:.3f}" for k, v in status.metrics.items())
    if status.policy_lag_versions is not None:
        yield "policy lag", _lag(status)
    if status.replay:
        r = status.replay
        yield "replay", f"{r['rows']} rows, {r['episodes']} episodes, {size(r['bytes'])}"
    if status.limiter:
        yield "limiter", _limiter(status)
    if status.roles:
        yield "rendering", f"{status.frames_per_s:.0f} frames/s"
    if status.checkpoint is not None and status.checkpoint_written is not None:
        age = duration(max(now - seconds_of(status.checkpoint_written), 0.0))
        yield "checkpoint", f"{status.checkpoint}, {age} old"
    yield "last evaluation", status.evaluation or "none yet"
    if status.last_failure:
        yield "last failure", status.last_failure


def _restarts(role: RoleRates) -> str:
    causes = role.status.causes
    return str(role.status.restarts) + (f" ({', '.join(f'{n} {why}' for why, n in causes.items())})" if causes else "")


def _lag(status: RunStatus) -> str:
    seconds = "" if status.policy_lag_s is None else f", {status.policy_lag_s:.1f} s"
    return f"{status.policy_lag_versions:.1f} versions{seconds}"


def _limiter(status: RunStatus) -> str:
    limiter = status.limiter
    text = f"{limiter['inserts']:.0f} rows in, {limiter['samples']:.0f} drawn"
    if "balance" in limiter:
        text += f", balance {limiter['balance']:.0f}"
    if "sample_wait" in limiter:
        text += f"; held back: learner {100 * limiter['sample_wait']:.0f} %"
    if "insert_wait" in limiter:
        text += f", collectors {100 * limiter['insert_wait']:.0f} %"
    return text
