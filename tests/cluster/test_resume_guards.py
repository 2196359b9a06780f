"""What a start refuses, what it says, and what it lets pass: settings, versions, lost records, lost checkpoints."""

import copy
import dataclasses
import json
import shutil

import pytest
from local_program import local_program, small_config, with_record
from test_cut_saver import Said

import cluster.cut
from cluster.cut import Cut, cut_of, other_versions
from cluster.run import Run
from cluster.run_directory import RunDirectory
from cluster.versions import CODE, PACKAGES, source_sha256, version_changes, versions
from common.config import PhaseConfig, RunConfig, changed_fixed, changed_free, flatten
from common.errors import CheckpointError, ConfigError


def config(path="runs/unit", **changes):
    made = RunConfig(experiment="unit", dir=str(path), phases={"il": PhaseConfig(train=["encoder"], samples=10)})
    return dataclasses.replace(made, **changes)


def rewrite(path, change):
    record = json.loads((path / "config.json").read_text())
    change(record)
    (path / "config.json").write_text(json.dumps(record))


def forget(name):
    return lambda record: record["config"].pop(name)


@pytest.mark.parametrize("name", ["evaluation.control", "phases.il.imitation.lr", "network.widths", "scenes.rl_mix"])
def test_a_setting_younger_than_the_run_is_no_change_at_its_default(name):
    old = flatten(config())
    del old[name]
    assert changed_fixed(old, config()) == [] == changed_free(old, config())


def test_a_setting_younger_than_the_run_is_a_change_at_any_other_value(tmp_path):
    with RunDirectory(config(tmp_path)):
        pass
    rewrite(tmp_path, forget("env.gain"))
    other = copy.deepcopy(config(tmp_path))
    other.env.gain = 2.0
    with pytest.raises(ConfigError, match=r"env\.gain was None, now 2\.0"):
        RunDirectory(other)
    with RunDirectory(config(tmp_path)) as directory:
        assert directory.changes == []


def test_a_setting_that_is_no_more_is_no_change():
    assert changed_fixed(flatten(config()) | {"phases.il.imitation.gone": 3, "env.gone": 1}, config()) == []


def test_every_refused_setting_is_named_and_so_is_what_would_be_allowed(tmp_path):
    with RunDirectory(config(tmp_path)):
        pass
    other = config(tmp_path, seed=3)
    for i, name in enumerate(dataclasses.fields(other.env)):
        setattr(other.env, name.name, 100 + i)
    other.fleet.collectors = 9
    with pytest.raises(ConfigError) as refused:
        RunDirectory(other)
    text = str(refused.value)
    assert all(f"env.{f.name} was" in text for f in dataclasses.fields(other.env)) and "seed was 0, now 3" in text
    assert "(allowed: fleet.collectors was 2, now 9)" in text


def test_an_allowed_change_is_told(tmp_path):
    with RunDirectory(config(tmp_path)):
        pass
    other = config(tmp_path)
    other.fleet.collectors = 9
    with RunDirectory(other) as directory:
        assert directory.changes == ["fleet.collectors was 2, now 9"]


@pytest.mark.parametrize("left", ["checkpoints", "metrics.jsonl"])
def test_a_run_without_its_record_is_not_begun_anew(tmp_path, left):
    with RunDirectory(config(tmp_path)):
        pass
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    if left == "checkpoints":
        (tmp_path / left / "00000001").mkdir()
    else:
        (tmp_path / left).write_text("{}\n")
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"config.json is gone, but {left}"):
        RunDirectory(config(tmp_path))
    assert not (tmp_path / "config.json").exists()


def test_emptied_checkpoints_are_refused_where_metrics_are_and_nothing_is_cut_off(tmp_path):
    settings = small_config(with_record(tmp_path / "run"))
    with local_program(settings) as program:
        run = Run(program, Said())
        run.restore()
        run.log({"phase": "il", "round": 1})
        run.save()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with local_program(settings) as program, pytest.raises(CheckpointError, match="put them back, or train with"):
        Run(program, Said()).restore()
    assert before and (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    settings = small_config(with_record(tmp_path / "run"))
    with local_program(settings):
        pass
    with local_program(settings) as program:
        Run(program, Said()).restore()
        assert program.checkpoints.numbers() == [1]


def test_a_resume_says_what_it_changes_and_what_it_runs_with_now(tmp_path, monkeypatch):
    settings = small_config(with_record(tmp_path / "run"))
    with local_program(settings) as program:
        run = Run(program, Said())
        run.restore()
        run.cut.learner_restarts = 2
        run.save()
        _, _, state, _ = program.checkpoints.latest()
    assert state["config"] == json.loads(json.dumps(flatten(settings))) and state["versions"] == versions()
    settings.fleet.collectors = 5
    with local_program(settings) as program:
        run = Run(program, Said())
        run.restore()
        assert "setting fleet.collectors was 2, now 5 (allowed)" in run.display.lines
        assert not any("warning" in line for line in run.display.lines) and run.cut.learner_restarts == 2
    monkeypatch.setattr(cluster.cut, "versions", lambda: versions() | {CODE: "9.9.9+fff", "torch": "3.0"})
    with local_program(settings) as program:
        run = Run(program, Said())
        run.restore()
        warnings = [line for line in run.display.lines if line.startswith("warning: ")]
        assert [w.split(":")[1].strip() for w in warnings] == [
            f"{CODE} was {versions()[CODE]}, now 9.9.9+fff",
            f"torch was {versions()['torch']}, now 3.0",
        ]


def test_other_versions_are_named_with_both():
    assert other_versions(Cut(versions=versions())) == other_versions(Cut()) == []
    (line,) = other_versions(Cut(versions=versions() | {"torch": "1.0"}))
    assert line.startswith(f"torch was 1.0, now {versions()['torch']}")
    (code,) = other_versions(Cut(versions={CODE: "0.0.1+abc"}))
    assert code.startswith(f"{CODE} was 0.0.1+abc, now {versions()[CODE]}")
    assert version_changes({"gone": "1"}, {}) == [
        "gone was 1, now not there: what follows may differ from a run that kept it"
    ]


def test_the_code_is_hashed_by_names_and_bytes(tmp_path):
    for package in PACKAGES:
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "part" / "a.py").write_text("x = 1")
    seen = [source_sha256(tmp_path)]
    (tmp_path / "actors" / "part" / "notes.txt").write_text("not code")
    assert source_sha256(tmp_path) == seen[0]
    (tmp_path / "replay" / "part" / "a.py").write_text("x = 2")
    seen.append(source_sha256(tmp_path))
    (tmp_path / "replay" / "part" / "a.py").rename(tmp_path / "replay" / "part" / "b.py")
    seen.append(source_sha256(tmp_path))
    assert len(set(seen)) == 3


def test_a_cut_of_a_newer_servofleet_is_refused():
    with pytest.raises(CheckpointError, match=r"holds \['moon'\]: a newer servofleet wrote it"):
        cut_of({"phase": 1, "moon": 2})


@pytest.mark.parametrize(("name", "value"), [("phase", "1"), ("phase", 1.5), ("stages", []), ("pending", None)])
def test_a_cut_with_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(CheckpointError, match=rf"state\.{name} = "):
        cut_of({name: value})


def test_a_cut_comes_back_through_json():
    cut = Cut(phase=2, wall_s=3, stages={"zero": {"free": {}}}, versions={"torch": "2"})
    assert cut_of(json.loads(json.dumps(dataclasses.asdict(cut)))) == cut
