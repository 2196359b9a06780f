"""Labels of uniform pairs and DAgger episodes: that they belong to the view they are stored beside."""

import numpy as np
import pytest
from workshop_for_tests import ENVS, done, make_shop, small_config, some_weights, task_of

from actors.correspondence import match_grid
from common.errors import SchemaError
from common.geometry import integrate_twist
from common.rng import Purpose
from common.servo import pbvs_twist, relative_pose


@pytest.fixture(scope="module")
def shop():
    return make_shop()


@pytest.fixture(scope="module")
def pairs(shop):
    return done(shop, "pairs")


@pytest.fixture(scope="module")
def dagger(shop):
    return done(shop, "dagger")


def starts_of(shop, kind, purpose):
    return shop.starts(task_of(kind), shop.config.scenes.imitation_mix, purpose)


def seen(shop, scene, poses, intrinsics):
    """rgb, target mask and depth of one scene from several poses, rendered without the environment."""
    n, size = len(poses), shop.config.env.image_size
    shop.renderer.reset(np.zeros(1, dtype=np.int64), [scene])
    frames = shop.renderer.render(
        np.zeros(n, dtype=np.int64), poses, np.tile(intrinsics, (n, 1)), (size, size), ["rgb", "instance_id", "depth"]
    )
    return frames.rgb, frames.instance_id == scene.target_id, frames.depth


@pytest.mark.parametrize(("kind", "purpose"), [("pairs", Purpose.SCENE), ("dagger", Purpose.DAGGER_MIX)])
def test_images_masks_matches_and_labels_are_those_of_the_pose_beside_them(shop, kind, purpose):
    grid = shop.config.network.match_grid
    for start, episode in zip(starts_of(shop, kind, purpose), done(shop, kind), strict=True):
        poses, intrinsics = episode.steps["world_T_cam"], episode.fixed["intrinsics"]
        goal = episode.fixed["goal_world_T_cam"]
        rgb, mask, depth = seen(shop, start.scene, poses, intrinsics)
        goal_rgb, goal_mask, goal_depth = seen(shop, start.goal_scene, goal[None], intrinsics)
        np.testing.assert_array_equal(episode.steps["image"], rgb)
        np.testing.assert_array_equal(episode.steps["mask"], mask)
        np.testing.assert_array_equal(episode.fixed["goal_image"], goal_rgb[0])
        np.testing.assert_array_equal(episode.fixed["goal_mask"], goal_mask[0])
        for row, pose in enumerate(poses):
            match = match_grid(depth[row, None], goal_depth, pose[None], goal[None], intrinsics[None], grid)[0]
            np.testing.assert_array_equal(episode.steps["match"][row], match)
        wanted = pbvs_twist(relative_pose(poses, goal), d_star=float(start.d_star))
        np.testing.assert_allclose(episode.steps["expert_twist"], wanted, atol=1e-6)


def test_labels_that_are_extreme_or_blind_do_not_count():
    shop = make_shop(small_config("phases.il.imitation.max_label_norm=0.6"))
    episodes = done(shop, "pairs") + done(shop, "pairs", round=1) + done(shop, "dagger")
    norm = np.concatenate([np.linalg.norm(e.steps["expert_twist"], axis=1) for e in episodes])
    visible = np.concatenate([e.steps["mask"].any(axis=(1, 2)) for e in episodes])
    valid = np.concatenate([e.steps["label_valid"] for e in episodes])
    np.testing.assert_array_equal(valid, (norm <= 0.6) & visible)
    assert 0 < valid.sum() < len(valid)


def test_a_camera_that_lost_the_target_has_no_label():
    # Weights that always turn away: a constant twist, whatever is seen.
    config = small_config("phases.il.imitation.max_label_norm=100", "phases.il.imitation.dagger_steps=12")
    weights = some_weights(config)
    shop = make_shop(config, weights)
    shop.policy.act = turning(shop.policy.act)
    lost = np.stack([~e.steps["mask"].any(axis=(1, 2)) for e in done(shop, "dagger")])
    valid = np.stack([e.steps["label_valid"] for e in done(shop, "dagger")])
    assert lost[:, -1].all() and not lost[:, 0].any()
    np.testing.assert_array_equal(valid, ~lost)


def turning(act):
    """The policy's answers with the twist replaced by a fast turn to the side."""

    def changed(*args):
        out = act(*args)
        out.twist[:] = [0.0, 0.0, 0.0, 0.0, 2.0, 0.0]
        return out

    return changed


def test_the_views_of_a_pair_block_share_the_goal_and_differ(pairs):
    for episode in pairs:
        assert len({pose.tobytes() for pose in episode.steps["world_T_cam"]}) == episode.num_rows
    assert len({e.steps["image"].tobytes() for e in pairs}) == ENVS


def test_a_share_of_the_pairs_is_pulled_towards_the_goal(shop):
    def distance(share):
        views = "phases.il.imitation.views_per_scene=6"
        episodes = done(make_shop(small_config(f"phases.il.imitation.shrink_share={share}", views)), "pairs")
        return np.stack([np.linalg.norm(e.steps["expert_twist"], axis=1) for e in episodes])

    none, half, all_of_them = distance(0.0), distance(0.5), distance(1.0)
    pulled = half < none - 1e-6
    assert 0.25 < pulled.mean() < 0.75
    np.testing.assert_allclose(half[~pulled], none[~pulled], atol=1e-6)
    np.testing.assert_allclose(half[pulled], all_of_them[pulled], atol=1e-6)
    # exp(-U(0, 3.5)) of a rotation and of a translation is that of their twist, up to the frame it is written in.
    ratio = all_of_them / none
    assert np.all(ratio <= 1.0 + 1e-6) and ratio.min() > 0.9 * np.exp(-3.5) and 0.2 < ratio.mean() < 0.4


def test_in_dagger_the_policy_moves_the_camera_and_the_expert_only_labels(shop, dagger):
    config = shop.config.env
    for episode in dagger:
        poses, applied = episode.steps["world_T_cam"], episode.steps["twist_applied"].astype(np.float64)
        moved = integrate_twist(poses[:-1], applied[:-1], np.full(len(poses) - 1, float(episode.fixed["dt"])))
        moved[:, 2, 3] = np.maximum(moved[:, 2, 3], config.min_height)
        np.testing.assert_allclose(poses[1:], moved, atol=1e-6)
        scale = np.array([float(episode.fixed["d_star"])] * 3 + [1.0] * 3) * float(episode.fixed["gain"])
        small = np.linalg.norm(episode.steps["action"], axis=1) < config.max_twist
        np.testing.assert_allclose(applied[small], (episode.steps["action"] * scale)[small], atol=1e-6)
        assert np.linalg.norm(episode.steps["action"][:-1] - episode.steps["expert_twist"][:-1], axis=1).min() > 1e-3


def test_dagger_acts_with_the_weights_it_was_given(shop, dagger):
    other = make_shop(shop.config, some_weights(shop.config, seed=6))
    for a, b in zip(dagger, done(other, "dagger"), strict=True):
        assert a.meta.scene == b.meta.scene
        assert not np.allclose(a.steps["action"][0], b.steps["action"][0], atol=1e-4)


def test_the_mix_of_scenes_is_followed():
    def textures(mix):
        shop = make_shop(small_config(f"scenes.imitation_mix={{{mix}}}"))
        starts = starts_of(shop, "pairs", Purpose.SCENE)
        return [s.scene.target().texture.kind for s in starts], [s.scene == s.goal_scene for s in starts]

    kinds, same = textures("sym_diff:0.0,sym_same:0.0,asym_same:1.0")
    assert "plain" not in kinds and all(same)
    kinds, same = textures("sym_diff:1.0,sym_same:0.0,asym_same:0.0")
    assert set(kinds) == {"plain"} and not any(same)


def test_a_phase_name_that_cannot_be_part_of_an_id_is_refused(shop):
    shop.config.phases["IL"] = shop.config.phases["il"]
    try:
        with pytest.raises(SchemaError, match="episode id role = 'IL_pairs'"):
            done(shop, "pairs", phase="IL")
    finally:
        del shop.config.phases["IL"]
