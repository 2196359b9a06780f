import json
import shutil

import pytest

from cluster.recorded_run import fixed_sha256, read_config, read_weights
from cluster.run_directory import RunDirectory
from common.config import flatten
from common.errors import CheckpointError, ConfigError
from common.identity import weights_sha256


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded.run, tmp_path / "run")


def test_the_configuration_comes_back_whole(recorded):
    found = read_config(recorded.run)
    assert flatten(found) == flatten(recorded.config)
    assert type(found.phases["ppo"]) is type(recorded.config.phases["ppo"])
    with RunDirectory(recorded.config) as directory:
        assert fixed_sha256(found) == directory.config_sha256


def rewrite(run, change):
    record = json.loads((run / "config.json").read_text())
    change(record)
    (run / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda r: r.update(format=9), CheckpointError, "format = 9: allowed is 1"),
        (lambda r: r.pop("config"), CheckpointError, "not a run's record: KeyError"),
        (lambda r: r["config"].update({"network.colour": 3}), CheckpointError, "colour"),
        (lambda r: r["config"].update({"env.dt": "soon"}), CheckpointError, "soon"),
        (lambda r: r["config"].update({"env.dt": -1.0}), ConfigError, "env.dt = -1.0: allowed is > 0"),
    ],
)
def test_a_record_that_is_none_says_why(run, change, error, words):
    rewrite(run, change)
    with pytest.raises(error, match=words):
        read_config(run)


def test_a_setting_younger_than_the_run_has_its_default(run, recorded):
    rewrite(run, lambda r: r["config"].pop("env.min_height"))
    assert read_config(run).env.min_height == recorded.config.env.min_height


def test_no_run_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        read_weights(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_weights_or_those_asked_for(recorded):
    number, weights, version, state = read_weights(recorded.run, 2)
    assert number == 4 and version.counter == 4 and version.lineage == 2 and state["phase"] == 1
    assert version.sha256 == weights_sha256(weights) == weights_sha256(recorded.weights)
    older = read_weights(recorded.run, 2, 3)
    assert older[0] == 3 and older[2].sha256 != version.sha256
    with pytest.raises(CheckpointError, match=r"checkpoint = 5: allowed is one of \[3, 4\]"):
        read_weights(recorded.run, 2, 5)


def test_a_broken_newest_checkpoint_is_not_replaced_by_an_older_one(run):
    path = run / "checkpoints" / "00000004" / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="do not hash"):
        read_weights(run, 2)
    assert read_weights(run, 2, 3)[0] == 3
