"""Starting with the weights of another run or of an export: what is read, what is refused, and what is on record."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
from exported_for_tests import lively_weights
from local_program import local_program, small_config
from mlflow.tracking import MlflowClient
from test_cut_saver import Said

from cluster.cut import Cut
from cluster.driver import train
from cluster.run import Run
from cluster.run_directory import RunDirectory, read_metrics
from cluster.starting_weights import starting_weights
from common.errors import CheckpointError, ConfigError, ExportError
from common.identity import weights_sha256
from common.networks.servo_net import initial_weights
from common.networks.weights import encoder_sha256
from learner.checkpoint import Checkpoints, read_checkpoint
from replay.index import Query

CUTS = {1: (0, 0), 2: (0, 3), 3: (1, 0), 4: (1, 0), 5: (1, 1), 6: (3, 0), 7: (3, 1)}  # number -> phase, round


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run with checkpoints within and between phases, each with weights of its own but 3 and 4; weights by number."""
    config = small_config(tmp_path_factory.mktemp("source") / "run")
    with RunDirectory(config) as directory:
        checkpoints = Checkpoints(directory.path / "checkpoints", 9)
        made = {}
        for number, (phase, round) in CUTS.items():
            made[number] = made[3] if number == 4 else lively_weights(config.network, number)
            arrays = {f"weights/{k}": v for k, v in made[number].items()}
            state = dataclasses.asdict(Cut(phase=phase, round=round, counter=number))
            checkpoints.save(number, arrays, state, pin=True)
    return directory.path, made


def asking(path, init_from, *overrides):
    return dataclasses.replace(small_config(path, *overrides), init_from=str(init_from))


@pytest.mark.parametrize(("suffix", "number"), [("", 7), ("@il", 4), ("@ppo", 6)])
def test_a_run_gives_its_newest_weights_or_those_of_the_end_of_a_phase(source, tmp_path, suffix, number):
    run, weights = source
    start = starting_weights(asking(tmp_path / "new", f"{run}{suffix}"))
    sha = weights_sha256(weights[number])
    assert weights_sha256(start.weights) == sha
    facts = {"source": f"{run}{suffix}", "checkpoint": number, "sha256": sha, "version": f"0.{number}"}
    assert start.facts == facts


def test_an_export_gives_its_weights(exported, tmp_path):
    start = starting_weights(asking(tmp_path / "new", exported.out))
    assert weights_sha256(start.weights) == weights_sha256(exported.weights)
    assert start.facts == {"source": str(exported.out), "sha256": weights_sha256(exported.weights), "version": "2.4"}


def test_without_a_source_there_is_nothing(tmp_path):
    assert starting_weights(small_config(tmp_path)) is None


def test_a_folder_may_have_an_at_in_its_name(source, tmp_path):
    shutil.copytree(source[0], tmp_path / "run@il")
    assert starting_weights(asking(tmp_path / "new", tmp_path / "run@il")).facts["checkpoint"] == 7
    assert starting_weights(asking(tmp_path / "new", tmp_path / "run@il@il")).facts["checkpoint"] == 4


@pytest.mark.parametrize(
    ("suffix", "says"),
    [
        ("@value_warmup", r"finished: \['il', 'ppo'\]"),
        ("@dance", r"one of the run's schedule \['il'"),
        ("x", "RUN@PHASE"),
    ],
)
def test_what_is_not_there_is_refused(source, tmp_path, suffix, says):
    with pytest.raises(ConfigError, match=f"init_from = .*{says}"):
        starting_weights(asking(tmp_path / "new", f"{source[0]}{suffix}"))


def test_an_export_has_no_phases(exported, tmp_path):
    with pytest.raises(ConfigError, match="an export is of no phase"):
        starting_weights(asking(tmp_path / "new", f"{exported.out}@il"))


def test_a_broken_source_is_refused_and_nothing_older_taken(source, exported, tmp_path):
    shutil.copytree(source[0], tmp_path / "run")
    arrays = Checkpoints(tmp_path / "run" / "checkpoints", 9).path(7) / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-4] + b"torn")
    with pytest.raises(CheckpointError, match="00000007"):
        starting_weights(asking(tmp_path / "new", tmp_path / "run"))
    shutil.copytree(exported.out, tmp_path / "policy")
    (tmp_path / "policy" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ExportError, match=r"weights\.safetensors"):
        starting_weights(asking(tmp_path / "new", tmp_path / "policy"))


def test_every_differing_setting_of_the_network_is_named_and_the_directory_stays_free(source, tmp_path):
    config = asking(tmp_path / "new", source[0], "network.policy_hidden=[16]", "network.diffusion_levels=12")
    with pytest.raises(ConfigError) as refused:
        train(config, Said())
    assert "network.diffusion_levels is 10 there and 12 here; network.policy_hidden is [32] there" in str(refused.value)
    assert "feature_dim" not in str(refused.value) and not (tmp_path / "new").exists()


def test_where_pretrained_weights_lie_may_differ(source, tmp_path):
    config = asking(tmp_path / "new", source[0])
    config.network.pretrained = "elsewhere"
    assert starting_weights(config).facts["checkpoint"] == 7


def test_weights_that_do_not_fit_the_network_are_refused(source, tmp_path):
    config = small_config(tmp_path / "other")
    with RunDirectory(config) as directory:
        weights = dict(list(initial_weights(config.network, 0).items())[1:])
        arrays = {f"weights/{k}": v for k, v in weights.items()}
        Checkpoints(directory.path / "checkpoints", 2).save(1, arrays, dataclasses.asdict(Cut()))
    with pytest.raises(CheckpointError, match="do not fit: missing"):
        starting_weights(asking(tmp_path / "new", tmp_path / "other"))


@pytest.fixture(scope="module")
def started(source, tmp_path_factory):
    """A run that begins with PPO; its source is deleted after the first checkpoint, then it is resumed and trained."""
    folder = tmp_path_factory.mktemp("started")
    shutil.copytree(source[0], folder / "source")
    config = asking(folder / "new", f"{folder / 'source'}@il", "schedule=[ppo]")
    config.phases["ppo"].samples = 64
    config.phases["ppo"].evaluate = False
    with local_program(config) as program:
        Run(program, Said()).restore()
    shutil.rmtree(folder / "source")
    # As if it had been killed before the row was written.
    (folder / "new" / "metrics.jsonl").write_bytes(b"")
    with local_program(config) as program:
        run = Run(program, Said())
        run.restore()
        run.run_phase()
        run.close()
        acted = [program.store.read_episode(e) for e in program.store.select(Query(kind="rollout"))]
    return config, acted, run


def test_the_first_checkpoint_holds_the_source_and_says_so(source, started):
    config, _, run = started
    arrays, state = read_checkpoint(Checkpoints(run.program.directory.path / "checkpoints", 2).path(1))
    sha = weights_sha256(source[1][3])
    assert weights_sha256({k.removeprefix("weights/"): v for k, v in arrays.items()}) == sha
    wanted = {"source": config.init_from, "checkpoint": 4, "sha256": sha, "version": "0.4"}
    assert state["init_from"] == wanted == run.cut.init_from


def test_the_source_is_the_first_row_of_metrics_and_in_the_tags(source, started):
    config, _, run = started
    rows = read_metrics(run.program.directory.path / "metrics.jsonl")
    assert [row["phase"] for row in rows] == ["init_from", "ppo"]
    assert rows[0] == {"phase": "init_from", **run.cut.init_from}
    client = MlflowClient(tracking_uri=f"sqlite:///{config.dir}/mlflow.db")
    tags = client.get_run(run.cut.mlflow_run_id).data.tags
    assert tags["init_from.source"] == config.init_from
    assert tags["init_from.sha256"] == weights_sha256(source[1][3])


def test_a_later_phase_acts_and_learns_from_there(source, started):
    _, acted, run = started
    weights = source[1][3]
    # Rollouts carry the encoder that made z: the source's, which PPO leaves alone while the policy learns.
    assert {e.meta.encoder_sha256 for e in acted} == {encoder_sha256(weights)} == {encoder_sha256(run.weights)}
    assert len(acted) == 8 and weights_sha256(run.weights) != weights_sha256(weights)
    assert any(not np.array_equal(run.weights[n], w) for n, w in weights.items() if n.startswith("policy."))


def test_a_resume_may_not_name_another_source(started):
    other = copy.deepcopy(started[0])
    other.init_from = ""
    with pytest.raises(ConfigError, match=r"init_from was '.*source@il', now ''"):
        RunDirectory(other)
    assert json.loads((started[2].program.directory.path / "config.json").read_text())["config"]["init_from"]
