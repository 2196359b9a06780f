import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from actors.rewards import mask_center, mask_iou, servo_reward
from common.config import RewardConfig

WEIGHTS = RewardConfig(center=2.0, visibility=3.0, action=0.5, success=7.0, success_iou=0.9)


def _square(x, y, side, size=32):
    mask = np.zeros((1, size, size), dtype=bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


@given(arrays(bool, (3, 9, 16)), arrays(bool, (3, 9, 16)))
def test_iou_and_centre_agree_with_their_definitions(a, b):
    iou, center = mask_iou(a, b), mask_center(a)
    for i in range(3):
        union = np.logical_or(a[i], b[i]).sum()
        assert iou[i] == pytest.approx(np.logical_and(a[i], b[i]).sum() / union if union else 0.0)
        rows, columns = np.nonzero(a[i])
        if len(rows):
            np.testing.assert_allclose(center[i], [(columns + 0.5).mean() / 16, (rows + 0.5).mean() / 16])
        else:
            assert np.isnan(center[i]).all()
    assert iou.dtype == np.float32


def test_counts_do_not_wrap_in_tall_images_and_any_nonzero_byte_counts():
    full = np.full((1, 600, 8), 255, dtype=np.uint8)
    assert mask_iou(full, full)[0] == 1.0
    np.testing.assert_allclose(mask_center(full), [[0.5, 37.5]])
    np.testing.assert_allclose(mask_center(full[:, ::2, ::2]), [[0.5, 37.5]])


def test_every_term_has_its_value():
    now, goal = _square(4, 8, 8), _square(8, 8, 8)
    twist = np.array([[0.3, 0, 0, 0, 0.4, 0]])
    terms = servo_reward(now, goal, twist, WEIGHTS)
    assert terms["reward_iou"][0] == pytest.approx(1 / 3 - 1)
    assert terms["reward_center"][0] == pytest.approx(-2.0 * 4 / 32)
    assert terms["reward_visibility"][0] == 0.0
    assert terms["reward_action"][0] == pytest.approx(-0.25)
    assert terms["reward_success"][0] == 0.0
    assert terms["reward"][0] == pytest.approx(sum(float(v[0]) for k, v in terms.items() if k != "reward"))
    assert {v.dtype for v in terms.values()} == {np.dtype(np.float32)}


def test_success_pays_only_above_its_threshold():
    goal = _square(8, 8, 10)
    at = goal.copy()
    at[0, 8, 8:18] = False  # IoU exactly 0.9
    terms = servo_reward(np.concatenate([goal, at]), np.concatenate([goal, goal]), np.zeros((2, 6)), WEIGHTS)
    assert terms["reward_success"].tolist() == [7.0, 0.0]
    assert terms["reward"][0] == 7.0


def test_losing_the_target_is_worse_than_any_view_of_it():
    goal = _square(0, 0, 2)
    corner = _square(31, 31, 1)
    lost = servo_reward(np.zeros_like(goal), goal, np.zeros((1, 6)), WEIGHTS)
    seen = servo_reward(corner, goal, np.zeros((1, 6)), WEIGHTS)
    assert lost["reward_iou"][0] == -1.0
    assert lost["reward_visibility"][0] == -3.0
    assert lost["reward_center"][0] == pytest.approx(-2.0 * np.sqrt(2.0))
    assert lost["reward_center"][0] < seen["reward_center"][0]
    assert seen["reward_visibility"][0] == 0.0


def test_masks_of_the_wrong_kind_are_refused_by_name():
    goal = _square(0, 0, 2)
    with pytest.raises(ValueError, match="shape of mask goal_mask"):
        servo_reward(goal, goal[:, :16], np.zeros((1, 6)), WEIGHTS)
    with pytest.raises(ValueError, match="mask a = 'float64"):
        mask_iou(goal.astype(float), goal)
    with pytest.raises(ValueError, match="shape of mask b"):
        mask_iou(goal, goal[:, :16])
