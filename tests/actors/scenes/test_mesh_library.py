import hashlib
from collections import Counter

import numpy as np
import pytest

from actors.scenes.mesh_library import mesh_library
from actors.scenes.shapes import build_mesh, symmetry_of
from common.errors import ConfigError
from common.scene import Texture

KINDS = ["cube", "box", "cylinder", "cone", "sphere", "revolution"]
NEW = ["frustum", "capsule", "torus", "prism", "pyramid", "lathe"]


def test_a_library_is_a_function_of_its_seed_and_grows_at_the_end():
    assert mesh_library(3, 24, KINDS) == mesh_library(3, 48, KINDS)[:24]
    assert mesh_library(3, 24, KINDS) != mesh_library(4, 24, KINDS)


def test_draws_are_the_recorded_ones():
    """A run names its shapes by seed: the first kinds must go on giving these, and the new ones as well."""

    def digest(kinds):
        drawn = [mesh_library(seed, 60, kinds, split) for seed in (0, 7) for split in ("train", "heldout")]
        return hashlib.sha256(repr([(s.kind, s.params) for d in drawn for s in d]).encode()).hexdigest()[:16]

    assert digest(KINDS) == "b2a3e4b60198adfa"
    assert digest(NEW) == "2b8e148a7ba44d39"


def test_splits_share_no_shape_whatever_their_seeds():
    train = {s for seed in range(20) for s in mesh_library(seed, 240, ["cube", "sphere"], "train")}
    heldout = {s for seed in range(20) for s in mesh_library(seed, 240, ["cube", "sphere"], "heldout")}
    assert len(train) > 300 and not train & heldout
    for kind in NEW:
        sizes = [
            {_sizes(s) for seed in range(5) for s in mesh_library(seed, 60, [kind], split)}
            for split in ("train", "heldout")
        ]
        assert len(sizes[0]) > 250 and not sizes[0] & sizes[1]


def _sizes(shape):
    """What tells the geometry of two shapes apart: a lathe's heights count from anywhere."""
    if shape.kind != "lathe":
        return shape.params
    z = shape.params[1::2]
    return (shape.params[::2], tuple(round(v - z[0], 4) for v in z))


def test_kinds_come_in_turn_and_sizes_fit_the_cameras():
    library = mesh_library(0, 120, KINDS)
    assert [s.kind for s in library[:8]] == [*KINDS, "cube", "box"]
    for shape in library:
        extent = build_mesh(shape).extent()
        assert 0.09 < extent.max() <= 0.32 and extent.min() >= 0.09
        assert np.linalg.norm(extent) / 2 < 0.27


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("kind", NEW)
def test_new_kinds_are_whole_graspable_and_varied(kind, split):
    library = mesh_library(3, 60, [kind], split)
    extents = np.array([build_mesh(shape).extent() for shape in library])
    assert extents.max(axis=1).min() >= 0.095 and extents.max() <= 0.305 and extents.min() >= 0.04
    assert all(build_mesh(shape, symmetric=True).closed for shape in library)
    assert len(set(library)) > 55


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_lathes_are_of_seven_families_some_hollow_some_mirrored(split):
    families = Counter()
    for shape in mesh_library(0, 140, ["lathe"], split):
        ring, inside = shape.params[:2] == shape.params[-2:], shape.params[0] == shape.params[-2] == 0.0
        mirrored = len(symmetry_of(shape, Texture()).rotations) == 1
        families[len(shape.params), ring, inside, mirrored] += 1
        # Of rings with seven points nuts narrow towards their ends.
        assert mirrored == (ring and (len(shape.params) == 10 or shape.params[2] != shape.params[4]))
    cup, bowl, vase = (12, False, True, False), (28, False, True, False), (32, False, True, False)
    bottle, flange = (16, False, False, False), (14, True, False, False)
    nut, tube = (14, True, False, True), (10, True, False, True)
    assert set(families) == {cup, bowl, vase, bottle, flange, nut, tube}
    assert min(families.values()) >= 10


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0, 0, ["cube"], "train"), "at least one shape"),
        ((0, 5, [], "train"), "at least one shape"),
        ((0, 5, ["teapot"], "train"), "scenes.shapes"),
        ((0, 5, ["mesh"], "train"), "scenes.shapes"),
        ((0, 5, ["cube"], "test"), "split"),
    ],
)
def test_bad_libraries_are_refused(args, message):
    with pytest.raises(ConfigError, match=message):
        mesh_library(*args)
