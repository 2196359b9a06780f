import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes_for_tests import a_scene, an_object, standing

from actors.env import EpisodeStart, ServoEnv
from actors.rasteriser.renderer import WarpRenderer
from actors.rewards import mask_iou
from common.config import EnvConfig, RewardConfig
from common.errors import SceneError, StaleFrameError
from common.geometry import intrinsics_from_fov, look_at, make_pose, so3_exp
from common.protocols import Frames
from common.scene import Camera, Light, Occluder, Sensor, Shape, Texture
from common.servo import pbvs_twist, relative_pose

CONFIG = EnvConfig(image_size=32, mask_size=64)
N = 3


class StrictRenderer:
    """Paints the number of the scene that an environment shows, and refuses what the protocol forbids."""

    def __init__(self):
        self.scenes, self.shown, self.calls, self.late = [], {}, [], None

    def reset(self, env_ids, scenes):
        assert env_ids.dtype == np.int64 and len(env_ids) == len(scenes)
        for env, scene in zip(env_ids.tolist(), scenes, strict=True):
            self.scenes.append(scene)
            self.shown[env] = len(self.scenes) - 1

    def render(self, env_ids, world_T_cam, intrinsics, size, channels):
        n, (height, width) = len(env_ids), size
        assert world_T_cam.shape == (n, 4, 4) and world_T_cam.dtype == np.float64
        np.testing.assert_allclose(intrinsics, np.tile(intrinsics_from_fov(np.deg2rad(50.0), height, width), (n, 1)))
        assert channels and set(channels) <= {"rgb", "instance_id", "depth"}
        self.calls.append((size, tuple(channels)))
        used = world_T_cam.copy()
        if self.late is not None:
            used[self.late, 0, 3] -= 1e-9
        number = np.array([self.shown[env] for env in env_ids.tolist()])[:, None, None]
        return Frames(
            rgb=np.broadcast_to(number[..., None], (n, *size, 3)).astype(np.uint8) if "rgb" in channels else None,
            instance_id=np.ones((n, *size), dtype=np.int32) if "instance_id" in channels else None,
            depth=np.ones((n, *size), dtype=np.float32) if "depth" in channels else None,
            frame_id=np.full(n, 7, dtype=np.int64),
            pose_used=used,
        )


def a_start(index=0, other_goal=False, d_star=0.7):
    shape = Shape("box", (0.12, 0.18, 0.24))
    scene = a_scene(an_object(shape, standing(shape, yaw=0.3 * index)))
    goal_scene = scene
    if other_goal:
        ground = Texture("stripes", ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), 5.0, 1)
        goal_scene = dataclasses.replace(scene, ground=ground, light=Light(ambient=0.9, diffuse=0.1))
    goal = look_at(np.array([0.5, 0.1 * index, 0.5]), np.array([0.0, 0.0, 0.1]), 0.0)
    start = look_at(np.array([0.4, 0.3, 0.6]), np.array([0.02, 0.0, 0.1]), 0.4 - 0.2 * index)
    return EpisodeStart(scene, goal_scene, start, goal, d_star)


def fake_env(starts, **config):
    env = ServoEnv(StrictRenderer(), dataclasses.replace(CONFIG, **config), RewardConfig(), len(starts))
    env.reset(starts)
    return env


@pytest.fixture(scope="module")
def renderer():
    warp = WarpRenderer(max_envs=N)
    yield warp
    warp.close()


@pytest.fixture
def env(renderer):
    return ServoEnv(renderer, CONFIG, RewardConfig(), N)


def directly(renderer, scenes, poses, size=32):
    """Rendered without the environment."""
    ids = np.arange(len(scenes))
    renderer.reset(ids, scenes)
    intrinsics = np.tile(intrinsics_from_fov(np.deg2rad(50.0), size, size), (len(scenes), 1))
    return renderer.render(ids, np.stack(poses), intrinsics, (size, size), ["rgb", "instance_id", "depth"])


def test_each_image_shows_its_own_scene(env, renderer):
    starts = [a_start(0, other_goal=True), a_start(1), a_start(2, other_goal=True)]
    goal, sight = env.reset(starts), env.look(image=True, geometry=True, masks=True)
    wanted = directly(renderer, [s.goal_scene for s in starts], [s.goal_world_T_cam for s in starts])
    np.testing.assert_array_equal(goal.rgb, wanted.rgb)
    np.testing.assert_array_equal(goal.depth, wanted.depth)
    np.testing.assert_array_equal(goal.image_mask, wanted.instance_id == 1)
    wanted = directly(renderer, [s.scene for s in starts], [s.world_T_cam for s in starts])
    np.testing.assert_array_equal(sight.rgb, wanted.rgb)
    np.testing.assert_array_equal(sight.depth, wanted.depth)
    np.testing.assert_array_equal(sight.image_mask, wanted.instance_id == 1)
    # Had the wrong look been rendered, this test could not see it: the two looks must differ.
    swapped = directly(renderer, [s.goal_scene for s in starts], [s.world_T_cam for s in starts]).rgb
    assert [bool((swapped[i] != sight.rgb[i]).any()) for i in range(N)] == [True, False, True]


def test_scenes_that_look_alike_are_built_once():
    starts = [a_start(0, other_goal=True), a_start(1), a_start(2, other_goal=True)]
    env = fake_env(starts)
    assert env._renderer.scenes == [s.goal_scene for s in starts] + [starts[0].scene, starts[2].scene]
    assert env.goal().rgb[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert env.look(image=True, masks=False).rgb[:, 0, 0, 0].tolist() == [3, 1, 4]


def test_an_object_seen_from_its_goal_scores_best(env):
    starts = [dataclasses.replace(s, world_T_cam=s.goal_world_T_cam) for s in map(a_start, range(N))]
    env.reset(starts)
    np.testing.assert_array_equal(env.iou(env.look(image=False, masks=True)), np.ones(N, np.float32))
    step, _ = env.step(np.zeros((N, 6)), image=False)
    np.testing.assert_array_equal(step.iou, np.ones(N, np.float32))
    for name in ("reward_iou", "reward_center", "reward_visibility", "reward_action"):
        np.testing.assert_array_equal(step.rewards[name], np.zeros(N, np.float32), err_msg=name)
    np.testing.assert_allclose(step.rewards["reward"], RewardConfig().success)


def test_a_step_is_scored_after_the_motion(env):
    env.reset([a_start(i) for i in range(N)])
    before = env.iou(env.look(image=False, masks=True))
    action = pbvs_twist(relative_pose(env.world_T_cam, env.goal_world_T_cam), d_star=env.d_star) * 2.0
    step, sight = env.step(action, image=True)
    fresh = env.look(image=True, masks=True)
    np.testing.assert_array_equal(sight.mask, fresh.mask)
    np.testing.assert_array_equal(sight.rgb, fresh.rgb)
    np.testing.assert_allclose(step.iou, mask_iou(fresh.mask, env.goal_mask), atol=1e-6)
    assert np.all(step.iou > before)


def test_masks_and_images_show_the_same_view(env):
    env.reset([a_start(i) for i in range(N)])
    sight = env.look(image=True, geometry=True, masks=True)
    coarse = sight.mask.reshape(N, 32, 2, 32, 2).mean(axis=(2, 4)) >= 0.5
    assert sight.mask.shape == (N, 64, 64) and mask_iou(coarse, sight.image_mask).min() > 0.9


def test_the_expert_reaches_every_goal_as_fast_as_its_law_says(env):
    starts = [a_start(i, other_goal=True, d_star=0.5 + 0.2 * i) for i in range(N)]
    env.reset(starts)
    first = relative_pose(env.world_T_cam, env.goal_world_T_cam)
    for _ in range(60):
        env.move(pbvs_twist(relative_pose(env.world_T_cam, env.goal_world_T_cam), d_star=env.d_star))
    # Euler steps of dT/dt = -T shrink the whole error by 1 - dt each.
    left = (1.0 - CONFIG.dt) ** 60
    last = relative_pose(env.world_T_cam, env.goal_world_T_cam)
    np.testing.assert_allclose(last[:, :3, 3], first[:, :3, 3] * left, atol=1e-9)
    np.testing.assert_allclose(pbvs_twist(last)[:, 3:], pbvs_twist(first)[:, 3:] * left, atol=1e-9)
    assert env.iou(env.look(image=False, masks=True)).min() > 0.97


def test_the_gain_speeds_everything_up():
    slow, fast = fake_env([a_start()], gain=1.0), fake_env([a_start()], gain=2.0)
    twist = np.array([[0.1, 0.2, -0.1, 0.3, 0.0, 0.1]])
    (same, applied), (also, double) = slow.move(twist), fast.move(twist)
    np.testing.assert_array_equal(same, also)
    np.testing.assert_allclose(double, 2.0 * applied, rtol=1e-6)


@given(st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6), st.floats(0.2, 3.0))
def test_twice_the_distance_moves_the_camera_twice_as_far(twist, d_star):
    env = fake_env([a_start(d_star=d_star), a_start(d_star=2.0 * d_star)], min_height=1e-6)
    start = make_pose(np.eye(3), [0.0, 0.0, 100.0])
    env.world_T_cam = np.stack([start, start])
    _, applied = env.move(np.array([twist, twist]))
    way = env.world_T_cam[:, :3, 3] - start[:3, 3]
    np.testing.assert_allclose(way[1], 2.0 * way[0], atol=1e-9)
    np.testing.assert_array_equal(env.world_T_cam[0, :3, :3], env.world_T_cam[1, :3, :3])
    np.testing.assert_allclose(applied[1], applied[0] * np.array([2, 2, 2, 1, 1, 1]), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(way[0], np.array(twist[:3]) * d_star * CONFIG.dt * env.config.gain, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_the_camera_never_enters_the_ground(seed):
    rng = np.random.default_rng(seed)
    env = fake_env([a_start(i) for i in range(N)])
    for _ in range(20):
        env.move(rng.normal(scale=3.0, size=(N, 6)))
        assert env.world_T_cam[:, 2, 3].min() >= CONFIG.min_height


def test_a_camera_pressed_down_slides_along_the_lowest_height():
    env = fake_env([a_start()])
    env.world_T_cam = make_pose(so3_exp([np.pi, 0.0, 0.0]), [0.0, 0.0, 0.3])[None]  # looking straight down
    for _ in range(30):
        env.move(np.array([[0.5, 0.0, 1.0, 0.0, 0.0, 0.0]]))
    assert env.world_T_cam[0, 2, 3] == CONFIG.min_height
    np.testing.assert_allclose(env.world_T_cam[0, 0, 3], 30 * 0.5 * 0.7 * CONFIG.dt)


def test_large_actions_are_shortened_and_keep_their_direction():
    env = fake_env([a_start()])
    twist = np.array([[3.0, -4.0, 12.0, 0.0, 0.0, 0.0]])
    clamped, applied = env.move(twist)
    np.testing.assert_allclose(clamped, twist * CONFIG.max_twist / 13.0, rtol=1e-6)
    np.testing.assert_allclose(applied[:, :3], clamped[:, :3] * 0.7, rtol=1e-6)
    assert clamped.dtype == applied.dtype == np.float32


@pytest.mark.parametrize("late", range(N))
def test_a_stale_frame_is_an_error_that_names_its_environment(late):
    env = fake_env([a_start(i) for i in range(N)])
    env._renderer.late = late
    with pytest.raises(StaleFrameError, match=f"environment {late}: frame 7"):
        env.look(image=True, masks=False)
    with pytest.raises(StaleFrameError):
        env.step(np.zeros((N, 6)), image=False)


def test_only_what_is_asked_for_is_rendered():
    env = fake_env([a_start(i) for i in range(N)])
    env._renderer.calls.clear()
    env.look(image=True, masks=False)
    env.look(image=True, geometry=True, masks=False)
    env.look(image=False, masks=True)
    image, mask = (32, 32), (64, 64)
    assert env._renderer.calls == [
        (image, ("rgb",)),
        (image, ("rgb", "instance_id", "depth")),
        (mask, ("instance_id",)),
    ]
    # Two calls of the reset, and the three above.
    assert env.frames_rendered == 5 * N and env.render_seconds > 0.0


def test_goals_carry_what_each_policy_needs():
    starts = [a_start(i, other_goal=True, d_star=0.5 + i) for i in range(N)]
    env = fake_env(starts)
    goal = env.goal()
    assert goal.mask.shape == (N, 64, 64) and list(goal.scenes) == [s.scene for s in starts]
    np.testing.assert_array_equal(goal.d_star, [0.5, 1.5, 2.5])
    np.testing.assert_array_equal(goal.world_T_cam, np.stack([s.goal_world_T_cam for s in starts]))
    env.reset(starts, masks=False)
    assert env.goal().mask.shape == (N, 32, 32)


def test_one_start_per_environment():
    env = ServoEnv(StrictRenderer(), CONFIG, RewardConfig(), N)
    with pytest.raises(ValueError, match=r"len\(starts\) = 2: allowed is num_envs = 3"):
        env.reset([a_start(), a_start()])


def changed(start, **both):
    """The start with fields of both scenes replaced."""
    scene, goal = (dataclasses.replace(s, **both) for s in (start.scene, start.goal_scene))
    return dataclasses.replace(start, scene=scene, goal_scene=goal)


def test_an_episode_is_seen_through_its_own_camera(env, renderer):
    own = Camera(1.4, 1.2, 0.45, 0.55)
    starts = [a_start(0), changed(a_start(1), camera=own), a_start(2)]
    goal, sight = env.reset(starts), env.look(image=True, geometry=True, masks=True)
    usual = intrinsics_from_fov(np.deg2rad(50.0), 32, 32)
    np.testing.assert_allclose(env.goal().intrinsics, [usual, [1.4 * 32, 1.2 * 32, 0.45 * 32, 0.55 * 32], usual])
    np.testing.assert_array_equal(env.intrinsics, env.goal().intrinsics)
    renderer.reset(np.arange(N), [s.scene for s in starts])
    for size, name in ((32, "image_mask"), (64, "mask")):
        view = env.intrinsics * (size / 32), (size, size), ["rgb", "instance_id"]
        for seen, poses in ((goal, env.goal_world_T_cam), (sight, env.world_T_cam)):
            shown = renderer.render(np.arange(N), poses, *view)
            np.testing.assert_array_equal(shown.instance_id == 1, getattr(seen, name))
            assert size == 64 or np.array_equal(shown.rgb, seen.rgb)
    env.reset([a_start(i) for i in range(N)])
    np.testing.assert_array_equal(env.intrinsics, np.tile(usual, (N, 1)))


def test_each_picture_goes_through_the_sensor_of_its_scene(env):
    plain = [a_start(i, other_goal=True) for i in range(N)]
    patch = Occluder("rectangle", (0.5, 0.5), (0.4, 0.4), 0.0, (1.0, 0.0, 1.0))
    scene = dataclasses.replace(plain[1].scene, sensor=Sensor(occluders=(patch,)))
    goal_scene = dataclasses.replace(plain[1].goal_scene, sensor=Sensor(exposure=0.5))
    starts = [plain[0], dataclasses.replace(plain[1], scene=scene, goal_scene=goal_scene), plain[2]]
    bare_goal, bare = env.reset(plain), env.look(image=True, geometry=True, masks=True)
    goal, sight = env.reset(starts), env.look(image=True, geometry=True, masks=True)
    np.testing.assert_array_equal(goal.rgb[[0, 2]], bare_goal.rgb[[0, 2]])
    np.testing.assert_allclose(goal.rgb[1], bare_goal.rgb[1] * 0.5, atol=0.51)
    np.testing.assert_array_equal(env.goal().rgb, goal.rgb)
    np.testing.assert_array_equal(sight.rgb[[0, 2]], bare.rgb[[0, 2]])
    assert (sight.rgb[1, 8:24, 8:24] == (255, 0, 255)).all()
    np.testing.assert_array_equal(sight.rgb[1, 0], bare.rgb[1, 0])
    # What is behind the patch stays known to the expert and to the score.
    for name in ("depth", "image_mask", "mask"):
        np.testing.assert_array_equal(getattr(sight, name), getattr(bare, name))


def test_noise_depends_on_the_scene_and_the_picture_only(renderer):
    starts = [changed(a_start(i), sensor=Sensor(noise=0.05)) for i in range(N)]

    def pictures(order, masks):
        env = ServoEnv(renderer, CONFIG, RewardConfig(), N)
        goal = env.reset([starts[i] for i in order], masks=masks)
        shown = [goal.rgb]
        for _ in range(2):
            shown.append(env.look(image=True, masks=masks).rgb)
            env.look(image=False, masks=True)
        return np.stack(shown)

    first, again = pictures([0, 1, 2], masks=True), pictures([2, 0, 1], masks=False)
    np.testing.assert_array_equal(first, again[:, [1, 2, 0]])
    # The same view twice, the goal's and another scene's: each has noise of its own.
    bare = ServoEnv(renderer, CONFIG, RewardConfig(), N)
    clean, sight = bare.reset([a_start(i) for i in range(N)]).rgb, bare.look(image=True, masks=False).rgb
    noise = first.astype(float) - np.stack([clean, sight, sight])
    patterns = noise.reshape(3 * N, -1)
    assert np.abs(np.corrcoef(patterns) - np.eye(3 * N)).max() < 0.1 and patterns.std() > 5.0


@pytest.mark.parametrize("which", ["world_T_cam", "goal_world_T_cam"])
@pytest.mark.parametrize(
    ("at", "message"),
    [([0.0, 0.0, 0.1], "outside of object 1, a box"), ([0.5, 0.0, -0.1], "camera height = -0.1")],
)
def test_no_episode_starts_or_ends_where_no_camera_can_be(which, at, message):
    word = "goal" if which.startswith("goal") else "start"
    starts = [a_start(i) for i in range(N)]
    starts[2] = dataclasses.replace(starts[2], **{which: make_pose(np.eye(3), at)})
    with pytest.raises(SceneError, match=f"environment 2: {word} pose: .*{message}"):
        fake_env(starts)


def test_a_camera_may_run_into_things_on_its_way():
    env = fake_env([a_start()])
    env.world_T_cam = make_pose(np.eye(3), [0.0, 0.0, 0.1])[None]
    step, _ = env.step(np.zeros((1, 6)), image=True)
    assert step.iou.shape == (1,)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (changed(a_start(), sensor=Sensor(noise=2.0)), r"sensor\.noise = 2\.0"),
        (changed(a_start(), camera=Camera(0.0, 1.0)), r"camera\.fx = 0\.0"),
        (
            dataclasses.replace(a_start(), scene=dataclasses.replace(a_start().scene, camera=Camera(1.0, 1.0))),
            "the scene's camera Camera.* is not the goal's None",
        ),
    ],
    ids=["sensor", "camera", "two cameras"],
)
def test_cameras_and_sensors_that_are_none_are_refused(start, message):
    with pytest.raises(SceneError, match=f"environment 1: {message}"):
        fake_env([a_start(), start, a_start()])
