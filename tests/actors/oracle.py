"""What a camera must see, from Embree: which triangle each ray meets first, and in double precision where.

Embree is asked for the triangle alone; the depth is then where the ray meets its plane in float64, and the ground
is the plane z = 0 in float64, so the oracle's own rounding is far below what it judges.
"""

import dataclasses

import embreex.mesh_construction
import embreex.rtcore_scene
import numpy as np

from actors.scenes.shapes import build_mesh
from common.geometry import transform_points, unproject

NEAR = 0.01  # metres along the optical axis; the renderer promises to draw nothing nearer,
GROUND_DEPTH = 50.0  # and no ground farther
# Pixels that a ray is moved by: a silhouette lies within half a pixel where one of these sees something else.
SHIFTS = np.array(
    [[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5], [0.35, 0.35], [-0.35, -0.35], [0.35, -0.35], [-0.35, 0.35]]
)
CREASE = 5e-3  # 1/z is affine on a plane: a bend larger than this, relative, within half a pixel is a depth edge
MAX_ID_MISMATCH = 5e-4
MAX_DEPTH_ERROR = 1e-4


@dataclasses.dataclass(frozen=True)
class Cast:
    """One view: ids (H, W); z-depth (H, W) [m], inf where nothing is hit; where ids and depth are away from edges."""

    instance_id: np.ndarray
    depth: np.ndarray
    sure: np.ndarray
    smooth: np.ndarray


class Oracle:
    """Embree over one scene's triangles; `meshes` holds the imported ones."""

    def __init__(self, scene, meshes=None):
        corners, owner = [], []
        for obj in scene.objects:
            mesh = (meshes or {})[obj.shape.asset] if obj.shape.kind == "mesh" else build_mesh(obj.shape)
            corners.append(transform_points(obj.pose(), mesh.vertices)[mesh.faces])
            owner.append(np.full(len(mesh.faces), obj.instance_id))
        # Both start from the renderer's own input, float32 corners in the world: what is judged is the drawing.
        self._corners = np.concatenate(corners).astype(np.float32).astype(np.float64)
        self._owner = np.concatenate(owner)
        self._normals = np.cross(*(self._corners[:, k] - self._corners[:, 0] for k in (1, 2)))
        self._embree = embreex.rtcore_scene.EmbreeScene(robust=True)
        embreex.mesh_construction.TriangleMesh(self._embree, self._corners.astype(np.float32))

    def cast(self, world_T_cam, intrinsics, size):
        """Look along every pixel's centre and `SHIFTS` around it."""
        ids, depth = self._look(world_T_cam, intrinsics, size, (0.0, 0.0))
        inverse = 1.0 / depth
        sure = np.ones(size, dtype=bool)
        near = []
        for shift in SHIFTS:
            moved, moved_depth = self._look(world_T_cam, intrinsics, size, shift)
            sure &= moved == ids
            near.append(1.0 / moved_depth)
        smooth = sure.copy()
        for a, b in zip(near[::2], near[1::2], strict=True):
            smooth &= np.abs(a + b - 2.0 * inverse) <= CREASE * inverse
        # The ground's end is an edge as well: at one side of it there is no depth.
        smooth &= np.all([np.isfinite(depth) == (n > 0.0) for n in near], axis=0)
        return Cast(ids, depth, sure, smooth)

    def _look(self, pose, intrinsics, size, shift):
        height, width = size
        v, u = np.meshgrid(np.arange(height) + 0.5 + shift[1], np.arange(width) + 0.5 + shift[0], indexing="ij")
        # The optical component of each ray is 1, so lengths along it are z-depths.
        rays = unproject(np.stack([u, v], -1).reshape(-1, 2), np.ones(u.size), intrinsics) @ pose[:3, :3].T
        eye = pose[:3, 3]
        start = (eye + NEAR * rays).astype(np.float32)
        met = self._embree.run(start, rays.astype(np.float32))
        hit, triangle = met >= 0, np.maximum(met, 0)
        normal = self._normals[triangle]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.sum((self._corners[triangle, 0] - eye) * normal, axis=1) / np.sum(rays * normal, axis=1)
            ground = -eye[2] / rays[:, 2]
        z = np.where(hit, z, np.inf)
        ground = np.where((ground >= NEAR) & (ground <= GROUND_DEPTH), ground, np.inf)
        ids = np.where(z < ground, self._owner[triangle], 0)
        return ids.reshape(size), np.minimum(z, ground).reshape(size)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far frames and oracle agree: pixels judged, ids that differ, relative depth errors (all of them)."""

    pixels: int
    wrong_ids: int
    object_pixels: int
    depth_errors: np.ndarray

    @property
    def id_mismatch(self):
        return self.wrong_ids / max(self.pixels, 1)

    def percentiles(self):
        """Relative depth errors: median, 99 %, 99.9 %, largest."""
        return np.percentile(self.depth_errors, [50, 99, 99.9, 100])


def judge(cast, instance_id, depth):
    """Compare one rendered view, i32 (H, W) and f32 (H, W), with the oracle's."""
    wrong = cast.sure & (instance_id != cast.instance_id)
    fair = cast.smooth & ~wrong
    finite = fair & np.isfinite(cast.depth)
    rendered = np.where(np.isfinite(depth), depth, 0.0).astype(np.float64)  # a missing depth is an error of 100 %
    errors = np.abs(rendered[finite] / cast.depth[finite] - 1.0)
    sky = fair & ~np.isfinite(cast.depth)
    errors = np.concatenate([errors, np.isfinite(depth[sky]).astype(np.float64)])
    return Agreement(int(cast.sure.sum()), int(wrong.sum()), int((cast.sure & (cast.instance_id > 0)).sum()), errors)


def pooled(agreements):
    """Several views' agreements as one."""
    return Agreement(
        sum(a.pixels for a in agreements),
        sum(a.wrong_ids for a in agreements),
        sum(a.object_pixels for a in agreements),
        np.concatenate([a.depth_errors for a in agreements]),
    )


def assert_agrees(agreement):
    """The promise: ids differ in less than `MAX_ID_MISMATCH` of the pixels, every depth by less than 1e-4."""
    assert agreement.pixels > 0 and len(agreement.depth_errors)
    assert agreement.id_mismatch < MAX_ID_MISMATCH, f"{agreement.wrong_ids} of {agreement.pixels} ids differ"
    beyond = np.mean(agreement.depth_errors > MAX_DEPTH_ERROR)
    assert beyond <= 1e-5, f"{beyond:.2e} of the depths are off, percentiles {agreement.percentiles()}"
