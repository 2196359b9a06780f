import json

import numpy as np
import pytest

from actors.isaac.translate import (
    DOME_TURN,
    Hide,
    Place,
    geometry_of,
    sky_picture,
    translate,
    translate_light,
    usd_roughness,
)
from actors.scenes.shapes import build_mesh
from actors.scenes.sky import ambient_sh, sh_basis
from common.errors import SceneError
from common.scene import Light, Material, Shape
from tests.actors.isaac.fake_usd import rotation
from tests.actors.isaac.golden_for_tests import FILE, SHAPES, TURNED, assets, everything, object_of, scene_of


@pytest.mark.parametrize("manifest", ["5_1", "6_0"])
def test_every_kind_of_scene_writes_what_it_always_wrote(manifest):
    golden = json.loads(FILE.read_text())
    now = json.loads(json.dumps(everything(manifest)))
    assert list(now) == list(golden)
    for name, case in golden.items():
        assert now[name] == case, name
    kinds = {name.removeprefix("shape ") for name in golden if name.startswith("shape ")}
    assert kinds == set(SHAPES) and len(kinds) == 13


def test_an_object_stands_where_its_pose_says_and_shows_its_own_mesh():
    scene = scene_of(object_of("mesh"), object_of("cube"))
    made = translate(scene, assets(), 4)
    places = [e for e in made.edits if isinstance(e, Place)]
    assert [p.scale for p in places] == [1.5, 1.0]
    assert np.allclose(rotation(places[0].quaternion), TURNED[:3, :3]) and places[0].position == (0.1, -0.2, 0.3)
    assert [e.slot for e in made.edits if isinstance(e, Hide)] == [2, 3]
    assert made.instances == {0: 3, 1: 3}
    mesh = build_mesh(Shape("cube", (0.2,)))
    geometry = geometry_of(mesh)
    assert np.array_equal(geometry.points, mesh.vertices) and np.array_equal(geometry.corners, mesh.faces.ravel())
    assert np.allclose(geometry.st[:, 1], 1.0 - mesh.uvs[:, 1])
    with pytest.raises(SceneError, match="at most 1"):
        translate(scene, assets(), 1)


def test_the_sun_shines_from_the_lights_direction_and_the_sky_gives_its_irradiance():
    direction = np.array([0.3, -0.5, 0.8])
    direction /= np.linalg.norm(direction)
    made = translate_light(Light(tuple(direction.tolist()), shadow=0.5))
    assert np.allclose(rotation(made.sun) @ [0.0, 0.0, 1.0], direction) and made.shadows
    assert made.sky is None
    # A smooth sky, brighter to one side: its coefficients give it back, and the map shows it where it is.
    towards = np.array([0.6, 0.0, 0.8])
    from actors.scenes.sky import _sphere

    radiance = np.repeat((1.0 + 0.5 * (_sphere()[0] @ towards))[:, None], 3, axis=1)
    coefficients = np.array(ambient_sh(radiance))
    sky = sky_picture(coefficients)
    height, width = sky.shape[:2]
    row, column = np.unravel_index(sky[..., 0].argmax(), (height, width))
    latitude = np.pi * (0.5 - (row + 0.5) / height)
    longitude = np.pi * (1.0 - 2.0 * (column + 0.5) / width)
    in_dome = [np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)]
    assert rotation(DOME_TURN) @ in_dome @ towards > 0.99
    assert (sh_basis([0.0, 0.0, 1.0]) @ coefficients).mean() == pytest.approx(1.0, abs=1e-4)


def test_highlights_are_as_wide_as_ours_and_matt_surfaces_have_none():
    assert usd_roughness(Material()) == 1.0
    assert usd_roughness(Material(1.0, 0.5, 0.25)) == pytest.approx(0.5)
