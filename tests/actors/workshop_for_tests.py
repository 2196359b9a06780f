"""A small workshop, its weights and its tasks, which the tests of collection share."""

import copy
import functools

import numpy as np

from actors.collect import collect
from actors.learned_policy import LearnedPolicy
from actors.rasteriser.renderer import WarpRenderer
from actors.tasks import Task
from actors.workshop import Workshop
from cluster.config_loading import load_config
from common.identity import PolicyVersion, weights_sha256
from common.networks.servo_net import initial_weights

ENVS = 8
HASHES = {"renderer": "warp", "assets_sha256": "a" * 64, "code_sha256": "b" * 64, "config_sha256": "c" * 64}
PHASES = {"pairs": "il", "dagger": "il", "rollout": "ppo", "evaluation": "il"}


@functools.cache
def _loaded(*overrides):
    return load_config(["experiment=smoke", *overrides])


def small_config(*overrides):
    return copy.deepcopy(_loaded(*overrides))


@functools.cache
def default_version():
    return version_of(some_weights(small_config()))


def some_weights(config, seed=5):
    """Weights that see something: those of a fresh network answer nearly the same twist to every image."""
    weights = initial_weights(config.network, seed)
    rng = np.random.default_rng(seed)
    for name, array in weights.items():
        if name.startswith(("policy.", "value.")) and array.ndim == 2:
            weights[name] = (array + rng.normal(scale=0.3, size=array.shape)).astype(np.float32)
    return weights


def make_shop(config=None, weights=None, collector="here", envs=ENVS):
    config = config or small_config()
    shop = Workshop(config, "unit", WarpRenderer(max_envs=envs), LearnedPolicy(config.network), collector, dict(HASHES))
    shop.policy.set_weights(weights or some_weights(config))
    return shop


def version_of(weights, counter=3):
    return PolicyVersion(0, counter, weights_sha256(weights))


def task_of(kind, first=0, last=ENVS, *, round=0, phase=None, weights=None, **more):
    """A task such as the driver makes: pairs have no version, rollouts explore."""
    if kind == "pairs":
        more.setdefault("policy", "uniform")
    elif more.get("policy", "learned") == "learned":
        more.setdefault("version", version_of(weights) if weights else default_version())
    if kind == "rollout":
        more.setdefault("explore", True)
    return Task(kind, phase or PHASES[kind], 0, round, first, last, **more)


def done(shop, kind, *args, **kwargs):
    return list(collect(shop, task_of(kind, *args, **kwargs)))


def hashes_of(episodes):
    return [e.sha256() for e in episodes]


def noise_of(episode):
    """The standard normal draws (T, 6) behind the actions of a rollout."""
    inputs = episode.steps["action_dist_inputs"][:-1].astype(np.float64)
    return (episode.steps["action"][:-1] - inputs[:, :6]) / np.exp(inputs[:, 6:])
