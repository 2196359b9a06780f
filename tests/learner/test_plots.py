import numpy as np
from PIL import Image

from learner.metrics import Rollouts
from learner.plots import _smooth, _training_curves, plot_episodes, plot_training


def _rows():
    rows = [{"phase": "il", "samples": 500, "loss_norm": 1.0 / (k + 1), "loss_seg": 0.5} for k in range(5)]
    rows.append({"phase": "il", "evaluation": {"iou": 0.8}})
    rows += [{"phase": "ppo", "samples": 1000, "reward": -0.5 + 0.1 * k, "iou_final": 0.8} for k in range(3)]
    rows.append({"phase": "sil", "samples": 2000, "loss_norm": 0.2})
    return rows


def test_samples_count_over_the_whole_run_and_evaluations_are_not_drawn():
    curves = _training_curves(_rows())
    assert curves["loss_norm"] == {"il": ([0.5, 1.0, 1.5, 2.0, 2.5], [1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5])}
    assert curves["reward"]["ppo"][0] == [3.5, 4.5, 5.5]
    assert set(curves) == {"loss_norm", "loss_seg", "reward", "iou_final"}


def test_training_picture_needs_something_to_draw(tmp_path):
    path = plot_training(_rows(), tmp_path / "training.png")
    assert Image.open(path).size[0] > 1000
    assert plot_training([{"phase": "il", "evaluation": {}}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_running_mean_keeps_constants_and_means():
    assert _smooth([3.0] * 50).tolist() == [3.0] * 50
    np.testing.assert_allclose(_smooth([0.0, 3.0, 6.0, 9.0, 12.0]), [1.5, 3, 6, 9, 10.5])
    assert _smooth([1.0, 5.0]).tolist() == [1.0, 5.0]


def test_episode_picture_shows_each_stage_in_its_colour(tmp_path):
    still = Rollouts(np.full((4, 7), 0.5), np.zeros((4, 6)), np.zeros((4, 6)), np.full(4, 0.1))
    moving = Rollouts(np.full((4, 7), 0.8), np.full((4, 6), 0.2), np.full((4, 6), 0.2), np.full(4, 0.1))
    pixels = {}
    for name, stages in (("both", {"zero": still, "ppo_smooth": moving}), ("one", {"zero": still})):
        picture = Image.open(plot_episodes(stages, tmp_path / f"{name}.png", 0.05)).convert("RGB")
        pixels[name] = int((np.asarray(picture) == (0x00, 0x72, 0xB2)).all(axis=-1).sum())
    assert pixels["both"] > 500 and pixels["one"] == 0
