"""The renderer over many resets, against the strict fake."""

import numpy as np
import pytest

from actors.isaac.renderer import IsaacConfig, IsaacRenderer
from actors.isaac.stage import REACH
from actors.isaac.version import IsaacError
from actors.scenes.shapes import build_mesh
from common.errors import SceneError, StaleFrameError
from common.geometry import intrinsics_from_fov, look_at
from common.scene import Light, Shape, Texture
from tests.actors.isaac.isaac_fake import install
from tests.actors.scenes_for_tests import a_scene, an_object, standing

SIZE = (32, 48)
ALL = ("rgb", "instance_id", "depth")


def started(monkeypatch, tmp_path, manifest="5_1", delay=0, **settings):
    fake = install(monkeypatch, manifest, tmp_path)
    fake.delay = delay
    settings = {"max_envs": 2, "size": SIZE, "slots": 3, "tiles": 2, **settings}
    return fake, IsaacRenderer(IsaacConfig(folder=tmp_path / "isaac", **settings))


def cube_at(x, y=0.0, instance_id=1, edge=0.2):
    shape = Shape("cube", (edge,))
    return an_object(shape, standing(shape, x, y), instance_id)


def above(x=0.0, y=0.0, height=1.0):
    return look_at([[x, y, height]], [[x, y, 0.0]])


LENS = intrinsics_from_fov(np.deg2rad(50.0), *SIZE)[None]


def draw(renderer, env=0, pose=None, channels=ALL):
    return renderer.render(np.array([env]), above() if pose is None else pose, LENS, SIZE, channels)


@pytest.mark.parametrize("manifest", ["5_1", "6_0"])
def test_a_known_point_lands_on_its_pixel_and_at_its_depth_in_tiles_that_are_not_square(
    monkeypatch, tmp_path, manifest
):
    _, renderer = started(monkeypatch, tmp_path, manifest)
    renderer.reset(np.arange(2), [a_scene(cube_at(0.0)), a_scene(cube_at(0.1, 0.05, 7))])
    frames = renderer.render(np.array([1]), above(), LENS, SIZE, ALL)
    assert frames.rgb.shape == (1, *SIZE, 3) and frames.instance_id.dtype == np.int32
    rows, columns = np.nonzero(frames.instance_id[0] == 7)
    # From straight above with zero roll the image's x is the world's, its y the world's -y; the cube's top is nearest.
    fx, fy, cx, cy = LENS[0]
    assert abs(columns.mean() + 0.5 - (cx + fx * 0.1 / 0.8)) < 1.0
    assert abs(rows.mean() + 0.5 - (cy - fy * 0.05 / 0.8)) < 1.0
    assert frames.depth[0][frames.instance_id[0] == 7] == pytest.approx(0.8)
    assert np.array_equal(frames.pose_used, above())
    renderer.close()


def test_two_hundred_resets_add_no_prims_and_keep_few_files(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path, subframes=0)
    prims = renderer.prim_count()
    attributes = sum(len(p.types) for p in fake.stage.prims.values())
    rng = np.random.default_rng(0)
    for k in range(200):
        x, y = rng.uniform(-0.15, 0.15, size=2)
        texture = Texture("plain", ((float(rng.random()), 0.5, 0.5),))
        shape = Shape("sphere", ((0.05, 0.07, 0.1)[k % 3],))
        first = an_object(shape, standing(shape, x, y), 1, texture)
        more = [cube_at(-x, -y, 2)] if k % 3 == 0 else []
        renderer.reset(np.array([k % 2]), [a_scene(first, *more)])
    assert renderer.prim_count() == prims == len(fake.stage.prims)
    frames = draw(renderer, 1)
    assert (frames.instance_id == 1).any()
    assert sum(len(p.types) for p in fake.stage.prims.values()) == attributes
    assert fake.products == fake.products[:1]
    assert renderer.resets == 200 and frames.frame_id.tolist() == [0]


@pytest.mark.parametrize("delay", [1, 3, 9])
@pytest.mark.parametrize("from_start", [True, False])
def test_late_pictures_are_waited_for(monkeypatch, tmp_path, delay, from_start):
    fake, renderer = started(monkeypatch, tmp_path, delay=delay if from_start else 0, subframes=2)
    renderer.reset(np.array([0]), [a_scene(cube_at(0.1))])
    before = draw(renderer).instance_id
    fake.delay = delay
    for k in range(3):  # a jump each time: a picture of the last pose would show the cube elsewhere
        x = (0.0, 0.1)[k % 2]
        frames = draw(renderer, pose=above(x))
        columns = np.nonzero(frames.instance_id[0] == 1)[1]
        assert abs(columns.mean() + 0.5 - (LENS[0, 2] + LENS[0, 0] * (0.1 - x) / 0.8)) < 1.0
    updates = fake.updates
    draw(renderer, pose=above())
    if from_start:
        assert fake.updates - updates == delay + 1 + 2
    assert np.array_equal(draw(renderer).instance_id, before)


def test_a_late_picture_that_just_changed_gets_its_updates_before_it_counts(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path, subframes=4)
    renderer.reset(np.array([0]), [a_scene(cube_at(0.0))])
    fake.delay = 7  # one more than the updates of a pass: noticed only after them
    settled = []
    real = fake._data

    def watched(output):
        if output == "rgb":
            last = fake._shown[-1 - fake.delay]
            board = last.attributes["/World/stamp/board"]["xformOp:translate"][2]
            shown = list(fake._shown)[: len(fake._shown) - fake.delay]
            same = [s.attributes["/World/stamp/board"]["xformOp:translate"][2] == board for s in shown]
            settled.append(sum(same))
        return real(output)

    monkeypatch.setattr(fake, "_data", watched)
    draw(renderer)
    draw(renderer)
    assert min(settled) >= 1 + 4


def test_pictures_that_never_change_are_stale_and_an_error(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path, max_updates=5)
    renderer.reset(np.array([0]), [a_scene(cube_at(0.1))])
    draw(renderer)
    fake.stuck = True
    with pytest.raises(StaleFrameError, match="stamp of the frame"):
        draw(renderer, pose=above(0.1))


def test_label_ids_that_change_from_frame_to_frame_mean_the_same_objects(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path)
    renderer.reset(np.array([0]), [a_scene(cube_at(0.12, 0.0, 40), cube_at(-0.12, 0.0, 9))])
    first = draw(renderer).instance_id
    assert set(np.unique(first)) == {0, 9, 40}
    numbers = set()
    for _ in range(4):
        numbers.add(fake.reads % 9)
        assert np.array_equal(draw(renderer).instance_id, first)
    assert len(numbers) > 1 and renderer.unexplained == 0
    fake.stray_pixels = 5
    frames = draw(renderer)
    assert renderer.unexplained == 5
    assert (frames.instance_id[0].ravel()[:5] == 0).all()


def test_scenes_under_different_light_are_drawn_apart_and_under_one_light_together(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path, max_envs=3)
    red = Light(color=(1.0, 0.2, 0.2))
    scenes = [a_scene(cube_at(0.0)), a_scene(cube_at(0.0), light=red), a_scene(cube_at(0.0, instance_id=3))]
    renderer.reset(np.arange(3), scenes)
    fake.stage.writes.clear()
    frames = renderer.render(np.arange(3), np.repeat(above(), 3, axis=0), np.repeat(LENS, 3, axis=0), SIZE, ALL)
    assert [sorted(np.unique(i)) for i in frames.instance_id] == [[0, 1], [0, 1], [0, 3]]
    sun = ("/World/lights/sun", "inputs:color")
    suns = [tuple(np.round(v, 6).tolist()) for path, name, v in fake.stage.writes if (path, name) == sun]
    assert suns == [(1.0, 1.0, 1.0), (1.0, 0.2, 0.2)]
    shown = [(path[-1], v) for path, name, v in fake.stage.writes if name == "visibility"]
    # Environment 0 is visible from the start; 1 is drawn with 0 and 2 hidden.
    assert shown == [("2", "inherited"), ("0", "invisible"), ("1", "inherited"), ("2", "invisible")]


def test_no_camera_sees_a_neighbour(monkeypatch, tmp_path):
    _, renderer = started(monkeypatch, tmp_path, max_envs=2)
    # The neighbour's cube is large enough to be a few pixels from the next cell.
    renderer.reset(np.arange(2), [a_scene(cube_at(0.0, 1.0, 5)), a_scene(cube_at(0.0, instance_id=6, edge=3.0))])
    low = look_at([[-REACH, 0.0, 0.3]], [[100.0, 0.0, 0.3]])  # along the row of cells
    frames = renderer.render(np.arange(2), np.repeat(low, 2, axis=0), np.repeat(LENS, 2, axis=0), SIZE, ALL)
    assert [set(np.unique(i)) for i in frames.instance_id] == [{0, 5}, {0, 6}]
    assert renderer.unexplained == 0


def test_what_cannot_be_drawn_is_refused_by_name_and_changes_nothing(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path)
    good = a_scene(cube_at(0.0))
    renderer.reset(np.array([0]), [good])
    before = len(fake.stage.writes)
    far = a_scene(cube_at(50.0))
    full = a_scene(*(cube_at(0.1 * k, instance_id=k + 1) for k in range(4)))
    for scenes, said in (([far], "within"), ([full], "at most 3"), ([good, good], "len"), ([], "len")):
        with pytest.raises(SceneError, match=said):
            renderer.reset(np.array([0]), scenes)
    with pytest.raises(SceneError, match="environment 1"):
        renderer.reset(np.arange(2), [good, far])
    assert len(fake.stage.writes) == before
    ids, one = np.array([0]), above()
    off = np.add(LENS, [[0.0, 0.0, 3.0, 0.0]])
    wide = LENS * [[1.0, 1.1, 1.0, 1.0]]
    for call, said in (
        ((np.array([1]), one, LENS, SIZE, ALL), "no scene"),
        ((np.array([2]), one, LENS, SIZE, ALL), "env_ids"),
        ((ids, one, LENS, (48, 32), ALL), "one size of tiles"),
        ((ids, one, off, SIZE, ALL), "principal point"),
        ((ids, one, wide, SIZE, ALL), "square pixels"),
        ((ids, one * np.nan, LENS, SIZE, ALL), "world_T_cam"),
        ((ids, above(x=9.0), LENS, SIZE, ALL), "camera position"),
        ((ids, one, LENS, SIZE, ("mask",)), "channels"),
    ):
        with pytest.raises(SceneError, match=said):
            renderer.render(*call)
    assert len(fake.stage.writes) == before


def test_frames_are_counted_from_the_reset_and_only_channels_asked_for_come_back(monkeypatch, tmp_path):
    _, renderer = started(monkeypatch, tmp_path)
    renderer.reset(np.array([1]), [a_scene(cube_at(0.0))])
    twice = renderer.render(np.array([1, 1]), np.repeat(above(), 2, 0), np.repeat(LENS, 2, 0), SIZE, ("depth",))
    assert twice.frame_id.tolist() == [0, 1] and twice.rgb is None and twice.instance_id is None
    assert draw(renderer, 1).frame_id.tolist() == [2]
    renderer.reset(np.array([1]), [a_scene(cube_at(0.0))])
    assert draw(renderer, 1).frame_id.tolist() == [0]


def test_a_picture_of_another_dtype_than_the_manifest_says_is_an_error(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path)
    renderer.reset(np.array([0]), [a_scene(cube_at(0.0))])
    for output, said in (("rgb", "dtype of rgb"), ("depth", "dtype of depth")):
        fake.wrong_dtype = output
        with pytest.raises(IsaacError, match=said):
            draw(renderer)


def test_a_cold_start_is_waited_for_and_a_black_one_is_refused(monkeypatch, tmp_path):
    fake = install(monkeypatch, "5_1", tmp_path)
    fake.empty_reads, fake.loading = 6, 4
    config = IsaacConfig(folder=tmp_path / "isaac", max_envs=1, size=SIZE, slots=1)
    IsaacRenderer(config).close()
    assert fake.closed and fake.loading < 0


def test_a_black_first_picture_is_refused(monkeypatch, tmp_path):
    fake = install(monkeypatch, "6_0", tmp_path)
    fake.black = True
    with pytest.raises(IsaacError, match="first picture"):
        IsaacRenderer(IsaacConfig(folder=tmp_path / "isaac", max_envs=1, size=SIZE, slots=1))


def test_it_says_when_it_should_be_replaced_and_cannot_be_used_once_closed(monkeypatch, tmp_path):
    fake, renderer = started(monkeypatch, tmp_path, recycle_resets=3, recycle_growth=100.0)
    for k in range(3):
        assert renderer.recycling_reason() == ""
        renderer.reset(np.array([k % 2]), [a_scene(cube_at(0.0))])
    assert "3 resets" in renderer.recycling_reason()
    renderer._baseline = 1
    renderer.resets = 0
    assert "memory" in renderer.recycling_reason()
    renderer.close()
    assert fake.closed
    renderer.close()
    with pytest.raises(SceneError, match="closed"):
        draw(renderer)


def test_imported_meshes_and_pictures_are_drawn_once_loaded(monkeypatch, tmp_path):
    _, renderer = started(monkeypatch, tmp_path)
    shape, picture = Shape("mesh", (2.0,), "m" * 8), Texture("image", asset="p" * 8)
    scene = a_scene(an_object(shape, standing(Shape("cube", (0.2,))), 4, picture))
    with pytest.raises(SceneError, match="asset"):
        renderer.reset(np.array([0]), [scene])
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 2] = 200
    renderer.load({"m" * 8: build_mesh(Shape("cube", (0.1,))), "p" * 8: blue})
    renderer.reset(np.array([0]), [scene])
    frames = draw(renderer)
    drawn = frames.instance_id[0] == 4
    assert frames.rgb[0][drawn].max(axis=0).tolist() == [0, 0, 200]
    assert abs(drawn.any(axis=0).sum() - LENS[0, 0] * 0.2 / 0.8) < 2.0  # scaled to twice its size
