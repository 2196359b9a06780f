"""The limiter keeps the ratio, never lets both sides wait for each other, and refuses settings that would."""

from __future__ import annotations

import json
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StoreError
from replay.limiter import Limiter, LimiterTimeoutError

RATIOS = st.sampled_from([0.1, 0.3, 1.0, 2.5, 8.0, 1 / 3])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=60)
@given(
    min_size=st.integers(1, 20),
    ratio=RATIOS,
    most=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    extra=st.sampled_from([0.0, 0.5, 30.0]),
    order=st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.integers(0, 5)), max_size=80),
)
def test_settings_that_are_taken_never_deadlock_and_hold_the_ratio(
    min_size: int, ratio: float, most: tuple[int, int], extra: float, order: list[tuple[bool, int, int]]
) -> None:
    max_sample, max_insert = most
    band = (max_sample + max_insert * ratio) / 2 + extra + 1e-9
    limiter = Limiter(min_size, ratio, band, max_sample=max_sample, max_insert=max_insert)
    balance = 0.0
    for sampling, rows, removed in order:
        before = limiter.report()
        there = before["inserts"] - before["removed"]
        if sampling:
            if limiter.try_sample(min(rows, max_sample)):
                assert there >= min_size
                balance -= min(rows, max_sample)
        elif limiter.try_insert(min(rows, max_insert)):
            counted = min(min(rows, max_insert), max(0, min(rows, max_insert) + there - min_size))
            assert there < min_size or balance + counted * ratio <= band + 1e-6
            balance = min(balance + counted * ratio, band)
        limiter.remove(min(removed, int(limiter.report()["inserts"] - limiter.report()["removed"])))
        assert limiter.report()["balance"] == pytest.approx(balance, abs=1e-6)
        assert -band - 1e-6 <= balance <= band + 1e-6
        # Whoever asks for the most that is allowed, one of the two may go on.
        probe = Limiter(min_size, ratio, band, max_sample=max_sample, max_insert=max_insert)
        probe.load(limiter.state())
        assert probe.try_insert(max_insert) or probe.try_sample(max_sample)


@given(ratio=RATIOS, most=st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=st.integers(1, 9))
def test_a_narrower_band_is_refused(ratio: float, most: tuple[int, int], min_size: int) -> None:
    needed = (most[0] + most[1] * ratio) / 2
    with pytest.raises(StoreError, match=r"limiter error_band = .*: allowed is at least \d+: .* wait for each other"):
        Limiter(min_size, ratio, needed - 0.01, max_sample=most[0], max_insert=most[1])


def test_a_band_that_is_refused_would_have_locked() -> None:
    limiter = Limiter(4, 2.0, 6.0, max_sample=8, max_insert=2)  # (8 + 2 * 2) / 2 = 6 is just enough
    limiter._band = 5.5
    for _ in range(2):
        assert limiter.try_insert(2)
    assert limiter.try_insert(1)
    assert not limiter.try_insert(2) and not limiter.try_sample(8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_size": 0}, "limiter min_size = 0: allowed is at least 1"),
        ({"samples_per_insert": 0.0}, r"limiter samples_per_insert = 0\.0: allowed is a finite number above 0"),
        ({"samples_per_insert": math.inf}, "limiter samples_per_insert = inf"),
        ({"error_band": math.nan}, "limiter error_band = nan"),
        ({"error_band": 9.0, "max_sample": 64}, r"error_band = 9\.0: allowed is at least 34"),
        ({"capacity": 99}, r"limiter min_size = 100: allowed is 1 \.\. 99: retention removes rows before"),
        ({"max_insert": 0}, "limiter max_insert = 0"),
    ],
)
def test_bad_settings_are_refused(given: dict, message: str) -> None:
    plain = {"min_size": 100, "samples_per_insert": 4.0, "error_band": 50.0}
    with pytest.raises(StoreError, match=message):
        Limiter(**(plain | given))


def test_each_side_waits_for_the_other() -> None:
    limiter = Limiter(10, 2.0, 8.0, max_sample=4, max_insert=5)
    assert not limiter.try_sample(1)
    assert limiter.try_insert(5) and not limiter.try_sample(1)
    assert limiter.try_insert(5)  # min_size is reached: these ten were free
    assert limiter.try_sample(4) and limiter.try_sample(4) and not limiter.try_sample(1)
    assert limiter.try_insert(5) and not limiter.try_insert(4) and limiter.try_insert(3)
    assert limiter.report()["balance"] == 8.0
    limiter.remove(9)  # 9 rows are left: too few, so inserts are free until there are ten again
    assert not limiter.try_sample(1) and limiter.try_insert(1) and limiter.try_sample(1)
    with pytest.raises(StoreError, match=r"rows of one insert = 6: allowed is 1 \.\. 5"):
        limiter.try_insert(6)
    with pytest.raises(StoreError, match=r"rows of one sample = 0: allowed is 1 \.\. 4"):
        limiter.sample(0, 1.0)
    with pytest.raises(StoreError, match=r"rows removed = 11: allowed is 0 \.\. 10"):
        limiter.remove(11)


def test_an_infinite_band_is_a_minimum_size_only() -> None:
    limiter = Limiter(2, 1.0, math.inf, max_sample=1000, max_insert=1000)
    assert limiter.try_insert(2) and all(limiter.try_sample(1000) for _ in range(9))
    assert all(limiter.try_insert(1000) for _ in range(99))
    again = Limiter(2, 1.0, math.inf, max_sample=1000, max_insert=1000)
    assert again.load(json.loads(json.dumps(limiter.state()))) == []


def test_a_deadline_ends_the_wait_and_counts_nothing() -> None:
    limiter = Limiter(10, 2.0, 8.0, max_sample=4, max_insert=5)
    with pytest.raises(
        LimiterTimeoutError, match=r"sample of 4 rows waited 0.01 s: 0 rows are there \(min_size = 10\)"
    ):
        limiter.sample(4, 0.01)
    for _ in range(2):
        limiter.insert(5, 0.0)
    limiter.insert(4, 0.0)
    with pytest.raises(LimiterTimeoutError, match=r"insert of 1 rows .* the balance is 8 \(allowed is -8 \.\. 8, 2"):
        limiter.insert(1, 0.01)
    assert limiter.report() | {"insert_wait": 0, "sample_wait": 0, "seconds": 0} == {
        "inserts": 14, "samples": 0, "removed": 0, "balance": 8, "insert_wait": 0, "sample_wait": 0, "seconds": 0,
    }  # fmt: skip


def test_threads_on_both_sides_end_within_the_band() -> None:
    limiter = Limiter(20, 3.0, 24.0, max_sample=8, max_insert=4)
    failed: list[StoreError] = []

    def run(act: object, rows: int, times: int) -> None:
        try:
            for _ in range(times):
                act(rows, 30.0)  # type: ignore[operator]
        except StoreError as error:
            failed.append(error)

    # 3 x 60 x 4 rows in; (720 - 20) x 3 = 2100 out, less what the band leaves.
    work = [(limiter.insert, 4, 60)] * 3 + [(limiter.sample, 8, 130)] * 2
    threads = [threading.Thread(target=run, args=w) for w in work]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    report = limiter.report()
    assert not failed and (report["inserts"], report["samples"]) == (720, 2080)
    assert report["balance"] == 20


def test_wait_fractions_tell_which_side_waits() -> None:
    clock = Clock()
    limiter = Limiter(2, 1.0, 4.0, clock=clock)
    clock.now = 1.0
    assert not limiter.try_sample(1)
    clock.now = 3.0
    assert limiter.try_insert(1) and limiter.try_insert(1) and limiter.try_sample(1)  # the sampler waited 2 s
    clock.now = 4.0
    while limiter.try_insert(1):
        pass
    clock.now = 8.0
    report = limiter.report()
    assert (report["sample_wait"], report["insert_wait"]) == (0.25, 0.5)
    assert limiter.waited() == {"sample": 2.0, "insert": 4.0, "all": 8.0}
    assert limiter.try_sample(1) and limiter.try_insert(1)
    clock.now = 16.0
    assert limiter.report()["insert_wait"] == 0.25


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 1e3)), max_size=30))
def test_what_a_side_waited_never_gets_smaller(steps: list[tuple[bool, float]]) -> None:
    clock = Clock()
    limiter = Limiter(2, 1.0, 4.0, clock=clock)
    before = limiter.waited()
    for inserts, seconds in steps:
        limiter.try_insert(1) if inserts else limiter.try_sample(1)
        clock.now += seconds
        waited = limiter.waited()
        assert all(waited[side] >= before[side] for side in waited)
        before = waited


def test_a_blocked_thread_counts_as_waiting() -> None:
    limiter = Limiter(1, 1.0, 4.0)
    with pytest.raises(LimiterTimeoutError):
        limiter.sample(1, 0.05)
    report = limiter.report()
    assert report["sample_wait"] > 0.5 and report["insert_wait"] == 0


def test_a_restored_limiter_goes_on_where_it_was() -> None:
    limiter = Limiter(10, 1 / 3, 8.0, max_sample=4, max_insert=5)
    for _ in range(5):
        limiter.try_insert(5)
        limiter.try_sample(3)
    again = Limiter(10, 1 / 3, 8.0, max_sample=4, max_insert=5)
    assert again.load(json.loads(json.dumps(limiter.state()))) == []
    for _ in range(30):
        assert again.try_insert(2) == limiter.try_insert(2)
        assert again.try_sample(3) == limiter.try_sample(3)
    assert again.state() == limiter.state()


def test_settings_given_at_start_win_and_are_named() -> None:
    old = Limiter(10, 2.0, 100.0, max_sample=4, max_insert=5)
    for _ in range(11):
        old.insert(5, 0.0)
    new = Limiter(10, 8.0, 30.0, max_sample=4, max_insert=5)
    assert new.load(old.state()) == [
        "limiter samples_per_insert = 8.0, was 2.0 in the checkpoint",
        "limiter error_band = 30.0, was 100.0 in the checkpoint",
    ]
    report = new.report()
    assert (report["inserts"], report["samples"]) == (55, 0)
    # The new ratio holds from here on: 45 rows at 8 are not made up for, only what the new band allows.
    assert report["balance"] == 30.0
    assert [new.try_sample(4) for _ in range(16)] == [True] * 15 + [False]
