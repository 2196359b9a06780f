"""Scenes and cameras that several renderer tests share."""

import numpy as np

from actors.scenes.mesh_library import mesh_library
from actors.scenes.shapes import build_mesh, symmetry_of
from common.geometry import intrinsics_from_fov, look_at, make_pose, so3_exp
from common.scene import Light, SceneObject, SceneSpec, Shape, Texture

LIGHT = Light()
FOV = np.deg2rad(50.0)
GROUND = Texture("noise", ((0.3, 0.3, 0.3), (0.7, 0.7, 0.6)), 6.0, 3)
PATTERN = Texture("noise", ((0.9, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.2, 0.9)), 4.0, 5)


def an_object(shape, world_T_obj, instance_id=1, texture=PATTERN):
    return SceneObject(shape, texture, symmetry_of(shape, texture), instance_id, tuple(np.ravel(world_T_obj).tolist()))


def standing(shape, x=0.0, y=0.0, yaw=0.0):
    height = build_mesh(shape).extent()[2] / 2
    return make_pose(so3_exp([0.0, 0.0, yaw]), [x, y, height])


def a_scene(*objects, light=LIGHT):
    return SceneSpec(tuple(objects), objects[0].instance_id, GROUND, light)


def mixed_scenes(count, seed=0):
    """Scenes of three objects of all kinds, tumbled and partly sunk into the ground or each other."""
    rng = np.random.default_rng(seed)
    kinds = ["cube", "box", "cylinder", "cone", "sphere", "revolution"]
    shapes = mesh_library(seed, 3 * count, kinds)
    scenes = []
    for i in range(count):
        objects = []
        for k in range(3):
            at = [*rng.uniform(-0.2, 0.2, size=2), rng.uniform(0.0, 0.2)]
            pose = make_pose(so3_exp(rng.normal(size=3)), at)
            objects.append(an_object(shapes[3 * i + k], pose, instance_id=k + 1))
        scenes.append(a_scene(*objects))
    return scenes


def cameras_around(count, seed=0, distance=(0.5, 0.9), target=(0.0, 0.0, 0.1)):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    direction[:, 2] = np.abs(direction[:, 2]) + 0.2
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    center = np.asarray(target, dtype=np.float64)
    eyes = center + direction * rng.uniform(*distance, size=(count, 1))
    aim = center + rng.normal(scale=0.05, size=(count, 3))
    return look_at(eyes, aim, rng.uniform(-np.pi, np.pi, size=count))


def intrinsics(count, height, width=None):
    return np.tile(intrinsics_from_fov(FOV, height, width or height), (count, 1))


def one_cube(edge=0.2, x=0.0, y=0.0, yaw=0.0):
    shape = Shape("cube", (edge,))
    return a_scene(an_object(shape, standing(shape, x, y, yaw)))
