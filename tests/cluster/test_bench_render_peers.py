"""Each peer draws the benchmark's scene as ours does: small, once; a library that is missing skips with its name."""

import dataclasses

import numpy as np
import pytest

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.mesh import check_mesh, is_closed
from cluster import bench_render_peers
from cluster.bench_render import MAX_ID_MISMATCH, mismatch
from cluster.bench_render_scene import CAMERAS, blob, fresh_meshes, intrinsics, workload

SIDE = 48
WORK = workload(900)


def ours(work=WORK):
    renderer = WarpRenderer(1)
    renderer.load(work.meshes)
    renderer.reset(np.array([0]), [work.scene])
    every = ["rgb", "instance_id", "depth"]
    frames = renderer.render(np.zeros(CAMERAS, int), work.world_T_cam, intrinsics(SIDE), (SIDE, SIDE), every)
    renderer.close()
    return frames


@pytest.mark.parametrize(
    ("peer", "library", "depth_error"), [("embree", "embreex", 1e-5), ("pybullet", "pybullet", 0.01)]
)
def test_a_peer_shows_the_same_objects_at_the_same_depth_in_the_same_colours(peer, library, depth_error):
    pytest.importorskip(library)
    frames = ours()
    rgb, ids, depth = getattr(bench_render_peers, f"{peer}_view")(WORK, SIDE, False)()
    wrong, error = mismatch(frames.instance_id, frames.depth, ids, depth)
    assert wrong < MAX_ID_MISMATCH / 10 and error < depth_error
    assert set(np.unique(ids)) == {0, 1, 2, 3}
    # Lights differ a little; another texture, or one upside down, would differ a lot more.
    on = frames.instance_id > 0
    look = [np.corrcoef(rgb[on][:, c], frames.rgb[on][:, c])[0, 1] for c in range(3)]
    assert min(look) > 0.7, look


def test_a_peer_that_turns_an_object_is_found_out():
    pytest.importorskip("embreex")
    frames = ours()
    first, second, third = WORK.scene.objects
    swapped = (dataclasses.replace(first, instance_id=2), dataclasses.replace(second, instance_id=1), third)
    other = dataclasses.replace(WORK, scene=dataclasses.replace(WORK.scene, objects=swapped))
    _, ids, depth = bench_render_peers.embree_view(other, SIDE, False)()
    assert mismatch(frames.instance_id, frames.depth, ids, depth)[0] > MAX_ID_MISMATCH


def test_embree_casts_shadows_on_request():
    pytest.importorskip("embreex")
    plain = bench_render_peers.embree_view(WORK, SIDE, False)()[0].astype(int)
    work = workload(900, shadows=True)
    shaded = bench_render_peers.embree_view(work, SIDE, True)()[0].astype(int)
    assert (shaded <= plain + 1).all() and 0.02 < (shaded.sum(-1) < plain.sum(-1) - 10).mean() < 0.5


@pytest.mark.parametrize("triangles", [1000, 5000, 20000, 60000])
def test_the_scene_has_the_triangles_it_is_named_by(triangles):
    assert workload(triangles).triangles == pytest.approx(triangles, rel=0.06)


def test_a_blob_is_closed_and_wound_and_lit_outwards():
    mesh = blob(1600, 0)
    check_mesh(mesh, "blob")
    assert mesh.closed and is_closed(mesh.vertices, mesh.faces)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    assert area.min() > 0.0
    normals = mesh.normals[mesh.faces].mean(axis=1)
    assert (np.sum(normals * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) > 0).all()
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1.0, atol=1e-5)


def test_the_same_workload_comes_out_every_time_and_fresh_meshes_are_new():
    again, shadows = workload(900), workload(900, shadows=True)
    assert again.scene == WORK.scene and np.array_equal(again.world_T_cam, WORK.world_T_cam)
    assert shadows.scene.objects == WORK.scene.objects and shadows.scene.light.shadow > 0.0
    assert workload(900, variant=1).scene.objects != WORK.scene.objects
    new = fresh_meshes(WORK, "x", 3)
    assert not set(new.meshes) & set(WORK.meshes)
    for obj, old in zip(new.scene.objects, WORK.scene.objects, strict=True):
        assert not np.array_equal(new.mesh(obj).vertices, WORK.mesh(old).vertices)
