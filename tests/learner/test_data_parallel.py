"""Two learners that share each batch make the updates of one; real actors, gloo between them."""

import json

import numpy as np
import pytest
from learner_data import fresh_net, make_episodes, raw_batch, run_config

from common.errors import TrainingError
from learner.learners import build_learner

pytestmark = pytest.mark.slow

SUCCESS = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.91, 0.95, 0.96, 0.97, 0.96]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    import ray

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def two(name):
    config = run_config()
    config.learner.num_learners = 2
    return build_learner(config, name)


def data_for(name, seed):
    return raw_batch(seed, rows=9, episodes=4) if name == "il" else make_episodes(fresh_net(), seed=seed, iou=SUCCESS)


def furthest(a, b):
    assert set(a) == set(b)
    return max(np.abs(a[k] - b[k]).max() for k in a)


@pytest.mark.parametrize("name", ["il", "value_warmup", "ppo", "sil"])
def test_two_learners_match_one_and_resume(name):
    one, pair = build_learner(run_config(), name), two(name)
    start = one.get_weights()
    assert furthest(start, pair.get_weights()) == 0.0
    for seed in range(2):
        # What the actors draw, each from a generator that was seeded as the one's was.
        a, b = one.update(data_for(name, seed)), pair.update(data_for(name, seed))
        for key in ("total_loss", "grad_norm", "gradient_steps"):
            assert b[key] == pytest.approx(a[key], rel=5e-3, abs=1e-4), key
    moved = furthest(start, one.get_weights())
    assert furthest(one.get_weights(), pair.get_weights()) < 0.02 * moved

    arrays, state = pair.state()
    state = json.loads(json.dumps(state, allow_nan=False))
    expected = pair.update(data_for(name, 2))
    final = pair.get_weights()
    pair.close()
    resumed = two(name)
    resumed.load_state(arrays, state)
    assert resumed.num_samples_learned == one.num_samples_learned
    assert resumed.update(data_for(name, 2))["total_loss"] == expected["total_loss"]
    assert furthest(final, resumed.get_weights()) == 0.0
    resumed.close()


def test_both_skip_what_is_not_finite_and_a_dead_one_is_an_error():
    import ray

    pair = two("il")
    pair.update(data_for("il", 0))
    before = pair.get_weights()
    spoiled = data_for("il", 1)
    spoiled["expert_twist"][8, 0] = np.nan  # in the second learner's share
    assert pair.update(spoiled)["skipped_share"] == 1.0
    assert furthest(before, pair.get_weights()) == 0.0
    pair.update(data_for("il", 2))
    ray.kill(pair._group._workers[1])
    with pytest.raises(TrainingError, match="learner"):
        pair.get_weights()
    pair.close()
