"""What holds for every kind of collection: the record's promises, and that the task alone decides the outcome."""

import dataclasses

import numpy as np
import pytest
from workshop_for_tests import ENVS, HASHES, done, hashes_of, make_shop, noise_of, some_weights, task_of

from actors.collect import collect
from common.episode import FIELDS
from common.scene import SceneSpec

KINDS = ("pairs", "dagger", "rollout", "evaluation")
CLASSICAL = ("zero", "pbvs", "nearest_goal", "moment_ibvs")


@pytest.fixture(scope="module")
def shop():
    return make_shop()


def rows_of(config, kind):
    phases = config.phases
    return {
        "pairs": phases["il"].imitation.views_per_scene,
        "dagger": phases["il"].imitation.dagger_steps + 1,
        "rollout": phases["ppo"].ppo.steps + 1,
        "evaluation": config.evaluation.steps + 1,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_records_hold_the_fields_of_their_kind_and_no_others(shop, kind):
    episodes = done(shop, kind, 2, 5)
    assert len(episodes) == 3
    for episode in episodes:
        # Constructing an episode checks dtypes and shapes; what is left is that nothing is carried along.
        assert set(episode.steps) == {f.name for f in FIELDS.values() if kind in f.kinds and f.level == "step"}
        assert episode.num_rows == rows_of(shop.config, kind)
        for name, array in (*episode.steps.items(), *episode.fixed.items()):
            assert name == "match" or array.dtype == bool or np.isfinite(array).all(), name


def test_only_images_of_imitation_are_stored(shop):
    (rollout,), (pairs,) = done(shop, "rollout", 0, 1), done(shop, "pairs", 0, 1)
    side = shop.config.env.image_size
    images = {n for n, f in FIELDS.items() if "height" in f.dims}
    assert not images & (set(rollout.steps) | set(rollout.fixed))
    assert rollout.nbytes() < 0.25 * rollout.num_rows * side * side * 3
    assert images <= set(pairs.steps) | set(pairs.fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_says_where_an_episode_comes_from(shop, kind):
    weights = some_weights(shop.config)
    task = task_of(kind, 4, 7, round=6, weights=weights)
    for env, episode in zip(range(4, 7), collect(shop, task), strict=True):
        meta = episode.meta
        assert str(meta.id) == f"unit/0000/{task.phase}_{kind}/00000006/{env:06d}"
        assert (meta.kind, meta.phase, meta.policy, meta.policy_version) == (
            kind,
            task.phase,
            task.policy,
            task.version,
        )
        assert {name: getattr(meta, name) for name in HASHES} == HASHES
        assert meta.collector == "here"
        scene = SceneSpec.from_json(meta.scene)
        assert scene.target().instance_id == meta.target_id and scene.seed == meta.scene_seed
        assert meta.encoder_sha256 == (shop.policy.encoder_sha256 if kind == "rollout" else "")
    assert len(shop.policy.encoder_sha256) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_task_gives_the_same_episodes_whoever_does_it(shop, kind):
    first = hashes_of(done(shop, kind))
    assert len(set(first)) == ENVS
    assert hashes_of(done(shop, kind)) == first
    # Another process with a renderer of another size, which has done other things before.
    other = make_shop(collector="there", envs=ENVS + 5)
    done(other, "rollout" if kind == "pairs" else "pairs", 1, 4, round=9)
    assert hashes_of(done(other, kind)) == first


@pytest.mark.parametrize(("kind", "policy"), [("pairs", "uniform"), *(("evaluation", name) for name in CLASSICAL)])
def test_sharding_does_not_matter(shop, kind, policy):
    whole = hashes_of(done(shop, kind, policy=policy))
    halves = done(shop, kind, 0, 4, policy=policy) + done(shop, kind, 4, 8, policy=policy)
    assert hashes_of(halves) == whole
    pieces = [e for i in (5, 2, 7) for e in done(shop, kind, i, i + 1, policy=policy)]
    assert hashes_of(pieces) == [whole[i] for i in (5, 2, 7)]


@pytest.mark.parametrize("kind", ["dagger", "rollout", "evaluation"])
def test_sharding_decides_only_the_last_bits_of_what_a_network_does(shop, kind):
    """The network sums in an order that depends on the batch, so its answers (and what follows from them) agree to
    float32 rounding; everything that is drawn agrees to the bit. `fleet.shards` is fixed for that reason.
    """
    whole = done(shop, kind)
    halves = done(shop, kind, 0, 4) + done(shop, kind, 4, 8)
    for a, b in zip(whole, halves, strict=True):
        assert (a.meta.id, a.meta.scene) == (b.meta.id, b.meta.scene)
        np.testing.assert_array_equal(a.steps["world_T_cam"][0], b.steps["world_T_cam"][0])
        for name in a.fixed:
            np.testing.assert_array_equal(a.fixed[name], b.fixed[name], err_msg=name)
        np.testing.assert_allclose(a.steps["world_T_cam"], b.steps["world_T_cam"], atol=1e-4)
        if kind == "rollout":
            np.testing.assert_allclose(a.steps["z"][0], b.steps["z"][0], atol=1e-4)
            np.testing.assert_allclose(noise_of(a), noise_of(b), atol=1e-4)


@pytest.mark.parametrize("kind", ["pairs", "dagger", "rollout"])
def test_seed_round_and_environment_each_give_other_starts(shop, kind):
    def starts(episodes):
        return [
            (e.meta.scene, e.steps["world_T_cam"][0].tobytes(), e.fixed["goal_world_T_cam"].tobytes()) for e in episodes
        ]

    reseeded = make_shop(dataclasses.replace(shop.config, seed=shop.config.seed + 1))
    found = starts(done(shop, kind)) + starts(done(shop, kind, round=1)) + starts(done(reseeded, kind))
    for part in zip(*found, strict=True):
        assert len(set(part)) == 3 * ENVS


def test_the_suite_does_not_depend_on_the_run(shop):
    reseeded = make_shop(dataclasses.replace(shop.config, seed=shop.config.seed + 1))
    a, b = done(shop, "evaluation", policy="pbvs"), done(reseeded, "evaluation", policy="pbvs", round=3)
    for x, y in zip(a, b, strict=True):
        assert x.meta.scene == y.meta.scene and x.meta.id != y.meta.id
        np.testing.assert_array_equal(x.steps["world_T_cam"], y.steps["world_T_cam"])


def test_pairs_and_dagger_of_a_round_show_different_scenes(shop):
    assert not {e.meta.scene for e in done(shop, "pairs")} & {e.meta.scene for e in done(shop, "dagger")}


@pytest.mark.parametrize("kind", ["dagger", "rollout", "evaluation"])
def test_episodes_have_a_fixed_horizon(shop, kind):
    for episode in done(shop, kind, 0, 2):
        steps = episode.num_rows - 1
        np.testing.assert_array_equal(episode.steps["action_valid"], np.arange(steps + 1) < steps)
        np.testing.assert_array_equal(episode.steps["truncated"], np.arange(steps + 1) == steps - 1)
        assert not episode.steps["terminated"].any()
        for name in ("action", "twist_applied", *(n for n in episode.steps if n.startswith("reward"))):
            assert not episode.steps[name][-1].any(), name


def test_rendering_is_counted(shop):
    frames, seconds = shop.frames, dict(shop.seconds)
    done(shop, "rollout", 0, 3)
    steps = shop.config.phases["ppo"].ppo.steps
    # The desired view twice (image and mask), then as often the current one in every row.
    assert shop.frames - frames == 3 * 2 * (steps + 2)
    assert all(shop.seconds[name] > seconds[name] for name in ("render", "policy"))


def test_a_phase_that_does_not_exist_is_named(shop):
    with pytest.raises(KeyError, match="ppo_soft"):
        done(shop, "rollout", phase="ppo_soft")
