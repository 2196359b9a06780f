"""With which address Ray is started, and whose signals are handled afterwards."""

import signal

import pytest
import ray
from ray._private import worker

from cluster.config_loading import load_config
from cluster.draining import Draining
from cluster.program import start_ray


@pytest.fixture
def asked(monkeypatch):
    """What `ray.init` was called with, and it takes SIGTERM, as the real one does."""
    found = []

    def init(address=None, **options):
        found.append((address, options))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return found


def test_without_an_address_ray_is_our_own_even_where_a_cluster_runs(asked):
    with Draining(25.0) as draining:
        start_ray(load_config(["experiment=smoke"]))
        signal.raise_signal(signal.SIGTERM)
        assert draining.asked_by == "SIGTERM"
    ((address, options),) = asked
    assert address == "local" and options["num_cpus"] >= 1 and not options["log_to_driver"]


def test_an_address_is_joined_as_it_is(asked):
    with Draining(25.0):
        start_ray(load_config(["experiment=smoke", "ray_address=10.0.0.2:6379"]))
    ((address, options),) = asked
    assert address == "10.0.0.2:6379" and "num_cpus" not in options


def test_what_rays_nodes_tell_is_not_among_the_results(asked, monkeypatch, capsys):
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    start_ray(load_config(["experiment=smoke"]))
    # Ray's listener calls it by this name, with these arguments.
    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names
    worker.print_to_stdstream({"lines": ["a worker died"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert capsys.readouterr() == ("", "a worker died\n")
