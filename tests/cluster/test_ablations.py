"""The papers' ablations as named configurations: each changes what it says, and trains."""

import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from local_program import local_program, small_config

from cluster.config_loading import load_config
from cluster.console import Display
from cluster.run import Run
from common.config import flatten
from common.errors import ConfigError
from common.networks.servo_net import initial_weights, restarted_weights
from learner.checkpoint import Checkpoints

NAMES = sorted(p.stem for p in Path(str(resources.files("configs"))).glob("ablation/*.yaml"))
CHANGES = {
    "explicit_matches": {"network.matching": "explicit"},
    "hybrid": {"evaluation.control": "hybrid"},
    "no_center_penalty": {f"phases.{p}.reward.center": 0.0 for p in ("value_warmup", "ppo", "ppo_smooth")},
    "no_denormalisation": {"evaluation.denormalise": False},
    "no_diffusion": {"network.diffusion": False, "phases.il.train": ["encoder", "policy"]},
    "no_mlp_pretraining": {"phases.value_warmup.restart": ["policy"]},
    "raw_scores": {"network.matching": "raw_score"},
    "rl_from_scratch": {"schedule": ["value_warmup", "ppo"]},
}
QUICK = ["evaluation.scenes=2", "evaluation.steps=11", "evaluation.baselines=[]", "phases.il.samples=64"]
QUICK += ["evaluation.film_scenes=0", "phases.ppo.samples=64", "schedule=[il,value_warmup,ppo]"]


@pytest.fixture(scope="module")
def plain():
    return flatten(load_config([]))


@pytest.mark.parametrize("name", NAMES)
def test_each_changes_what_it_says_and_nothing_else(plain, name):
    changed = flatten(load_config([f"ablation={name}"]))
    assert {k: v for k, v in changed.items() if plain[k] != v} == CHANGES[name]


def test_several_can_be_taken_together_and_single_settings_win():
    c = load_config(["ablation=[hybrid,no_diffusion]", "evaluation.control=direct"])
    assert not c.network.diffusion and c.evaluation.control == "direct"


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"ablation = 'no_difusion': allowed is \['explicit_matches', .*did you mean"):
        load_config(["ablation=[hybrid,no_difusion]"])


def test_the_page_lists_every_ablation_and_its_commands_are_right(plain):
    page = (Path(__file__).parents[2] / "docs" / "ablations.md").read_text()
    rows = re.findall(r"`servofleet (?:train|evaluate) ([^`]*)` \|", page)
    settings = [tuple(word.split("=")) for row in rows for word in row.split()]
    assert len(rows) == 9
    assert {value for key, value in settings if key == "ablation"} == set(NAMES)
    assert {key for key, _ in settings} - {"ablation"} <= set(plain)


def test_restarted_parameters_are_the_initial_ones_and_the_others_stay():
    config = load_config(["experiment=smoke"])
    learned = {name: array + 1.0 for name, array in initial_weights(config.network, 3).items()}
    fresh = restarted_weights(config.network, 3, learned, ["policy"])
    for name, array in fresh.items():
        shift = 0.0 if name.startswith("policy") else 1.0
        np.testing.assert_allclose(array, initial_weights(config.network, 3)[name] + shift)
    assert restarted_weights(config.network, 3, learned, []) is learned
    with pytest.raises(ConfigError, match="restart = 'polcy': allowed is a prefix"):
        restarted_weights(config.network, 3, learned, ["polcy"])


def test_a_phase_restarts_parameters_when_it_is_entered_and_not_when_it_is_resumed(tmp_path):
    config = small_config(tmp_path / "run", "ablation=no_mlp_pretraining")
    fresh = initial_weights(config.network, config.seed)
    with local_program(config) as program:
        for learned_rounds, restarts in ((0, True), (1, False)):
            run = Run(program, Display())
            run.cut.phase, run.cut.round = config.schedule.index("value_warmup"), learned_rounds
            run.weights = {name: array + np.float32(0.5) for name, array in fresh.items()}
            run._enter_phase()
            for name in ("policy.mlp.0.weight", "encoder.flat.weight"):
                same = restarts and name.startswith("policy")
                np.testing.assert_array_equal(run.weights[name], fresh[name] + np.float32(0.0 if same else 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_trains(tmp_path, name):
    quick = [q for q in QUICK if not (name == "rl_from_scratch" and q.startswith("schedule="))]
    command = [str(Path(sys.executable).parent / "servofleet"), "train", "experiment=smoke", f"ablation={name}", *quick]
    done = subprocess.run([*command, f"dir={tmp_path}/run", "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    assert set(stages) == ({"ppo"} if name == "rl_from_scratch" else {"il", "ppo"})
    _, arrays, _, _ = Checkpoints(tmp_path / "run" / "checkpoints", 2).latest()
    assert all(np.isfinite(array).all() for key, array in arrays.items() if key.startswith("weights/"))
