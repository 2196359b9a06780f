import numpy as np
import pytest

from actors.mesh_library import mesh_library
from actors.shapes import build_mesh
from common.errors import ConfigError

KINDS = ["cube", "box", "cylinder", "cone", "sphere", "revolution"]


def test_a_library_is_a_function_of_its_seed_and_grows_at_the_end():
    assert mesh_library(3, 24, KINDS) == mesh_library(3, 48, KINDS)[:24]
    assert mesh_library(3, 24, KINDS) != mesh_library(4, 24, KINDS)


def test_splits_share_no_shape_whatever_their_seeds():
    train = {s for seed in range(20) for s in mesh_library(seed, 240, ["cube", "sphere"], "train")}
    heldout = {s for seed in range(20) for s in mesh_library(seed, 240, ["cube", "sphere"], "heldout")}
    assert len(train) > 300 and not train & heldout


def test_kinds_come_in_turn_and_sizes_fit_the_cameras():
    library = mesh_library(0, 120, KINDS)
    assert [s.kind for s in library[:8]] == [*KINDS, "cube", "box"]
    for shape in library:
        extent = build_mesh(shape).extent()
        assert 0.09 < extent.max() <= 0.32 and extent.min() >= 0.09
        assert np.linalg.norm(extent) / 2 < 0.27


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0, 0, ["cube"], "train"), "at least one shape"),
        ((0, 5, [], "train"), "at least one shape"),
        ((0, 5, ["torus"], "train"), "scenes.shapes"),
        ((0, 5, ["mesh"], "train"), "scenes.shapes"),
        ((0, 5, ["cube"], "test"), "split"),
    ],
)
def test_bad_libraries_are_refused(args, message):
    with pytest.raises(ConfigError, match=message):
        mesh_library(*args)
