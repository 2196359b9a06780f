from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config_loading import known_keys, load_config
from common.config import PhaseConfig, RunConfig, check, flatten
from common.errors import ConfigError

PHASES = ["il", "value_warmup", "ppo", "sil", "ppo_smooth"]


def refusal(*overrides: str, config_dir: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides), config_dir)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("experiment", ["quickstart", "smoke"])
def test_experiments_give_plain_checked_dataclasses(experiment: str) -> None:
    config = load_config([f"experiment={experiment}", "seed=3"])
    assert type(config) is RunConfig
    assert all(type(phase) is PhaseConfig for phase in config.phases.values())
    assert type(config.network.widths) is list and type(config.scenes.rl_mix) is dict
    assert (config.experiment, config.seed, config.dir) == (experiment, 3, f"runs/{experiment}-3")
    assert config.schedule == PHASES == list(config.phases)
    check(config)


def test_the_default_is_the_quick_start() -> None:
    assert flatten(load_config([])) == flatten(load_config(["experiment=quickstart"]))


def test_schedule_freezes_the_encoder_after_stage_one() -> None:
    phases = load_config([]).phases
    assert [phases[name].kind for name in PHASES] == ["imitation", "value_warmup", "ppo", "self_imitation", "ppo"]
    assert "encoder" in phases["il"].train
    assert not any("encoder" in phases[name].train for name in PHASES[1:])
    assert phases["ppo_smooth"].reward.action > phases["ppo"].reward.action
    assert phases["ppo_smooth"].ppo.lr < phases["ppo"].ppo.lr
    assert phases["ppo_smooth"].ppo.std < phases["ppo"].ppo.std


def test_smoke_overrides_reach_every_phase_of_the_same_kind() -> None:
    phases = load_config(["experiment=smoke"]).phases
    assert {phases[name].ppo.envs for name in ("value_warmup", "ppo", "ppo_smooth")} == {8}
    assert phases["ppo_smooth"].ppo.minibatch == phases["ppo"].ppo.minibatch == 32


def test_overrides_have_the_last_word() -> None:
    config = load_config(["phases.il.imitation.lr=0.5", "network.widths=[8,8,8]", "dir='a=b c'", "phases.il.samples=7"])
    assert config.phases["il"].imitation.lr == 0.5
    assert config.network.widths == [8, 8, 8]
    assert (config.dir, config.phases["il"].samples) == ("a=b c", 7)
    assert load_config(["seed=1", "seed=2"]).seed == 2


def test_a_new_entry_of_a_table_needs_a_plus() -> None:
    assert load_config(["+scenes.rl_mix.asym_same=0.25"]).scenes.rl_mix["asym_same"] == 0.25
    assert "scenes.rl_mix.asym_same: no such setting" in refusal("scenes.rl_mix.asym_same=0.25")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sed=3", ["sed: no such setting", "did you mean seed?"]),
        ("network.widht=3", ["network.widht: no such setting", "network.widths"]),
        ("fov_deg=40", ["fov_deg: no such setting", "env.fov_deg"]),
        ("phases.il.samplse=3", ["phases.il.samplse", "phases.il.samples"]),
        ("phases.il2.samples=3", ["phase = 'il2'", "'sil'"]),
        ("+sed=3", ["sed: no such setting"]),
        ("experiment=quikstart", ["experiment = 'quikstart'", "'smoke'", "did you mean quickstart?"]),
        ("seed=x", ["seed", "'x'", "Integer"]),
        ("seed=1.5", ["seed", "1.5", "Integer"]),
        ("fleet.collectors=null", ["fleet.collectors", "not Optional"]),
        ("network=3", ["network", "NetworkConfig"]),
        ("phases.il.train=encoder", ["phases.il.train", "list"]),
        ("dir=${nope}", ["dir", "'nope'"]),
        ("seed", ["override = 'seed'", "key=value"]),
        ("seed=1,2", ["seed=1,2", "[a,b]"]),
        ("seed=-1", ["seed = -1", ">= 0"]),
        ("env.image_size=40", ["env.image_size = 40", "network.match_grid"]),
        ("phases.ppo.ppo.gamma=2", ["phases.ppo.ppo.gamma = 2.0", "0..1"]),
        ("schedule=[il,pop]", ["schedule = 'pop'", "'ppo'"]),
        ("~phases.il", ["schedule = 'il'"]),
    ],
)
def test_refusals_name_the_key_and_what_is_allowed(override: str, parts: list[str]) -> None:
    message = refusal(override)
    assert all(part in message for part in parts), message


def write_experiment(folder: Path, name: str, body: str) -> Path:
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nexperiment: {name}\n{body}")
    return folder


def test_experiments_of_ones_own(tmp_path: Path) -> None:
    body = "schedule: [only]\nphases:\n  only: {kind: imitation, train: [encoder], samples: 9}\n"
    config = load_config(["experiment=mine", "phases.only.samples=10"], write_experiment(tmp_path, "mine", body))
    assert list(config.phases) == ["only"]
    assert (config.phases["only"].samples, config.dir) == (10, "runs/mine-0")
    assert load_config(["experiment=smoke"], tmp_path).experiment == "smoke"
    assert "'mine', 'quickstart', 'smoke'" in refusal("experiment=mien", config_dir=tmp_path)
    assert "'mine'" not in refusal("experiment=mien")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("env:\n  imge_size: 3\n", ["experiment/bad.yaml", "env.imge_size: no such setting", "env.image_size"]),
        ("phases:\n  il:\n    sampls: 3\n", ["phases.il.sampls", "did you mean phases.il.samples"]),
        ("seed: abc\n", ["experiment/bad.yaml", "seed", "'abc'"]),
        ("  x: [\n", ["bad.yaml", "line 3"]),
    ],
)
def test_mistakes_in_yaml_are_named_too(tmp_path: Path, body: str, parts: list[str]) -> None:
    message = refusal("experiment=bad", config_dir=write_experiment(tmp_path, "bad", body))
    assert all(part in message for part in parts), message


def test_config_dir_must_hold_experiments(tmp_path: Path) -> None:
    assert "config_dir" in refusal(config_dir=tmp_path)


def test_known_keys_hold_leaves_nodes_and_table_entries() -> None:
    keys = known_keys(load_config([]))
    assert {"seed", "env", "env.dt", "phases.sil.self_imitation.lr", "scenes.rl_mix", "scenes.rl_mix.sym_diff"} <= {
        *keys
    }


def test_loads_from_any_directory_without_the_heavy_libraries(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; from cluster.config_loading import load_config; print(load_config([]).experiment);"
        "print([m for m in ('torch', 'ray', 'mlflow', 'warp', 'zarr') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["quickstart", "[]"]
