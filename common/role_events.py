"""Events of the roles of a run (driver, learner, collectors, writer, evaluator), told through the standard `logging`.

Who has something to tell says it to the logger `servofleet.<role>`; where it goes is decided elsewhere: the driver
writes one file per role (`cluster.role_log`), a process on another node keeps the last few and hands them over with its
next result, so that nothing ever waits for a log.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

ROLES = ("driver", "learner", "collectors", "writer", "evaluator")
ROOT = "servofleet"
_MAX_TEXT = 4000


@dataclasses.dataclass(frozen=True)
class Event:
    """One event, as it travels between processes.

    Attributes:
        time: when it happened, by the clock of the machine where it did [s since the epoch].
        level: "INFO", "WARNING", "ERROR".
        role: whose.
        event: what happened, in a few words.
        fields: whatever belongs to it; JSON-ready.
    """

    time: float
    level: str
    role: str
    event: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def tell(role: str, level: int, event: str, **fields: Any) -> None:
    """Tell of an event of a role; `fields` are numbers, strings, or lists and objects of them."""
    logging.getLogger(f"{ROOT}.{role}").log(level, "%s", event, extra={"fields": fields})


def retell(events: Iterable[Event]) -> None:
    """Tell of what was captured in another process, with the times of then."""
    for event in events:
        logger = logging.getLogger(f"{ROOT}.{event.role}")
        level = logging.getLevelNamesMapping()[event.level]
        if not logger.isEnabledFor(level):
            continue
        extra = {"fields": dict(event.fields)}
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (event.event,), None, extra=extra)
        record.created = event.time
        logger.handle(record)


def event_of(record: logging.LogRecord) -> Event:
    """What a log record tells; an exception that it carries becomes the field `cause`."""
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        fields.setdefault("cause", cause(record.exc_info[1]))
    role = record.name.removeprefix(f"{ROOT}.")
    return Event(record.created, record.levelname, role, record.getMessage()[:_MAX_TEXT], fields)


def cause(error: BaseException) -> str:
    """An exception and what it came from, the latest first, one line each."""
    lines: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        text = str(link).strip().splitlines()
        lines.append(f"{type(link).__name__}: {text[-1] if text else ''}".rstrip(": "))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return " <- ".join(lines)[:_MAX_TEXT]


class Captured(logging.Handler):
    """The last events of this process, until somebody takes them along. Never more than `limit`: the oldest go first,
    and how many went is an event of its own.
    """

    def __init__(self, role: str, loggers: tuple[str, ...], limit: int = 64) -> None:
        """Capture warnings and worse from now on.

        Args:
            role: whose events they are.
            loggers: names of loggers, each with those below it. None of them may be one that `retell` tells to, or an
                event would come round again where both are in one process.
            limit: events kept.
        """
        super().__init__(logging.WARNING)
        self._role, self._loggers = role, loggers
        self._kept: collections.deque[Event] = collections.deque(maxlen=limit)
        self._lost = 0
        self._guard = threading.Lock()
        for name in loggers:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an event."""
        with self._guard:
            self._lost += len(self._kept) == self._kept.maxlen
            self._kept.append(dataclasses.replace(event_of(record), role=self._role))

    def take(self, **fields: Any) -> tuple[Event, ...]:
        """What was captured since the last call; `fields` are added to each (who and where it was)."""
        with self._guard:
            events, lost = list(self._kept), self._lost
            self._kept.clear()
            self._lost = 0
        if lost:
            events.insert(0, Event(events[0].time, "WARNING", self._role, "older events were dropped", {"count": lost}))
        return tuple(dataclasses.replace(e, fields={**e.fields, **fields}) for e in events)

    def close(self) -> None:
        """Capture no more."""
        for name in self._loggers:
            logging.getLogger(name).removeHandler(self)
        super().close()
