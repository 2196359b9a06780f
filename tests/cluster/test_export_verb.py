"""The verb from the command line to the files, and the files without servofleet."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported_for_tests import STAGES

from actors.collect import collect
from actors.learned_policy import LearnedPolicy
from actors.rasteriser.renderer import WarpRenderer
from actors.tasks import Task
from actors.workshop import Workshop
from cluster.cli import main
from cluster.export_verb import record_frames
from cluster.recorded_run import fixed_sha256
from common.identity import weights_sha256
from common.networks.weights import encoder_sha256

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "run_exported_policy.py"


def test_the_folder_is_whole_and_says_what_it_is(exported):
    found = exported.manifest
    assert {p.name for p in exported.out.iterdir()} == {*found["files"], "manifest.json"}
    assert [p.name for p in exported.out.parent.iterdir()] == ["policy"]
    assert found["run"] == {"experiment": "smoke", "seed": 0, "config_sha256": fixed_sha256(exported.config)}
    assert found["checkpoint"] == 4 and found["phase"] == "value_warmup" and found["evaluation"] == STAGES
    assert found["policy_version"] == {"lineage": 2, "counter": 4, "sha256": weights_sha256(exported.weights)}
    assert found["encoder_sha256"] == encoder_sha256(exported.weights)
    env = exported.config.env
    assert (found["dt"], found["gain"], found["max_twist"], found["image_size"]) == (env.dt, env.gain, 3.0, 32)
    assert found["training_intrinsics"][2:] == [16.0, 16.0] and found["network"]["match_grid"] == 4
    assert found["parity"]["frames"] >= 100 and found["parity"]["command"] <= found["parity"]["tolerance"] == 1e-4


def test_the_frames_are_real_and_the_commands_those_of_the_environment(exported):
    frames, n = exported.frames, len(exported.frames.rgb) // 3
    assert n >= 100 and frames.rgb.shape[1:] == (32, 32, 3)
    spread = frames.rgb.astype(float).std(axis=(1, 2))
    assert np.median(spread) > 10.0 and len(np.unique(frames.rgb[:n].reshape(n, -1), axis=0)) > 0.9 * n
    # As rendered: the training's camera. Then the same pictures through cameras of half and 1.5 times its focal length.
    focal = frames.intrinsics[:, 0] / exported.manifest["training_intrinsics"][0]
    assert [set(focal[i * n : (i + 1) * n].round(9)) for i in range(3)] == [{1.0}, {0.5}, {1.5}]
    metric = frames.twist[:n] * np.concatenate([frames.d_star[:n, None].repeat(3, 1), np.ones((n, 3))], axis=1)
    np.testing.assert_allclose(frames.command[:n], metric, atol=1e-6)
    assert np.abs(frames.command[n:, 3:] - np.tile(frames.command[:n, 3:], (2, 1))).max() > 0.1
    norm = np.linalg.norm(frames.twist, axis=1)
    assert (norm > 2.999).any() and norm.min() < 1.0  # some clamped, most not


def test_recording_twice_gives_the_same_frames(exported):
    again = record_frames(exported.config, exported.weights)
    np.testing.assert_array_equal(again.rgb, exported.frames.rgb)
    np.testing.assert_array_equal(again.command, exported.frames.command)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run={run}"], 2, "out = None: allowed is a folder"),
        (["out={new}"], 2, "run = None"),
        (["run={run}", "out={out}"], 2, "allowed is a folder that does not exist yet"),
        (["run={run}", "out={new}", "chekpoint=3"], 2, "did you mean checkpoint?"),
        (["run={run}", "out={new}", "checkpoint=last"], 2, "checkpoint = 'last': allowed is a whole number >= 0"),
        (["run={run}", "out={new}", "image_size=0"], 2, "image_size = '0': allowed is a whole number >= 1"),
        (["run={run}", "out={new}", "image_size=36"], 2, "image_size: image"),
        (["run={run}", "out={new}", "checkpoint=9"], 1, "checkpoint = 9: allowed is one of [3, 4]"),
        (["run={new}", "out={new}"], 1, "holds no run"),
    ],
)
def test_bad_usage_is_one_clear_line(exported, tmp_path, capsys, arguments, code, words):
    places = {"run": exported.run, "out": exported.out, "new": tmp_path / "new"}
    assert main(["export", *(a.format(**places) for a in arguments)]) == code
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("servofleet: ") and words in said
    assert not (tmp_path / "new").exists()


def test_the_example_needs_torch_alone(exported, tmp_path):
    """Run where none of our packages can be imported; it must say the same as the policy that was trained."""
    from PIL import Image

    frames = exported.frames
    Image.fromarray(frames.rgb[3]).save(tmp_path / "square.png")
    Image.fromarray(frames.goal_rgb[3]).save(tmp_path / "goal.png")
    blocked = ("common", "replay", "actors", "learner", "cluster", "configs")
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    focal = exported.manifest["training_intrinsics"][0]
    arguments = [exported.out, tmp_path / "square.png", tmp_path / "goal.png", focal, frames.d_star[3]]
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE), *map(str, arguments)],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(said["command"], frames.command[3], atol=1e-4)
    assert said["stop"] == bool(np.linalg.norm(frames.twist[3]) < exported.manifest["stop_dt_norm"])


def evaluation(config, policy, weights):
    """The suite's episodes, as a collector does them."""
    renderer, learned = WarpRenderer(max_envs=config.evaluation.scenes), LearnedPolicy(config.network)
    learned.set_weights(weights)
    hashes = dict.fromkeys(("renderer", "assets_sha256", "code_sha256", "config_sha256"), "0")
    shop = Workshop(config, "smoke-s0", renderer, learned, "c0", hashes)
    return list(collect(shop, Task("evaluation", "evaluate", 0, 0, 0, config.evaluation.scenes, policy)))


@pytest.mark.parametrize("focal_scale", [pytest.param(1.0, marks=pytest.mark.slow), 1.5])
def test_evaluated_as_the_learned_policy_is(exported, focal_scale):
    """The same episodes within what single precision adds up to, also with a camera of another focal length."""
    settings = dataclasses.replace(exported.config.evaluation, focal_scale=focal_scale, scenes=2, steps=11)
    config = dataclasses.replace(exported.config, evaluation=settings)
    eager = evaluation(config, "learned", exported.weights)
    ours = evaluation(config, f"export:{exported.out}", exported.weights)
    for a, b in zip(eager, ours, strict=True):
        np.testing.assert_allclose(b.steps["twist_applied"][:3], a.steps["twist_applied"][:3], atol=1e-3)
        np.testing.assert_allclose(b.steps["world_T_cam"][3], a.steps["world_T_cam"][3], atol=1e-3)
    assert np.abs(eager[0].steps["twist_applied"]).max() > 0.01


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.match_grid=5", "env.image_size=40"], "env.image_size = 40: allowed is 32"),
        (["evaluation.control=hybrid"], "evaluation.control = 'hybrid': allowed is 'direct'"),
        (["evaluation.denormalise=false"], "evaluation.denormalise = False: allowed is True"),
    ],
)
def test_what_an_export_does_not_do_is_bad_usage(exported, capsys, overrides, words):
    assert main(["evaluate", "--policy", f"export:{exported.out}", "experiment=smoke", *overrides]) == 2
    assert words in capsys.readouterr().err
