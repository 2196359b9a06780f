"""A run that is asked to end again and again, at moments from a recorded seed, ends as one that nobody asked.

Rounds are short here, so each request finds a safe point within the grace, and no round is done twice.
"""

import signal
import time

import pytest
from train_process import DEADLINE_S, outcome, rows_of, said, same, train, training

from common.rng import Purpose, philox

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(1800)]

SEED, GRACE_S = 20261122, 120.0  # a busy machine's rounds take their time


@pytest.mark.parametrize("repeat", [0, 1])
def test_requests_to_end_change_nothing(tmp_path, repeat):
    train(tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    rng, path = philox(SEED + repeat, Purpose.BOOTSTRAP), tmp_path / "run"
    took, behind = [], []
    for number, rows in ((signal.SIGTERM, 1), (signal.SIGUSR1, 4), (signal.SIGTERM, 7)):
        pause = float(rng.uniform(0.0, 0.5))
        with training(path, f"grace_s={GRACE_S}") as process:
            deadline = time.monotonic() + DEADLINE_S
            while len(rows_of(path)) < rows:
                assert process.poll() is None and time.monotonic() < deadline, said(path)[-3000:]
                time.sleep(0.02)
            time.sleep(pause)
            process.send_signal(number)
            began = time.monotonic()
            assert process.wait(DEADLINE_S) == 75, said(path)[-3000:]
            took.append(time.monotonic() - began)
        behind.append(said(path).strip().splitlines()[-1])
    print(f"seed {SEED + repeat}: ended after {[round(t, 1) for t in took]} s")
    assert max(took) < GRACE_S + 3.0
    assert all("stopped behind a checkpoint" in line for line in behind), behind
    train(path)
    same(outcome(path), expected)
