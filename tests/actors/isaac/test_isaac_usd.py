"""The same stage and files, written by the real USD library."""

import json
import types

import numpy as np
import pytest
from pxr import Gf, Usd, UsdGeom, UsdLux, UsdShade

from actors.isaac import api, camera
from actors.isaac.convert import convert_model, main
from actors.isaac.converted import UsdAssets
from actors.isaac.pictures import PictureFiles
from actors.isaac.stage import FAR, GROUND_SIDE, REACH, SPACING, Room, Stage
from actors.isaac.translate import translate, translate_light
from actors.scenes.shapes import build_mesh
from common.errors import AssetError
from common.geometry import look_at, transform_points
from common.scene import Light, Shape
from tests.actors.isaac.golden_for_tests import FILE, TURNED, assets, built, cases, object_of, scene_of, short

TWO = Room(2, 2, 1)


def real_stage(tmp_path, room=TWO):
    stage = Usd.Stage.CreateInMemory()
    labels = {}
    link = types.SimpleNamespace(
        usd=api.Usd(), stage=lambda: stage, label=lambda prim, label: labels.update({str(prim.GetPath()): label})
    )
    return stage, labels, Stage(link, room, PictureFiles(tmp_path / "pictures"))


def plain(value):
    """A value of USD as the fake keeps it."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "path"):
        return value.path
    if isinstance(value, Gf.Quatd):
        return np.array([value.GetReal(), *value.GetImaginary()])
    return np.array(value)


def test_real_usd_holds_what_the_fake_was_told(tmp_path):
    stage, _, made = real_stage(tmp_path)
    golden = json.loads(FILE.read_text())
    for name, (spec, _) in cases().items():
        made._meshes.clear()
        if isinstance(spec, Light):
            made.light(translate_light(spec))
        else:
            made.apply(0, translate(spec, assets(), 2))
        for place, wanted in golden[name].items():
            path, _, attribute = place.partition(".")
            found = stage.GetAttributeAtPath(f"/World/{path}.{attribute}")
            assert found.IsDefined() and not found.IsCustom()
            if isinstance(wanted, list):
                assert short(plain(found.Get())) == pytest.approx(wanted, abs=1e-6), (name, place)
            else:
                assert short(plain(found.Get())) == pytest.approx(wanted), (name, place)


def test_the_fake_and_real_usd_end_up_with_the_same_prims_and_types(tmp_path, monkeypatch):
    stage, labels, _ = real_stage(tmp_path, Room(1, 2, 1))
    (tmp_path / "fake").mkdir()
    real = {
        str(p.GetPath()): (str(p.GetTypeName()), {a.GetName(): str(a.GetTypeName()) for a in p.GetAuthoredAttributes()})
        for p in stage.Traverse()
    }
    fake, _ = built(monkeypatch, tmp_path / "fake")
    kept = {
        path: (prim.kind, {n: (t[0].lower() + t[1:]).replace("Array", "[]") for n, t in prim.types.items()})
        for path, prim in fake.stage.prims.items()
    }
    assert real == kept
    assert labels == {path: prim.label for path, prim in fake.stage.prims.items() if prim.label}


def test_usds_own_schemas_understand_the_stage(tmp_path):
    stage, _, made = real_stage(tmp_path)
    made.apply(1, translate(scene_of(object_of("cone")), assets(), 2))
    made.light(translate_light(Light(shadow=0.5)))
    made.show({1})
    slot = stage.GetPrimAtPath("/World/env_1/slot_0")
    mesh = UsdGeom.Mesh(slot)
    assert mesh.GetSubdivisionSchemeAttr().Get() == "none" and mesh.GetNormalsInterpolation() == "vertex"
    assert UsdGeom.PrimvarsAPI(slot).GetPrimvar("st").GetInterpolation() == "vertex"
    material, _ = UsdShade.MaterialBindingAPI(slot).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
    picture, _, _ = UsdShade.Shader(surface).GetInput("diffuseColor").GetConnectedSource()
    assert picture.GetPrim().GetAttribute("info:id").Get() == "UsdUVTexture"
    world = np.array(UsdGeom.XformCache().GetLocalToWorldTransform(slot)).T
    points = transform_points(world, np.array(mesh.GetPointsAttr().Get()))
    origin = np.array(made._origins[1])
    assert np.allclose(points, transform_points(TURNED, build_mesh(Shape("cone", (0.1, 0.2))).vertices) + origin)
    assert UsdGeom.Imageable(slot).ComputeVisibility() == "inherited"
    other = UsdGeom.Imageable(stage.GetPrimAtPath("/World/env_1/slot_1"))
    assert other.ComputeVisibility() == "invisible"
    assert UsdGeom.Imageable(stage.GetPrimAtPath("/World/env_0/ground")).ComputeVisibility() == "invisible"
    sun = stage.GetPrimAtPath("/World/lights/sun")
    assert UsdLux.DistantLight(sun).GetIntensityAttr().Get() > 0.0
    assert UsdLux.ShadowAPI(sun).GetShadowEnableAttr().Get() is True
    shines = np.array(UsdGeom.XformCache().GetLocalToWorldTransform(sun)).T[:3, :3] @ [0.0, 0.0, -1.0]
    assert np.allclose(shines, -np.array(Light().direction) / np.linalg.norm(Light().direction))


@pytest.mark.parametrize("offset", [(0.0, 0.0), (7.0, -4.0)])
def test_a_usd_camera_sees_a_point_at_the_pixel_that_our_intrinsics_give(tmp_path, offset):
    stage, _, made = real_stage(tmp_path)
    height, width = 48, 64
    intrinsics = np.array([80.0, 80.0, width / 2 + offset[0], height / 2 + offset[1]])
    pose = look_at([0.5, -0.3, 0.6], [0.05, 0.1, 0.0], 0.4)
    made.aim(0, 1, pose, camera.usd_camera(intrinsics, (height, width), allow_offsets=True))
    frustum = UsdGeom.Camera(stage.GetPrimAtPath("/World/cameras/camera_0")).GetCamera(0).frustum
    to_clip = frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix()
    point = np.array([0.1, 0.05, 0.08])
    x, y, _ = to_clip.Transform(Gf.Vec3d(*(point + np.array(made._origins[1]))))
    seen = np.linalg.inv(pose) @ [*point, 1.0]
    wanted = intrinsics[:2] * seen[:2] / seen[2] + intrinsics[2:]
    assert ((x + 1) / 2 * width, (1 - y) / 2 * height) == pytest.approx(tuple(wanted), abs=1e-3)


def test_cells_are_further_apart_than_any_camera_sees(tmp_path):
    assert FAR < SPACING - GROUND_SIDE / 2 - REACH
    _, _, made = real_stage(tmp_path, Room(7, 1, 1))
    origins = np.array(made._origins)
    apart = np.linalg.norm(origins[:, None] - origins[None], axis=2)[~np.eye(8, dtype=bool)]
    assert apart.min() == SPACING and abs(origins).max() < 1000.0


def test_a_model_is_converted_once_and_read_back(tmp_path, capsys):
    mesh = build_mesh(Shape("box", (0.1, 0.2, 0.3)))
    lines = [f"v {x} {y} {z}" for x, y, z in mesh.vertices] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in mesh.faces]
    (tmp_path / "box.obj").write_text("\n".join(lines))
    done = convert_model(tmp_path / "box.obj", tmp_path / "usd")
    (name,) = done.written
    stage = Usd.Stage.Open(str(tmp_path / "usd" / f"{name}.usdc"))
    assert UsdGeom.GetStageUpAxis(stage) == "Z" and UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert str(stage.GetDefaultPrim().GetPath()) == "/Model"
    box = UsdGeom.Mesh(stage.GetPrimAtPath("/Model/mesh")).GetExtentAttr().Get()
    assert np.allclose(np.ptp(np.array(box), axis=0), [0.1, 0.2, 0.3], atol=1e-6)
    read = UsdAssets(tmp_path / "usd")
    assert read[name].closed and len(read) == 2
    texels = next(read[key] for key in read if key != name)
    assert texels.dtype == np.uint8 and texels.ndim == 3
    assert main([str(tmp_path / "usd" / "assets"), "--into", str(tmp_path / "usd")]) == 0
    assert "0 models converted, 1 there already" in capsys.readouterr().out
    (tmp_path / "usd" / f"{name}.usdc").write_bytes(b"torn")
    with pytest.raises(AssetError, match="damaged"):
        UsdAssets(tmp_path / "usd")[name]
    assert convert_model(tmp_path / "box.obj", tmp_path / "usd").written == (name,)
    assert main([str(tmp_path / "none.obj"), "--into", str(tmp_path / "usd")]) == 1
    assert "none.obj" in capsys.readouterr().err
