import json
import multiprocessing
import os

import pytest

from cluster.run_directory import MetricsLog, RunDirectory, read_metrics
from common.config import PhaseConfig, RunConfig
from common.errors import CheckpointError, ConfigError, ServofleetError


def make(path, **changes):
    config = RunConfig(experiment="unit", dir=str(path), phases={"il": PhaseConfig(train=["encoder"], samples=10)})
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def test_a_new_directory_records_what_it_was_started_with(tmp_path):
    with RunDirectory(make(tmp_path / "run")) as directory:
        assert directory.is_new and directory.attempt == 0 and directory.run_id == "unit-s0"
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["seed"] == 0 and record["versions"]["torch"].startswith("2.")


def test_opening_again_counts_attempts(tmp_path):
    for attempt in range(3):
        with RunDirectory(make(tmp_path)) as directory:
            assert directory.attempt == attempt and directory.is_new == (attempt == 0)


def test_another_network_is_refused_by_name(tmp_path):
    with RunDirectory(make(tmp_path)):
        pass
    config = make(tmp_path)
    config.network.feature_dim = 128
    with pytest.raises(ConfigError, match=r"network\.feature_dim was 256, now 128"):
        RunDirectory(config)


def test_more_collectors_are_allowed(tmp_path):
    with RunDirectory(make(tmp_path)):
        pass
    config = make(tmp_path)
    config.fleet.collectors = 7
    with RunDirectory(config) as directory:
        assert not directory.is_new


def test_the_config_hash_covers_what_decides_the_data_and_nothing_else(tmp_path):
    hashes = []
    for i, change in enumerate([{}, {"learner_threads": 2}, {"seed": 1}]):
        with RunDirectory(make(tmp_path / str(i), **change)) as directory:
            hashes.append(directory.config_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_refused_change_leaves_the_record_and_the_lock(tmp_path):
    with RunDirectory(make(tmp_path)):
        pass
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError):
        RunDirectory(make(tmp_path, seed=5))
    assert (tmp_path / "config.json").read_bytes() == before
    with RunDirectory(make(tmp_path)):
        pass


def test_only_one_process_trains_in_a_directory(tmp_path):
    with RunDirectory(make(tmp_path)):
        answers = multiprocessing.get_context("fork").Queue()

        def second():
            try:
                RunDirectory(make(tmp_path))
                answers.put("opened")
            except ServofleetError as e:
                answers.put(str(e))

        process = multiprocessing.get_context("fork").Process(target=second)
        process.start()
        assert "another process is training here" in answers.get(timeout=20)
        process.join()


def test_a_torn_record_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"run_id": ')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        RunDirectory(make(tmp_path))


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ServofleetError, match="cannot be written"):
        RunDirectory(make(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_disk_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ServofleetError, match="cannot be written"):
        RunDirectory(make(tmp_path / "run"))


def test_metrics_are_cut_back(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"round": 1})
    position = log.position
    log.append({"round": 2})
    log.truncate(position)
    log.append({"round": 3})
    log.close()
    assert [r["round"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 3]


def test_metrics_shorter_than_the_cut_are_an_error(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(CheckpointError, match="its checkpoint says 10"):
        log.truncate(10)
