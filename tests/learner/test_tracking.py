"""The numbers of the processes in MLflow: finite, under their own names, and never a burden. Real runs are in e2e."""

import pytest

from learner import tracking
from learner.tracking import Tracker


class Client:
    """Keeps what MLflow would be given; each call takes a second."""

    def __init__(self, clock):
        self.clock, self.logged = clock, []

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, location):
        return "1"

    def update_run(self, run_id, status):
        pass

    def log_batch(self, run_id, metrics):
        self.clock[0] += 1.0
        self.logged += [(m.key, m.value, m.step) for m in metrics]


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(tracking.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def client(clock, monkeypatch):
    client = Client(clock)
    monkeypatch.setattr(tracking, "MlflowClient", lambda tracking_uri: client)
    return client


def test_numbers_of_the_processes_take_two_percent_of_the_time(client, clock, tmp_path):
    tracker = Tracker(tmp_path, "smoke", "run", {})
    tracker.system({"collectors/alive": 2.0, "odd": float("inf")}, 7)
    assert client.logged == [("system/collectors/alive", 2.0, 7)]
    for step in range(8, 108):
        clock[0] += 1.0
        tracker.system({"collectors/alive": 2.0}, step)
    assert [step for _, _, step in client.logged] == [7, 57, 107]
