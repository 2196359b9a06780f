"""All threads of a process are pinned, those that ran before included."""

import os
import threading

import pytest

from common.affinity import pin_process


def test_threads_that_run_already_are_pinned_and_let_go_again():
    mine = os.sched_getaffinity(0)
    if len(mine) < 2:
        pytest.skip("one processor: there is nothing to choose")
    ended, found, asked = threading.Event(), [], threading.Event()

    def other():
        asked.wait()
        found.append(os.sched_getaffinity(0))
        ended.wait()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        pin_process([min(mine)])
        asked.set()
        while not found:
            pass
        assert found == [{min(mine)}] and os.sched_getaffinity(0) == {min(mine)}
    finally:
        pin_process(mine)
        ended.set()
        thread.join()
    assert os.sched_getaffinity(0) == mine
