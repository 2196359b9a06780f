import numpy as np
import pytest
from PIL import Image

from learner.film_strip import write_film_gif, write_film_strip

STAGES = ["zero", "il", "ppo_smooth"]
SIZE = 48


def _film(frames=9):
    rng = np.random.default_rng(0)
    goal = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    shown = np.zeros((len(STAGES), frames, SIZE, SIZE, 3), dtype=np.uint8)
    shown[..., 0] = (10 + 20 * np.arange(frames))[None, :, None, None]
    shown[..., 1] = (60 * np.arange(len(STAGES)))[:, None, None, None]
    return goal, STAGES, shown, list(range(0, 6 * frames, 6))


def test_strip_shows_first_and_last_frame_of_every_stage_and_the_goal(tmp_path):
    goal, stages, frames, steps = _film()
    path = write_film_strip(tmp_path / "film.png", goal, stages, frames, steps, columns=4)
    picture = np.asarray(Image.open(path).convert("RGB"))
    for s in range(len(stages)):
        found = {tuple(c) for c in np.unique(picture.reshape(-1, 3), axis=0)}
        for f in (0, 8):
            assert tuple(frames[s, f, 0, 0]) in found
        assert tuple(frames[s, 1, 0, 0]) not in found
    inner = goal[4:-4, 4:-4]
    rows = [y for y in range(picture.shape[0] - 40) if (picture[y, :, :] == inner[0, 0]).all(axis=-1).any()]
    assert len(rows) >= len(stages)


def test_iou_is_written_into_the_pictures(tmp_path):
    goal, stages, frames, steps = _film()
    plain = write_film_strip(tmp_path / "a.png", goal, stages, frames, steps)
    scored = write_film_strip(tmp_path / "b.png", goal, stages, frames, steps, np.full((3, 9), 0.5))
    a, b = (np.asarray(Image.open(p).convert("RGB")).astype(int) for p in (plain, scored))
    assert a.shape == b.shape and 0.01 < (a != b).any(axis=-1).mean() < 0.4


def test_gif_moves_and_holds_its_last_picture(tmp_path):
    goal, stages, frames, steps = _film()
    path = write_film_gif(tmp_path / "film.gif", goal, stages, frames, steps, frame_ms=50)
    with Image.open(path) as film:
        assert film.n_frames == 9 and film.info["loop"] == 0
        first = np.asarray(film.convert("RGB")).astype(int)
        assert film.info["duration"] == 50
        film.seek(8)
        assert film.info["duration"] == 600
        last = np.asarray(film.convert("RGB")).astype(int)
    assert (np.abs(first - last).max(axis=-1) > 60).mean() > 0.3


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    goal, stages, frames, steps = _film()
    with pytest.raises(ValueError, match="shape of frames"):
        write_film_strip(tmp_path / "x.png", goal, stages[:2], frames, steps)
    with pytest.raises(ValueError, match="shape of iou"):
        write_film_gif(tmp_path / "x.gif", goal, stages, frames, steps, np.zeros((2, 9)))
