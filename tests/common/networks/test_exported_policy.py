"""The loader and the policy that users get, on one real export."""

import json
import shutil

import numpy as np
import pytest
import torch

from common.errors import ExportError
from common.identity import json_sha256, weights_sha256
from common.networks.exported_policy import FILES, check_camera, load_export, read_exported_weights, read_manifest
from common.networks.servo_net import ServoNet, set_weights
from common.protocols import Goal, Observation
from common.servo import clamp_twist, denormalise_twist


@pytest.fixture(scope="module")
def policy(exported):
    return exported.policy


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported.out, tmp_path / "copy")


def goal_of(frames, part):
    return Goal(frames.goal_rgb[part], None, frames.intrinsics[part], frames.d_star[part])


def rewrite(folder, **changes):
    """A manifest that was changed by somebody who knows how to seal it."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["manifest_sha256"] = json_sha256({k: v for k, v in manifest.items() if k != "manifest_sha256"})
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_commands_are_those_of_network_and_numpy_law(exported, policy, n):
    """Any size of batch, and cameras of half and of one and a half times the training's focal length."""
    net = ServoNet(exported.config.network).eval()
    set_weights(net, exported.weights)
    frames, total = exported.frames, len(exported.frames.rgb)
    part = np.linspace(0, total - 1, n).astype(int) if n > 1 else np.array([total // 2])
    ids = 10 + np.arange(n)
    policy.reset(ids, goal_of(frames, part))
    out = policy.act(ids, Observation(frames.rgb[part]))
    with torch.no_grad():
        z = net(torch.from_numpy(frames.rgb[part]), torch.from_numpy(frames.goal_rgb[part])).z
        raw = net.twist(z).numpy()
    ratio = frames.intrinsics[part, 0] / exported.manifest["training_intrinsics"][0]
    twist = clamp_twist(denormalise_twist(raw, 1.0, ratio), 3.0)
    np.testing.assert_allclose(out.twist, twist, atol=1e-4)
    wanted = denormalise_twist(twist, frames.d_star[part])
    np.testing.assert_allclose(out.aux["command"], wanted, atol=1e-4)
    assert out.twist.dtype == out.aux["command"].dtype == np.float32 and np.abs(wanted - raw).max() > 0.05


def test_the_gain_scales_the_command_and_nothing_else(exported, policy):
    ids = np.arange(3)
    policy.reset(ids, goal_of(exported.frames, ids))
    plain = policy.act(ids, Observation(exported.frames.rgb[ids]))
    policy.gain, before = 0.25, policy.gain
    slow = policy.act(ids, Observation(exported.frames.rgb[ids]))
    policy.gain = before
    assert before == exported.config.env.gain
    np.testing.assert_array_equal(slow.twist, plain.twist)
    np.testing.assert_allclose(slow.aux["command"], 0.25 / before * plain.aux["command"], rtol=1e-6)


def test_stops_where_the_twist_is_short(exported, policy):
    ids = np.arange(len(exported.frames.rgb))
    policy.reset(ids, goal_of(exported.frames, ids))
    out = policy.act(ids, Observation(exported.frames.rgb))
    np.testing.assert_array_equal(out.stop, np.linalg.norm(out.twist, axis=1) < 0.3)
    assert out.stop.any() and not out.stop.all()


def test_refuses_what_it_was_not_made_for(exported, policy):
    frames, ids = exported.frames, np.arange(2)
    good = goal_of(frames, ids)
    policy.reset(ids, good)
    for wrong in (ids[::-1], ids[:1]):
        with pytest.raises(ValueError, match="last reset"):
            policy.act(wrong, Observation(frames.rgb[: len(wrong)]))
    with pytest.raises(ValueError, match=r"observation.rgb = .*\(2, 16, 16, 3\).*: allowed is uint8 \(2, 32, 32, 3\)"):
        policy.act(ids, Observation(frames.rgb[:2, ::2, ::2]))
    with pytest.raises(ValueError, match=r"goal\.d_star"):
        policy.reset(ids, Goal(good.rgb, None, good.intrinsics, np.array([1.0, 0.0])))
    with pytest.raises(ValueError, match=r"goal\.rgb = 'float32"):
        policy.reset(ids, Goal(good.rgb.astype(np.float32), None, good.intrinsics, good.d_star))
    with pytest.raises(ValueError, match="last reset"):  # a reset that failed leaves no goal behind
        policy.act(ids, Observation(frames.rgb[:2]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ([0, 1, 1, 1], "fx and fy > 0"),
        ([np.nan, 1, 1, 1], "finite"),
        ([1.1, 1, 1, 1], "5 %"),
        ([1, 1, 0.7, 1], "tenth"),
    ],
)
def test_cameras_that_the_law_would_misread_are_refused(change, words):
    centred = np.array([30.0, 30.0, 16.0, 16.0])
    check_camera(np.stack([centred, centred * [1.04, 1.0, 1.1, 0.9]]), 32)
    with pytest.raises(ValueError, match=words):
        check_camera(np.stack([centred, centred * np.array(change)]), 32)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    for read in (load_export, read_exported_weights):
        with pytest.raises(ExportError, match=f"{name}: not the file"):
            read(copied)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(ExportError, match=f"{name}: No such file.*not a complete export"):
        load_export(copied)


def test_an_altered_manifest_is_seen(copied):
    text = (copied / "manifest.json").read_text()
    (copied / "manifest.json").write_text(text.replace('"gain": 1.0', '"gain": 9.0'))
    with pytest.raises(ExportError, match="altered"):
        load_export(copied)
    (copied / "manifest.json").write_text("{}")
    with pytest.raises(ExportError, match="not an export's manifest: KeyError"):
        load_export(copied)


def test_versions_that_do_not_fit_are_refused(copied):
    libraries = read_manifest(copied)["libraries"]
    rewrite(copied, libraries=libraries | {"torch": "99.1.0"})
    with pytest.raises(ExportError, match=r"torch = '2\..*: allowed is >= 99.1.0"):
        load_export(copied)
    rewrite(copied, libraries=libraries, format=2)
    with pytest.raises(ExportError, match="format = 2: allowed is 1"):
        read_manifest(copied)


def test_weights_come_back_as_they_were(exported, copied):
    found = read_exported_weights(exported.out)
    assert weights_sha256(found) == weights_sha256(exported.weights)
    rewrite(copied, policy_version=exported.manifest["policy_version"] | {"sha256": "0" * 64})
    with pytest.raises(ExportError, match="allowed is the policy version's 000000000000"):
        read_exported_weights(copied)
