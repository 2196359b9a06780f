"""Controllers without learning, for comparison and as experts: one benchmark takes them like learned policies.

`zero` stands still, `pbvs` sees the true poses, `nearest_goal` also knows the object's symmetry, and `moment_ibvs` sees
the true masks of the target and nothing else.
"""

from __future__ import annotations

import numpy as np

from actors.moments import image_moments, moment_twist
from common.errors import ConfigError, bad_value
from common.geometry import inverse_pose, make_pose, so3_exp
from common.protocols import F64, I64, Bool, Goal, Observation, Policy, PolicyOutput
from common.scene import SceneSpec, Symmetry
from common.servo import pbvs_twist, relative_pose

NAMES = ("zero", "pbvs", "nearest_goal", "moment_ibvs")


def make_policy(name: str) -> Policy:
    """A classical controller by its name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name == "zero":
        return ZeroPolicy()
    if name == "pbvs":
        return PBVSPolicy()
    if name == "nearest_goal":
        return NearestGoalPolicy()
    if name == "moment_ibvs":
        return MomentIBVSPolicy()
    raise ConfigError(bad_value("controller", name, f"one of {NAMES}"))


class ZeroPolicy:
    """Stands still: the floor that every table starts from."""

    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Nothing to remember."""

    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """Zero twists."""
        return _output(np.zeros((len(env_ids), 6)))


class PBVSPolicy:
    """Position-based servoing on the true poses (CNSv2 eq. 5). Blind to symmetry: it always goes to the given pose."""

    def __init__(self) -> None:
        self._goals: dict[int, tuple[F64, float]] = {}

    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Remember the desired poses.

        Raises:
            ValueError: if the goal does not tell its pose.
        """
        poses = _needed("goal.world_T_cam", goal.world_T_cam)
        for i, env in enumerate(env_ids):
            self._goals[int(env)] = (poses[i], float(goal.d_star[i]))

    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """The normalised twist that turns every pose error into an exponential decay.

        Raises:
            ValueError: if the observation does not tell the camera pose.
        """
        poses = _needed("observation.world_T_cam", observation.world_T_cam)
        goals = np.stack([self._goals[int(e)][0] for e in env_ids])
        d_star = np.array([self._goals[int(e)][1] for e in env_ids])
        return _output(pbvs_twist(relative_pose(poses, goals), d_star=d_star))


class NearestGoalPolicy:
    """Position-based servoing to the nearest of all poses from which the target looks as desired: the oracle.

    The choice is made at the first action of an episode and kept. Under the servo law both errors, position and
    rotation vector, shrink in proportion, which is the shortest path in the metric that the choice minimises; so the
    nearest goal stays the nearest, and choosing again could only add flicker where two are equally near.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[F64, float, SceneSpec]] = {}
        self._chosen: dict[int, F64] = {}

    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Remember the desired poses and the scenes.

        Raises:
            ValueError: if the goal does not tell its pose or its scene.
        """
        poses = _needed("goal.world_T_cam", goal.world_T_cam)
        if goal.scenes is None:
            raise ValueError(bad_value("goal.scenes", None, "the scenes: this controller is privileged"))
        for i, env in enumerate(env_ids):
            self._given[int(env)] = (poses[i], float(goal.d_star[i]), goal.scenes[i])
            self._chosen.pop(int(env), None)

    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """Normalised twist towards the chosen goal.

        Raises:
            ValueError: if the observation does not tell the camera pose.
        """
        poses = _needed("observation.world_T_cam", observation.world_T_cam)
        for i, env in enumerate(int(e) for e in env_ids):
            if env not in self._chosen:
                given, distance, scene = self._given[env]
                target = scene.target()
                self._chosen[env] = nearest_goal(poses[i], given, target.pose(), target.symmetry, distance)
        goals = np.stack([self._chosen[int(e)] for e in env_ids])
        d_star = np.array([self._given[int(e)][1] for e in env_ids])
        return _output(pbvs_twist(relative_pose(poses, goals), d_star=d_star))


def nearest_goal(world_T_cam: F64, goal_world_T_cam: F64, world_T_obj: F64, symmetry: Symmetry, d_star: float) -> F64:
    """The desired pose (4, 4), among all that symmetry makes equivalent, with the smallest normalised PBVS twist.

    Turning the object by a symmetry S and turning the camera the other way look the same, so the equivalents of a goal
    are ``world_T_obj S obj_T_world goal``. Those below the ground cannot be reached and do not count. For a continuous
    axis the angle is searched in steps of one degree and then, around the best, down to below a thousandth of one.

    Args:
        world_T_cam: (4, 4) current pose.
        goal_world_T_cam: (4, 4) desired pose.
        world_T_obj: (4, 4) target.
        symmetry: of the target, in its own frame.
        d_star: distance [m] that positions are measured in.
    """
    flips = so3_exp(np.array([(0.0, 0.0, 0.0), *symmetry.rotations]))
    if symmetry.axis_continuous is None:
        return _best(world_T_cam, goal_world_T_cam, world_T_obj, flips, d_star)[0]
    axis = np.array(symmetry.axis_continuous)
    best, least = goal_world_T_cam, np.inf
    for flip in flips:
        step = np.pi / 180.0
        angles = np.arange(-180, 180) * step
        for _ in range(4):
            turns = so3_exp(angles[:, None] * axis) @ flip
            pose, cost, at = _best(world_T_cam, goal_world_T_cam, world_T_obj, turns, d_star)
            if cost < least:
                best, least = pose, cost
            angles, step = angles[at] + np.linspace(-step, step, 21), step / 10.0
    return best


def _best(
    world_T_cam: F64, goal_world_T_cam: F64, world_T_obj: F64, turns: F64, d_star: float
) -> tuple[F64, float, int]:
    """The nearest goal over rotations of the object (K, 3, 3): pose, cost (inf: all are below the ground) and index."""
    goals = world_T_obj @ make_pose(turns, np.zeros(3)) @ inverse_pose(world_T_obj) @ goal_world_T_cam
    cost = np.linalg.norm(pbvs_twist(relative_pose(world_T_cam, goals), d_star=d_star), axis=-1)
    cost = np.where(goals[:, 2, 3] > 0.0, cost, np.inf)
    at = int(np.argmin(cost))
    return goals[at], float(cost[at]), at


class MomentIBVSPolicy:
    """Image-based servoing on the moments of the target's mask: sees no pose, no texture, and no symmetry either.

    Four features are controlled (see `actors.moments`): centroid, area and the orientation of the second moments. They
    cannot tell a walk around the target from standing still, so that part of the error stays.
    """

    def __init__(self) -> None:
        self._goals: dict[int, tuple[F64, F64, float]] = {}
        self._angle: dict[int, float] = {}

    def reset(self, env_ids: I64, goal: Goal) -> None:
        """Remember the moments of the desired masks.

        Raises:
            ValueError: if the goal has no mask.
        """
        mask = _needed_mask("goal.mask", goal.mask)
        # Intrinsics are those of the image; the mask shows the same view in another size.
        intrinsics = goal.intrinsics * (mask.shape[1] / goal.rgb.shape[1])
        moments = image_moments(mask, intrinsics)
        for i, env in enumerate(env_ids):
            self._goals[int(env)] = (moments[i], intrinsics[i], float(mask.shape[1]))
            self._angle.pop(int(env), None)

    def act(self, env_ids: I64, observation: Observation) -> PolicyOutput:
        """Twists from the moments; zero where the target is out of view.

        Raises:
            ValueError: if the observation has no mask.
        """
        mask = _needed_mask("observation.mask", observation.mask)
        known = [self._goals[int(e)] for e in env_ids]
        scale = np.array([mask.shape[1] / size for _, _, size in known])
        now = image_moments(mask, np.stack([k for _, k, _ in known]) * scale[:, None])
        before = np.array([self._angle.get(int(e), 0.0) for e in env_ids])
        twist, angle = moment_twist(now, np.stack([m for m, _, _ in known]), before)
        self._angle.update(zip((int(e) for e in env_ids), angle.tolist(), strict=True))
        return _output(twist)


def _output(twist: F64) -> PolicyOutput:
    return PolicyOutput(twist.astype(np.float32), np.zeros(len(twist), dtype=bool))


def _needed(name: str, poses: F64 | None) -> F64:
    if poses is None:
        raise ValueError(bad_value(name, None, "poses (N, 4, 4): this controller is privileged"))
    return poses


def _needed_mask(name: str, mask: Bool | None) -> Bool:
    if mask is None:
        raise ValueError(bad_value(name, None, "masks (N, H, W): this controller sees the target's mask"))
    return mask
