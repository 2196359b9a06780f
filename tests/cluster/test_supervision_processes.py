"""What is known of processes that end, and what Ray's errors mean; on real processes."""

import os
import platform
import signal
import subprocess
import sys

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError

from cluster import supervision_processes
from cluster.supervision_processes import (
    Whereabouts,
    cause_of,
    end_process,
    exit_status,
    open_process,
)
from common.processes import process_stat

TELLS = tuple(int(n) for n in platform.release().split("-")[0].split(".")[:2]) >= (6, 15)


@pytest.fixture
def child():
    children = []

    def start(code="import time; time.sleep(60)"):
        children.append(subprocess.Popen([sys.executable, "-S", "-c", code]))
        pid = children[-1].pid
        where = Whereabouts("n", supervision_processes._space(), pid, process_stat(pid).born)
        return children[-1], where

    yield start
    for process in children:
        process.kill()
        process.wait()


@pytest.mark.skipif(not TELLS, reason="the kernel tells the exit status of strangers since Linux 6.15")
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_how_a_process_ended(child, code, status):
    process, where = child(f"import time; time.sleep(0.2); {code}")
    descriptor = open_process(where)
    process.wait()
    assert exit_status(descriptor) == status
    assert str(cause_of(ActorDiedError(), descriptor, True)) == f"died: {status}"
    os.close(descriptor)


def test_a_stopped_process_is_ended_and_ending_it_again_hits_nobody(child):
    process, where = child()
    descriptor = open_process(where)
    assert exit_status(descriptor) == ""  # it lives
    os.kill(process.pid, signal.SIGSTOP)
    end_process(descriptor)
    assert process.wait(10) == -signal.SIGKILL
    end_process(descriptor)
    os.close(descriptor)


def test_a_process_of_another_table_or_another_one_of_the_same_number_is_out_of_reach(child):
    process, where = child()
    assert open_process(Whereabouts("n", "another boot pid:[1]", where.pid, where.born)) is None
    assert open_process(Whereabouts("n", where.space, where.pid, where.born + 1)) is None
    process.kill()
    process.wait()
    assert open_process(where) is None


def task_error(error):
    return RayTaskError("f", f"Traceback\nfile\n{type(error).__name__}: {error}", error).as_instanceof_cause()


def actor_error(text, **facts):
    return RayActorError("a", text, **facts)


@pytest.mark.parametrize(
    ("error", "alive", "cause"),
    [
        (task_error(ValueError("no")), True, "raised: ValueError"),
        (task_error(ValueError("no")), False, "raised: ValueError"),
        (actor_error("in its creation task,\nImportError: no: more", actor_init_failed=True), True,
         "raised: ImportError at its start"),
        (actor_error("The actor died because its node has died. Node Id: 1"), True, "node lost"),
        (actor_error("The actor is dead", preempted=True), True, "node lost"),
        (actor_error("connection error code 2"), False, "node lost"),
        (actor_error("connection error code 2"), True, "died: killed or crashed"),
        (actor_error("Worker exits with an exit code 4."), True, "died: exit code 4"),
        (OutOfMemoryError("the monitor"), True, "died: out of memory"),
        (ActorUnavailableError("keepalive", None), True, "None"),
        (ActorUnavailableError("keepalive", None), False, "node lost"),
    ],
)  # fmt: skip
def test_the_cause_that_an_error_stands_for(error, alive, cause):
    assert str(cause_of(error, None, alive)) == cause
