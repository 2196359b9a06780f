"""The renderers that ours is measured against, each with all three channels of the same scene.

Every `..._view` builds the scene once and returns a function that draws all cameras: rgb u8 (N, H, W, 3), instance ids
i32 (N, H, W) and z-depth f32 (N, H, W) [m]. The ids and depths are compared with ours before a figure is believed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.scenes.textures import build_texture
from cluster.bench_render_scene import CAMERAS, FOV, Workload
from common.geometry import inverse_pose, transform_points
from common.protocols import F32, I32, U8
from common.scene import SceneObject, Texture

View = Callable[[], tuple[U8, I32, F32]]

_NEAR, _FAR = 0.05, 20.0
_GROUND_HALF = 10.0  # metres; every camera looks down on it
# The camera looks along -z in OpenGL and its y points up.
_GL = np.diag([1.0, -1.0, -1.0, 1.0])


def pybullet_view(work: Workload, size: int, shadows: bool) -> View:
    """TinyRenderer, one call per camera for all channels.

    Raises:
        ImportError: if pybullet is not installed.
    """
    import pybullet

    # Without physicsClientId everything lands in client 0, whatever was meant: pass it to every call.
    client = pybullet.connect(pybullet.DIRECT)
    instance_of = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, vertices, faces, normals, uvs, texture, pose, instance in _everything(work):
            shape = pybullet.createVisualShape(
                pybullet.GEOM_MESH,
                vertices=vertices.tolist(),
                indices=faces.ravel().tolist(),
                normals=normals.tolist(),
                uvs=(uvs * [1.0, -1.0] + [0.0, 1.0]).tolist(),  # its texture rows run the other way
                rgbaColor=[1, 1, 1, 1],
                specularColor=[0, 0, 0],
                physicsClientId=client,
            )
            body = pybullet.createMultiBody(
                baseVisualShapeIndex=shape,
                basePosition=pose[:3, 3].tolist(),
                baseOrientation=_xyzw(pose),
                physicsClientId=client,
            )
            path = Path(folder) / f"{name}.png"
            Image.fromarray(texture).save(path)
            loaded = pybullet.loadTexture(str(path), physicsClientId=client)
            pybullet.changeVisualShape(body, -1, textureUniqueId=loaded, physicsClientId=client)
            instance_of[body] = instance
    lookup = np.zeros(max(instance_of) + 2, np.int32)  # the last entry is that of -1, nothing hit
    for body, instance in instance_of.items():
        lookup[body] = instance
    projection = _gl_projection().T.ravel().tolist()
    views = [(_GL @ inverse_pose(pose)).T.ravel().tolist() for pose in work.world_T_cam]
    light = work.scene.light

    def draw() -> tuple[U8, I32, F32]:
        rgb, ids, depth = _empty(size)
        for i, view in enumerate(views):
            _, _, color, z, segments = pybullet.getCameraImage(
                size,
                size,
                view,
                projection,
                lightDirection=light.direction,
                lightAmbientCoeff=light.ambient,
                lightDiffuseCoeff=light.diffuse,
                lightSpecularCoeff=0.0,
                shadow=int(shadows),
                renderer=pybullet.ER_TINY_RENDERER,
                physicsClientId=client,
            )
            rgb[i] = np.reshape(color, (size, size, 4))[..., :3]
            ids[i] = lookup[np.reshape(segments, (size, size))]
            depth[i] = _FAR * _NEAR / (_FAR - (_FAR - _NEAR) * np.reshape(z, (size, size)))
        return rgb, ids, depth

    return draw


def mujoco_view(work: Workload, size: int, shadows: bool, samples: int) -> View:
    """MuJoCo over OpenGL, one pass per channel; MUJOCO_GL says through what (egl or osmesa).

    Args:
        work: the scene.
        size: of the image [px].
        shadows: objects cast shadows.
        samples: per pixel; MuJoCo's own default is 4, 0 is no anti-aliasing.

    Raises:
        ImportError: if mujoco, or what it needs for OpenGL, is not installed.
    """
    import mujoco

    spec = mujoco.MjSpec()
    spec.visual.global_.offwidth = spec.visual.global_.offheight = size
    spec.visual.map.znear, spec.visual.map.zfar = _NEAR, _FAR
    spec.visual.quality.offsamples = samples
    spec.stat.extent = 1.0
    light = work.scene.light
    spec.visual.headlight.ambient = [light.ambient] * 3
    spec.visual.headlight.diffuse = spec.visual.headlight.specular = [0.0] * 3
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[3.0 * x for x in light.direction],
        dir=[-x for x in light.direction],
        diffuse=[light.diffuse] * 3,
        specular=[0.0] * 3,
        castshadow=shadows,
    )
    instance_of = {}
    for name, vertices, faces, normals, uvs, texture, pose, instance in _everything(work):
        picture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, nchannel=3)
        picture.height, picture.width = texture.shape[:2]
        picture.data = texture.tobytes()
        material = spec.add_material(name=name, specular=0.0, shininess=0.0, reflectance=0.0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        mesh = spec.add_mesh(name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
        mesh.usernormal, mesh.usertexcoord = normals.ravel(), uvs.ravel()
        x, y, z, w = _xyzw(pose)
        spec.worldbody.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=name, pos=pose[:3, 3], quat=[w, x, y, z]
        )
        instance_of[name] = instance
    spec.worldbody.add_camera(name="camera", fovy=float(np.rad2deg(FOV)))
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    lookup = np.zeros(model.ngeom + 1, np.int32)  # the last entry is that of -1, nothing hit
    for name, instance in instance_of.items():
        lookup[model.geom(name).id] = instance
    renderer = mujoco.Renderer(model, size, size)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(shadows)
    poses = work.world_T_cam @ _GL

    def draw() -> tuple[U8, I32, F32]:
        rgb, ids, depth = _empty(size)
        for i, pose in enumerate(poses):
            data.cam_xpos[0], data.cam_xmat[0] = pose[:3, 3], pose[:3, :3].ravel()
            renderer.update_scene(data, camera=0)
            renderer.render(out=rgb[i])
            renderer.enable_depth_rendering()
            renderer.render(out=depth[i])
            renderer.disable_depth_rendering()
            renderer.enable_segmentation_rendering()
            ids[i] = lookup[renderer.render()[..., 0]]
            renderer.disable_segmentation_rendering()
        return rgb, ids, depth

    return draw


def embree_view(work: Workload, size: int, shadows: bool) -> View:
    """Embree's rays, one per pixel, and shading in numpy: bilinear texture, interpolated normal, a shadow ray if asked.

    Raises:
        ImportError: if embreex is not installed.
    """
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    parts = list(_everything(work))
    corners, normals, uvs, owner, offsets, sides, texels = [], [], [], [], [], [], []
    start = 0
    for _, vertices, faces, normal, uv, texture, pose, instance in parts:
        corners.append(transform_points(pose, vertices)[faces].astype(np.float32))
        normals.append((normal @ pose[:3, :3].T)[faces].astype(np.float32))
        uvs.append(uv[faces].astype(np.float32))
        owner.append(np.full(len(faces), instance, np.int32))
        offsets.append(np.full(len(faces), start, np.int64))
        sides.append(np.full(len(faces), len(texture), np.int64))
        texels.append(texture.reshape(-1, 3).astype(np.float32))
        start += texture.shape[0] * texture.shape[1]
    scene = EmbreeScene()
    TriangleMesh(scene, np.concatenate(corners))
    normal_of, uv_of, texel = np.concatenate(normals), np.concatenate(uvs), np.concatenate(texels)
    owner_of, offset_of, side_of = np.concatenate(owner), np.concatenate(offsets), np.concatenate(sides)
    f = 0.5 * size / np.tan(0.5 * FOV)
    axis = ((np.arange(size) + 0.5 - 0.5 * size) / f).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    pixel_rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    light = work.scene.light
    to_light = np.array(light.direction, np.float32) / np.float32(np.linalg.norm(light.direction))

    def fetch(triangle: NDArray[Any], u: F32, v: F32) -> F32:
        side = side_of[triangle]
        s, t = u * side - np.float32(0.5), v * side - np.float32(0.5)
        i, j = np.floor(s).astype(np.int64), np.floor(t).astype(np.int64)
        a, b = (s - i).astype(np.float32)[:, None], (t - j).astype(np.float32)[:, None]
        base, i0, i1, j0, j1 = offset_of[triangle], i % side, (i + 1) % side, j % side * side, (j + 1) % side * side
        top = texel[base + j0 + i0] * (1 - a) + texel[base + j0 + i1] * a
        low = texel[base + j1 + i0] * (1 - a) + texel[base + j1 + i1] * a
        return np.asarray(top * (1 - b) + low * b)

    def draw() -> tuple[U8, I32, F32]:
        rgb, ids, depth = _empty(size)
        for k, pose in enumerate(work.world_T_cam):
            rays = pixel_rays @ pose[:3, :3].T.astype(np.float32)
            eye = np.broadcast_to(pose[:3, 3].astype(np.float32), rays.shape)
            hit = scene.run(np.ascontiguousarray(eye), rays, output=True)
            triangle = hit["primID"]
            seen = np.flatnonzero(triangle >= 0)
            tri = triangle[seen]
            b1, b2 = hit["u"][seen], hit["v"][seen]
            weights = np.stack([1 - b1 - b2, b1, b2], axis=1).astype(np.float32)
            uv = np.einsum("nk,nkc->nc", weights, uv_of[tri])
            normal = np.einsum("nk,nkc->nc", weights, normal_of[tri])
            cosine = np.maximum(normal @ to_light / np.linalg.norm(normal, axis=1), 0.0)
            if shadows:
                point = pose[:3, 3].astype(np.float32) + rays[seen] * hit["tfar"][seen, None] + to_light * 1e-3
                toward = np.ascontiguousarray(np.broadcast_to(to_light, point.shape))
                cosine[scene.run(point.astype(np.float32), toward, query="OCCLUDED") >= 0] *= 1 - light.shadow
            color = fetch(tri, uv[:, 0], uv[:, 1]) * (light.ambient + light.diffuse * cosine)[:, None]
            rgb[k].reshape(-1, 3)[...] = (185, 205, 225)
            rgb[k].reshape(-1, 3)[seen] = np.minimum(color + 0.5, 255.0).astype(np.uint8)
            ids[k] = np.where(triangle >= 0, owner_of[triangle], 0).reshape(size, size)
            depth[k] = np.where(triangle >= 0, hit["tfar"], np.inf).reshape(size, size)
        return rgb, ids, depth

    return draw


def _everything(work: Workload) -> list[tuple[Any, ...]]:
    """Objects and ground as (name, vertices, faces, normals, uvs, texture u8, world_T_obj, instance id)."""
    out: list[tuple[Any, ...]] = [_object(work, obj) for obj in work.scene.objects]
    g = _GROUND_HALF
    corners = np.array([[-g, -g, 0.0], [g, -g, 0.0], [g, g, 0.0], [-g, g, 0.0]])
    # The ground is a thin closed box to MuJoCo, whose meshes need a volume; its top is what all see.
    vertices = np.concatenate([corners, corners - [0.0, 0.0, 0.01]])
    quads = [[0, 1, 2, 3], [7, 6, 5, 4], [0, 4, 5, 1], [1, 5, 6, 2], [2, 6, 7, 3], [3, 7, 4, 0]]
    faces = np.array([[q[i], q[j], q[k]] for q in quads for i, j, k in ((0, 1, 2), (0, 2, 3))])
    normals = np.tile([0.0, 0.0, 1.0], (8, 1))
    uvs = vertices[:, :2] / work.scene.ground_size
    out.append(("ground", vertices, faces, normals, uvs, _picture(work.scene.ground), np.eye(4), 0))
    return out


def _object(work: Workload, obj: SceneObject) -> tuple[Any, ...]:
    mesh = work.mesh(obj)
    look = _picture(obj.texture)
    return (f"o{obj.instance_id}", mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, look, obj.pose(), obj.instance_id)


def _picture(texture: Texture) -> U8:
    return np.ascontiguousarray(build_texture(texture))


def _xyzw(pose: NDArray[np.float64]) -> list[float]:
    """Quaternion x, y, z, w of a pose that is a turn about z."""
    half = 0.5 * np.arctan2(pose[1, 0], pose[0, 0])
    return [0.0, 0.0, float(np.sin(half)), float(np.cos(half))]


def _gl_projection() -> NDArray[np.float64]:
    f = 1.0 / np.tan(0.5 * FOV)
    a, b = (_FAR + _NEAR) / (_NEAR - _FAR), 2.0 * _FAR * _NEAR / (_NEAR - _FAR)
    return np.array([[f, 0, 0, 0], [0, f, 0, 0], [0, 0, a, b], [0, 0, -1, 0]])


def _empty(size: int) -> tuple[U8, I32, F32]:
    shape = (CAMERAS, size, size)
    return np.empty((*shape, 3), np.uint8), np.empty(shape, np.int32), np.empty(shape, np.float32)
