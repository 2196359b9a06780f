"""The acceptance suite's measurements, on the fake: right where it is right, and wrong where it is made wrong."""

import json

import numpy as np
import pytest

from actors.isaac import acceptance
from actors.isaac.acceptance import ENVS, Probe, cameras, scene, thing
from actors.isaac.renderer import IsaacConfig, IsaacRenderer
from common.scene import SceneSpec, Shape
from tests.actors.isaac.isaac_fake import install

SIZE = (64, 64)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    return install(monkeypatch, "6_0", tmp_path)


@pytest.fixture
def probe(fake, tmp_path):
    return Probe(IsaacRenderer(IsaacConfig(ENVS, SIZE, tmp_path / "isaac", slots=8, subframes=1)), SIZE)


def test_a_record_is_whole_only_when_everything_was_measured(probe, tmp_path, monkeypatch):
    for name in ("axes", "intrinsics", "depth", "staleness", "isolation", "leak", "rate"):  # each has its own test
        monkeypatch.setattr(acceptance, f"measure_{name}", lambda probe: {"measured": 1})
    record = acceptance.measure(probe.renderer, SIZE, tmp_path, 1.0)
    assert record["done"] and json.loads((tmp_path / "record.json").read_text()) == record
    frames = np.load(tmp_path / "frames.npz")
    kinds = {SceneSpec.from_json(str(text)).objects[0].shape.kind for text in frames["scenes"]}
    assert len(frames["scenes"]) == len(kinds) == 12
    assert frames["instance_id"].shape == (12, *SIZE) and set(np.unique(frames["instance_id"])) == {0, 1, 2}

    def breaks(probe):
        raise RuntimeError("device lost")

    monkeypatch.setattr(acceptance, "measure_ids", breaks)
    with pytest.raises(RuntimeError):
        acceptance.measure(probe.renderer, SIZE, tmp_path, 1.0)
    left = json.loads((tmp_path / "record.json").read_text())
    assert left["done"] is False and "staleness" in left and "ids" not in left


def test_axes_and_intrinsics_are_right_on_the_fake_and_wrong_when_it_looks_elsewhere(fake, probe):
    axes = acceptance.measure_axes(probe)
    assert axes["worst_px"] < 2.0 and max(map(abs, axes["mean_px"])) < 0.5
    assert acceptance.measure_intrinsics(probe)["ratios"] == pytest.approx([1.0] * 3, abs=0.1)
    real = probe.renderer._stage._set_lens

    def wider(path, lens):
        real(path, type(lens)(lens.focal_length * 0.6, lens.apertures, lens.offsets))

    probe.renderer._stage._set_lens = wider
    assert acceptance.measure_axes(probe)["worst_px"] > 2.0
    assert acceptance.measure_intrinsics(probe)["ratios"] == pytest.approx([0.6] * 3, abs=0.1)


def test_ids_isolation_and_jumps_are_seen_as_they_are(fake, probe):
    ids = acceptance.measure_ids(probe)
    assert ids["least_same"] == 1.0 and ids["unexplained"] == 0
    assert acceptance.measure_isolation(probe) == {"foreign": [[]] * ENVS, "still": 0.0, "changed": 0.0}
    stale = acceptance.measure_staleness(probe)
    assert stale["still"] == stale["back"] == 0.0 and stale["jump"] > 1.0 and stale["latency_updates"] == 0
    fake.stray_pixels = 3
    assert acceptance.measure_ids(probe)["unexplained"] > 0


def test_leaks_are_counted_from_warm_to_last_and_the_rate_from_frames(probe):
    leak = acceptance.measure_leak(probe, resets=10)
    assert leak["prims"][0] == leak["prims"][1] and 0.5 < leak["rss_growth"] < 2.0
    rate = acceptance.measure_rate(probe, seconds=0.05)
    assert rate["frames"] >= ENVS and rate["frames_per_s"] > 0.0


def test_depth_of_the_ground_is_compared_with_the_plane(probe, monkeypatch):
    # The fake's ground is flat on the picture, so its depth is wrong; true depths give no error.
    assert acceptance.measure_depth(probe)["median"] > 0.05
    real = probe.renderer.render

    def true_depth(ids, poses, intrinsics, size, channels):
        frames = real(ids, poses, intrinsics, size, channels)
        rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
        fx, fy, cx, cy = intrinsics[0]
        rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(size)], axis=-1) @ poses[0, :3, :3].T
        frames.depth[0] = -poses[0, 2, 3] / rays[..., 2]
        return frames

    monkeypatch.setattr(probe.renderer, "render", true_depth)
    assert acceptance.measure_depth(probe)["p99"] < 1e-6


def test_cameras_stay_above_the_ground_and_scenes_within_reach():
    poses = cameras(50, 0)
    assert (poses[:, 2, 3] > 0.1).all() and np.abs(poses[:, :3, 3]).max() < 2.0
    made = scene(thing(Shape("cube", (0.2,)), [0.0, 0.0, 0.1], 5, 0.3))
    assert made.target_id == 5 and made.objects[0].pose()[2, 3] == 0.1


def test_the_command_says_in_one_line_why_it_cannot_start(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ISAAC_PATH", raising=False)
    assert acceptance.main(["--out", str(tmp_path)]) == 1
    assert "isaacsim is not installed" in capsys.readouterr().err and not (tmp_path / "record.json").exists()
