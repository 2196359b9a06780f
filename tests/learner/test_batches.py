import numpy as np
import pytest
from learner_data import fresh_net, make_episode, make_episodes, poses, raw_batch

from common.episode import Episode
from common.errors import EncoderMismatchError, SchemaError, TrainingError
from common.geometry import make_pose, so3_exp, transform_points
from common.networks.servo_net import encoder_sha256, get_weights
from learner.batches import (
    IMITATION_FIELDS,
    check_encoder,
    imitation_batch,
    ppo_rows,
    relative_pose,
    row_owners,
    self_imitation_rows,
)


def test_relative_pose_is_the_goal_camera_in_the_current_one():
    rng = np.random.default_rng(0)
    current, goal = poses(rng, 5, 0.5), poses(rng, 5, 0.5)
    d_star = rng.uniform(0.5, 2.0, 5)
    x0 = relative_pose(current, goal, d_star)
    c_T_d = make_pose(so3_exp(x0[:, 3:]), x0[:, :3] * d_star[:, None])
    points = rng.normal(size=(5, 3, 3))
    np.testing.assert_allclose(
        transform_points(current, transform_points(c_T_d, points)), transform_points(goal, points), atol=1e-5
    )
    np.testing.assert_allclose(relative_pose(goal, goal, d_star), 0.0, atol=1e-6)


def test_imitation_batch_uses_each_rows_own_goal():
    raw = raw_batch(rows=6, episodes=3)
    batch = imitation_batch(raw)
    for row, episode in enumerate(raw["episode_index"]):
        alone = relative_pose(
            raw["world_T_cam"][row : row + 1], raw["goal_world_T_cam"][episode : episode + 1], raw["d_star"][:1]
        )
        np.testing.assert_array_equal(batch["x0"][row], alone[0])
    assert batch["match"].dtype == np.float32 and np.isnan(batch["match"][:, :2]).all()


def test_imitation_batch_names_what_is_missing():
    raw = raw_batch()
    for name in (*IMITATION_FIELDS, "episode_index"):
        with pytest.raises(SchemaError, match=name):
            imitation_batch({k: v for k, v in raw.items() if k != name})
    with pytest.raises(SchemaError, match="episode_index"):
        imitation_batch({**raw, "episode_index": raw["episode_index"] + 1})


def test_check_encoder_refuses_another_encoder():
    net, other = fresh_net(0), fresh_net(1)
    mine, theirs = encoder_sha256(get_weights(net)), encoder_sha256(get_weights(other))
    episodes = make_episodes(net, 2)
    check_encoder(episodes, mine)
    with pytest.raises(EncoderMismatchError, match=f"{mine}.*{theirs}"):
        check_encoder(episodes, theirs)
    with pytest.raises(EncoderMismatchError, match="none"):
        check_encoder([make_episode(net, 0, sha="")], mine)


def test_ppo_rows_carry_the_records():
    net = fresh_net()
    ended, cut = make_episode(net, 3, steps=4, terminated=True), make_episode(net, 4, steps=2)
    rows = ppo_rows([ended, cut])
    for to, name in (("obs", "z"), ("actions", "action"), ("action_logp", "logp"), ("loss_mask", "action_valid")):
        np.testing.assert_array_equal(rows[to], np.concatenate([ended.steps[name], cut.steps[name]]))
    assert rows["terminateds"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert rows["truncateds"].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]
    assert rows["loss_mask"].tolist() == [1, 1, 1, 1, 0, 1, 1, 0]
    assert rows["rewards"][[4, 7]].tolist() == [0, 0] and rows["rewards"][5] == cut.steps["reward"][0]
    assert row_owners([ended, cut]).tolist() == [0] * 5 + [1] * 3


def test_ppo_rows_refuse_gaps():
    record = make_episode(fresh_net(), 3, steps=4)
    for name, row in (("action_valid", 1), ("truncated", 0)):
        steps = {k: v.copy() for k, v in record.steps.items()}
        steps[name][row] = not steps[name][row]
        with pytest.raises(SchemaError, match="rollout"):
            ppo_rows([Episode(record.meta, steps, record.fixed)])


def test_self_imitation_targets_follow_eq_11():
    net = fresh_net()
    good = make_episode(net, 1, steps=4, iou=[0.5, 0.7, 0.96, 0.6, 0.97])
    bad = make_episode(net, 2, steps=4, iou=[0.5, 0.7, 0.95, 0.6, 0.7])
    rows = self_imitation_rows([bad, good], success_iou=0.95)
    np.testing.assert_array_equal(rows["obs"], good.steps["z"])
    np.testing.assert_array_equal(rows["target"][:2], good.steps["action"][:2])
    # Zero from the first success on, even where the IoU falls again.
    assert not rows["target"][2:].any() and good.steps["action"][2].any()
    with pytest.raises(TrainingError, match="none of 1"):
        self_imitation_rows([bad], success_iou=0.95)
