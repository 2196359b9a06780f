"""What is shared between environments: arrays that grow, slots that stay, and what is dropped when."""

import numpy as np
import pytest
import warp as wp
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rasteriser.pools import DeviceArray, MeshPool, TexturePool, texture_levels
from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.shapes import build_mesh
from actors.scenes.textures import build_texture
from common.geometry import make_pose
from common.scene import SceneObject, SceneSpec, Shape, Symmetry, Texture
from tests.actors.drawing_for_tests import ALL, GREY, ball, digest
from tests.actors.scenes_for_tests import an_object, cameras_around, intrinsics, standing

CPU = "cpu"


@pytest.fixture
def device():
    wp.init()
    return wp.get_device(CPU)


def noise(seed, scale=4.0):
    return Texture("noise", ((0.9, 0.1, 0.1), (0.1, 0.8, 0.1)), scale, seed)


# ---------------------------------------------------------------- arrays


def test_an_array_grows_and_keeps_what_it_holds(device):
    array = DeviceArray(np.int32, device, 4)
    rng = np.random.default_rng(0)
    parts = [rng.integers(1000, size=n).astype(np.int32) for n in (3, 1, 7, 0, 100, 2)]
    starts = [array.append(part) for part in parts]
    assert starts == [0, 3, 4, 11, 11, 111]
    assert array.used == 113 and len(array.host) >= 113
    everything = np.concatenate(parts)
    assert np.array_equal(array.host[:113], everything)
    # What kernels are given is what was written, after every growth.
    assert np.array_equal(array.device.numpy()[:113], everything)
    array.reserve(50)
    assert np.array_equal(array.device.numpy()[:113], everything)


def test_growing_bit_by_bit_copies_little(device):
    """Room doubles, so that 2^16 appends move some 2^17 elements and not 2^31."""
    array, moves, before = DeviceArray(np.int32, device, 1), 0, 1
    for _ in range(1 << 12):
        array.append(np.zeros(1, np.int32))
        moves += len(array.host) != before
        before = len(array.host)
    assert moves <= 13


# ---------------------------------------------------------------- levels of textures


def mean_levels(texels):
    """The same pyramid in floats, each level from the one before as it was stored."""
    levels = [texels.astype(np.int64)]
    while len(levels[-1]) > 1:
        side = len(levels[-1]) // 2
        blocks = levels[-1].reshape(side, 2, side, 2, 3).astype(np.float64)
        levels.append(np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.int64))
    return np.concatenate([level.reshape(-1, 3) for level in levels])


def unpacked(levels):
    return np.stack([levels & 255, levels >> 8 & 255, levels >> 16 & 255], axis=1).astype(np.int64)


@pytest.mark.parametrize("side", [1, 2, 4, 64, 256])
def test_levels_are_the_rounded_means_of_the_level_before(side):
    texels = np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8)
    levels = texture_levels(texels)
    assert levels.dtype == np.uint32 and len(levels) == (4 * side * side - 1) // 3
    assert np.array_equal(unpacked(levels), mean_levels(texels))
    assert (levels >> 24 == 0).all()


@given(st.integers(0, 255), st.integers(0, 255))
def test_one_colour_stays_one_colour_on_every_level(red, blue):
    texels = np.full((8, 8, 3), (red, 7, blue), np.uint8)
    assert (unpacked(texture_levels(texels)) == (red, 7, blue)).all()


def test_white_does_not_run_over():
    assert (unpacked(texture_levels(np.full((64, 64, 3), 255, np.uint8))) == 255).all()


@pytest.mark.parametrize("side", [1, 2, 4, 8, 64, 512, 2048])
def test_a_texture_knows_its_side(device, side):
    pool = TexturePool(device, 10**9)
    slot = pool.slot("a", lambda: np.zeros((side, side, 3), np.uint8))
    assert 1 << int(pool.row(slot)[1]) == side


# ---------------------------------------------------------------- pools


def test_a_key_is_made_once(device):
    pool, made = TexturePool(device, 10**9), []

    def make(seed):
        made.append(seed)
        return build_texture(noise(seed))

    slots = [pool.slot(seed, lambda seed=seed: make(seed)) for seed in (1, 2, 1, 1, 2)]
    assert slots == [0, 1, 0, 0, 1] and made == [1, 2] and len(pool) == 2


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(["ask", "show", "hide"]), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 6),
)
def test_what_is_shown_keeps_its_slot_and_its_texels(steps, room):
    """Any order of asking, showing and hiding, with a budget of a few textures: what is shown reads back unchanged."""
    wp.init()
    pixels = [np.random.default_rng(key).integers(0, 256, (8, 8, 3)).astype(np.uint8) for key in range(10)]
    length = len(texture_levels(pixels[0]))
    pool = TexturePool(wp.get_device(CPU), room * length * 4)
    shown: dict[int, tuple[int, int]] = {}  # key -> slot, how often
    for what, key in steps:
        slot, uses = shown.get(key, (None, 0))
        if what != "hide":
            new = key not in pool._slots
            got = pool.slot(key, lambda key=key: pixels[key])
            assert slot in (None, got)
            # Over the budget by what is shown, or by the one that was stored last.
            assert not new or pool.nbytes() <= (max(room, len(shown)) + 1) * length * 4
            slot = got
        change = {"ask": 0, "show": 1, "hide": -1 if uses else 0}[what]
        if change:
            pool.use(slot, change)
            shown[key] = slot, uses + change
        if shown.get(key, (0, 1))[1] == 0:
            del shown[key]
        for other, (at, _) in shown.items():
            first, lg = pool.row(at).tolist()
            assert lg == 3
            assert np.array_equal(pool.texels.host[first : first + length], texture_levels(pixels[other]))
        assert len({at for at, _ in shown.values()}) == len(shown)


def test_dropping_frees_what_nobody_shows_and_gives_its_slot_again(device):
    one = 4 * len(texture_levels(build_texture(noise(0))))
    pool = TexturePool(device, 3 * one)
    slots = [pool.slot(k, lambda k=k: build_texture(noise(k))) for k in range(4)]
    pool.use(slots[1], 1)
    pool.use(slots[3], 1)
    assert pool.nbytes() == 4 * one
    new = pool.slot(9, lambda: build_texture(noise(9)))
    assert len(pool) == 3 and pool.nbytes() == 3 * one
    assert new in (slots[0], slots[2])
    for key, slot in ((1, slots[1]), (3, slots[3]), (9, new)):
        first = int(pool.row(slot)[0])
        assert np.array_equal(pool.texels.host[first : first + one // 4], texture_levels(build_texture(noise(key))))


def test_meshes_come_back_whole_after_others_are_dropped(device):
    shapes = [Shape("box", (0.1, 0.2, 0.3)), Shape("cone", (0.1, 0.2)), Shape("torus", (0.1, 0.03))]
    kept = MeshPool(device, 1)
    slots = [kept.slot(s, lambda s=s: build_mesh(s)) for s in shapes[:1]]
    kept.use(slots[0], 1)
    for shape in shapes[1:]:
        slots.append(kept.slot(shape, lambda shape=shape: build_mesh(shape)))
        kept.use(slots[-1], 1)
        kept.slot("passing", lambda: ball(0.1, 2))
    assert len(kept) in (3, 4)
    alone = MeshPool(device, 10**9)
    for slot, shape in zip(slots, shapes, strict=True):
        own = alone.slot(shape, lambda shape=shape: build_mesh(shape))
        for mine, theirs in zip(kept._load(slot), alone._load(own), strict=True):
            assert np.array_equal(mine, theirs)
        assert np.array_equal(kept.bounds(slot), alone.bounds(own))


# ---------------------------------------------------------------- in the renderer


def scene_of(seed, mesh=None):
    """A box in a texture of its own over a ground of its own; a mesh beside it if one is named."""
    shape = Shape("box", (0.2, 0.1 + 0.001 * (seed % 50), 0.2))
    things = [an_object(shape, standing(shape), texture=noise(2 * seed))]
    if mesh:
        pose = tuple(make_pose(np.eye(3), [0.2, 0.1, 0.1]).ravel().tolist())
        things.append(SceneObject(Shape("mesh", (), mesh), GREY, Symmetry(), 2, pose))
    return SceneSpec(tuple(things), 1, noise(2 * seed + 1))


def test_what_is_shown_looks_the_same_after_the_rest_was_dropped():
    small, large = WarpRenderer(3, pool_bytes=200_000), WarpRenderer(3)
    args = cameras_around(2, seed=1), intrinsics(2, 48), (48, 48), ALL
    shown = [scene_of(1000, "ball"), scene_of(1001)]
    for renderer in (small, large):
        renderer.load({"ball": ball(0.1, 3)})
        renderer.reset(np.array([0, 1]), shown)
    before = digest(small.render(np.array([0, 1]), *args))
    assert before == digest(large.render(np.array([0, 1]), *args))
    drops = 0
    for seed in range(40):
        held = len(small._scenes.textures)
        small.reset(np.array([2]), [scene_of(seed)])
        drops += len(small._scenes.textures) < held + 2
        assert digest(small.render(np.array([0, 1]), *args)) == before
        # And the new scene is the one that was asked for, in whatever slots it got.
        large.reset(np.array([2]), [scene_of(seed)])
        alone = [r.render(np.array([2]), args[0][:1], args[1][:1], (32, 32), ALL) for r in (small, large)]
        assert digest(alone[0]) == digest(alone[1])
    assert drops >= 3
    small.close()
    large.close()


def test_meshes_of_one_scene_stay_apart_where_there_is_no_room():
    """All that is new in a scene is kept while the scene is built, whatever the budget."""
    shapes = [Shape("box", (0.2, 0.1, 0.1)), Shape("sphere", (0.1,)), Shape("cone", (0.08, 0.2))]
    things = [an_object(s, standing(s, 0.2 * k - 0.2), k + 1, noise(k)) for k, s in enumerate(shapes)]
    scene = SceneSpec(tuple(things), 1, noise(9))
    args = np.zeros(1, dtype=np.int64), cameras_around(1), intrinsics(1, 64), (64, 64), ALL
    seen = []
    for budget in (1, 10**8):
        renderer = WarpRenderer(1, pool_bytes=budget)
        renderer.reset(args[0], [scene])
        seen.append(renderer.render(*args))
        renderer.close()
    assert set(np.unique(seen[0].instance_id)) == {0, 1, 2, 3}
    assert digest(seen[0]) == digest(seen[1])


def test_memory_stays_bounded_over_ever_new_scenes():
    budget = 400_000
    renderer = WarpRenderer(2, pool_bytes=budget)
    most = 0
    for seed in range(200):
        renderer.reset(np.array([seed % 2]), [scene_of(seed)])
        tables = renderer._scenes
        most = max(most, tables.textures.nbytes(), tables.meshes.nbytes())
        assert sum(uses > 0 for uses in tables.textures._uses) <= 4
        assert sum(tables.textures._uses) == (4 if seed else 2)
        assert sum(tables.meshes._uses) == (2 if seed else 1)
    # What is stored while over the budget are the few textures of one scene.
    assert 0.5 * budget < most < budget + 100_000
    # Room as the arrays have it, and slots, do not creep up either.
    assert renderer._scenes.textures.texels.host.nbytes < 4 * budget
    assert len(renderer._scenes.textures._uses) < 40
    renderer.close()


def test_the_same_scene_everywhere_is_held_once():
    renderer = WarpRenderer(64)
    renderer.reset(np.arange(1), [scene_of(0)])
    alone = renderer._scenes.textures.nbytes(), renderer._scenes.meshes.nbytes()
    renderer.reset(np.arange(64), [scene_of(0)] * 64)
    assert (renderer._scenes.textures.nbytes(), renderer._scenes.meshes.nbytes()) == alone
    renderer.close()
