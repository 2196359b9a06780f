import dataclasses

import numpy as np
import pytest

from actors.scenes import looks
from common.rng import Purpose, philox
from common.scene import Light, Material, Texture


def rng(env=0):
    return philox(2, Purpose.LOOK, env=env)


def many(draw, count=200):
    return [draw(rng(env)) for env in range(count)]


def test_plain_objects_and_patterns_are_vivid():
    for texture in many(looks.plain) + many(looks.pattern):
        for color in texture.colors:
            assert max(color) >= 0.65 and min(color) <= 0.26 * max(color)
    assert {t.kind for t in many(looks.pattern)} == {"noise", "checker"}
    hues = [np.argmax(t.colors[0]) for t in many(looks.plain)]
    assert min(np.bincount(hues)) > 40


def test_a_symmetric_pattern_is_the_pattern_laid_symmetrically():
    for env in range(10):
        assert looks.symmetric_pattern(rng(env)) == dataclasses.replace(looks.pattern(rng(env)), symmetric=True)


def test_pictures_come_in_their_share():
    drawn, images = looks.ground(rng(), "easy"), ("aa" * 32, "bb" * 32, "cc" * 32)
    grounds = many(lambda r: looks.pictured(r, drawn, images, 0.25), 400)
    shown = [g.asset for g in grounds if g.kind == "image"]
    # 100 expected, its deviation is 8.7.
    assert 65 < len(shown) < 135 and set(shown) == set(images)
    assert all(g == drawn for g in grounds if g.kind != "image")
    assert looks.pictured(rng(), drawn, (), 1.0) is drawn
    assert looks.pictured(rng(), drawn, images[:1], 1.0) == Texture("image", asset=images[0])


@pytest.mark.parametrize("draw", [looks.simple_light, looks.rich_light])
def test_lights_come_from_above_and_are_about_as_bright(draw):
    for light in many(draw):
        np.testing.assert_allclose(np.linalg.norm(light.direction), 1.0, atol=1e-5)
        assert light.direction[2] > 0.3 and light.diffuse > 0.0 and light.ambient > 0.0
        assert 0.75 < light.diffuse + light.ambient < 1.25
        assert light.shadow == 0.0 and max(light.color) == 1.0 and min(light.color) >= 0.7


def test_simple_light_is_white_and_rich_light_warm_or_cool_under_a_sky():
    assert {(light.color, light.ambient_sh) for light in many(looks.simple_light)} == {((1.0, 1.0, 1.0), ())}
    rich = many(looks.rich_light)
    warm = [light.color[0] > light.color[2] for light in rich]
    assert 60 < sum(warm) < 140
    assert all(len(light.ambient_sh) == 9 for light in rich)


def test_shadows_take_much_of_the_light_and_change_nothing_else():
    light = looks.rich_light(rng())
    shadows = [looks.shaded(rng(env), light) for env in range(100)]
    assert all(0.4 <= s.shadow <= 0.95 and dataclasses.replace(s, shadow=0.0) == light for s in shadows)
    assert np.ptp([s.shadow for s in shadows]) > 0.4
    assert Light().shadow == 0.0


def test_surfaces_are_matte_or_shine():
    surfaces = many(looks.shiny, 300)
    matte = [m for m in surfaces if m.specular == 0.0]
    # 120 expected, its deviation is 8.5.
    assert 85 < len(matte) < 155
    for m in surfaces:
        assert 0.8 <= m.diffuse <= 1.0 and 0.0 <= m.specular <= 0.7 and 0.05 <= m.roughness <= 1.0
    assert all(m == Material(m.diffuse) for m in matte)


def test_cameras_spread_about_the_field_of_view():
    cameras = many(lambda r: looks.camera(r, 50.0, 0.2))
    focal = 0.5 / np.tan(np.deg2rad(25.0))
    factors = np.array([c.fy / focal for c in cameras])
    assert factors.min() >= 1.0 / 1.2 - 1e-5 and factors.max() <= 1.2 + 1e-5
    assert factors.min() < 0.86 and factors.max() > 1.16 and abs(np.log(factors).mean()) < 0.03
    for name in ("cx", "cy"):
        centers = np.array([getattr(c, name) for c in cameras])
        assert np.abs(centers - 0.5).max() <= 0.05 and np.ptp(centers) > 0.08
    assert all(c.fx == c.fy for c in cameras)


def test_numbers_have_few_digits():
    light, camera = looks.rich_light(rng()), looks.camera(rng(), 50.0, 0.2)
    numbers = [*light.direction, light.diffuse, light.ambient, *light.color, *dataclasses.astuple(camera)]
    assert all(
        round(x, 6) == x for x in [*numbers, *np.ravel(light.ambient_sh), *dataclasses.astuple(looks.shiny(rng()))]
    )
