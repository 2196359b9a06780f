"""`cluster.report` on a tiny run: real evaluations in a real store, real pictures, a real MLflow record."""

import dataclasses
import json

import numpy as np
import pytest
from local_program import local_program, small_config, version_of
from mlflow.tracking import MlflowClient
from PIL import Image

from actors.tasks import split
from cluster.evaluation import evaluate_stage
from cluster.film import make_film
from cluster.report import spread, stage_episodes, write_final_report
from common.networks.servo_net import initial_weights
from learner.report import METRICS, check_report

STAGES = ("zero", "nearest_goal", "il")


class Recorder:
    """In place of MLflow, where what it is told is not the question."""

    def __init__(self):
        self.artifacts = []

    def table(self, rows, name):
        self.rows = rows

    def artifact(self, path, folder=None):
        self.artifacts.append(path.name)


def evaluate(program, stages, lineage=0, seed=1):
    weights = initial_weights(program.config.network, seed)
    results = {}
    for stage in stages:
        learned = (weights, version_of(weights, lineage)) if stage == "il" else (None, None)
        results[stage] = evaluate_stage(program, stage, "learned" if learned[0] else stage, *learned, lineage)
    return results


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_config(tmp_path_factory.mktemp("report") / "run", "evaluation.film_scenes=2")


@pytest.fixture(scope="module")
def whole(config):
    """Program, stages and report of a run that ended."""
    with local_program(config) as program:
        stages = evaluate(program, STAGES)
        for number in range(4):
            program.metrics.append({"phase": "il", "round": number, "samples": 16, "loss_dir": 0.5**number})
        yield program, stages, write_final_report(program, stages, 12.34)


@pytest.fixture
def films(config, whole):
    program = whole[0]
    return {stage: stage_episodes(program, stage) for stage in STAGES}


def test_the_report_is_on_the_disk_and_in_the_promised_shape(config, whole):
    program, stages, report = whole
    assert json.loads((program.directory.path / "report.json").read_text()) == report
    check_report(report)
    assert (report["experiment"], report["seed"], report["wall_s"]) == ("smoke", 0, 12.3)
    assert report["suite_sha256"] == program.suite.sha256
    # In the order of the tables, whatever the order of the evaluations.
    assert list(report["stages"]) == ["zero", "il", "nearest_goal"]
    for stage in STAGES:
        assert report["stages"][stage] == stages[stage] and set(stages[stage]["free"]) == set(METRICS)


def test_the_numbers_are_those_of_the_stored_episodes(config, whole, films):
    report = whole[2]
    for stage, episodes in films.items():
        assert [e.meta.id.env for e in episodes] == list(range(config.evaluation.scenes))
        assert {e.meta.phase for e in episodes} == {stage}
        final = np.mean([e.steps["iou"][-1] for e in episodes])
        assert report["stages"][stage]["free"]["iou"] == pytest.approx(final, abs=1e-6)
    assert report["stages"]["zero"]["free"]["energy"] == 0.0
    assert report["stages"]["zero"]["stopped"]["stopped_pct"] == 100.0
    assert report["stages"]["nearest_goal"]["free"]["iou"] > report["stages"]["zero"]["free"]["iou"] + 0.1


def test_every_picture_is_there_and_can_be_opened(whole):
    folder = whole[0].directory.path / "report"
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["episodes.png", "scene_000.gif", "scene_000.png", "scene_005.gif", "scene_005.png", "training.png"]
    for name in names:
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 100
            assert len(np.unique(np.asarray(image.convert("L")))) > 8, f"{name} shows nothing"
            if name.endswith("gif"):
                assert image.n_frames > 5


def test_mlflow_holds_the_report_and_the_table(config, whole):
    program = whole[0]
    client = MlflowClient(tracking_uri=f"sqlite:///{program.directory.path.resolve()}/mlflow.db")
    run = program.tracker.run_id
    assert {a.path for a in client.list_artifacts(run)} == {"report", "report.json", "evaluation.json"}
    assert "report/scene_000.png" in {a.path for a in client.list_artifacts(run, "report")}
    table = json.loads((program.directory.path / "mlruns" / run / "artifacts" / "evaluation.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(r["stage"], r["column"]) for r in rows] == [
        (s, c) for s in ("zero", "il", "nearest_goal") for c in ("free", "stopped")
    ]
    assert client.get_run(run).data.params["experiment"] == "smoke"


def test_the_episodes_of_the_newest_branch_count(tmp_path):
    with local_program(small_config(tmp_path / "run")) as program:
        first, second = (evaluate(program, ["il"], lineage, seed=lineage)["il"] for lineage in (0, 1))
        found = stage_episodes(program, "il")
        assert len(found) == program.config.evaluation.scenes
        assert {e.meta.id.lineage for e in found} == {1}
        assert first["free"]["energy"] != second["free"]["energy"]
        final = np.mean([e.steps["iou"][-1] for e in found])
        assert second["free"]["iou"] == pytest.approx(final, abs=1e-6)


@pytest.mark.parametrize("stages", [(), ("zero",)])
def test_a_run_without_learned_stages_has_a_report_too(tmp_path, stages):
    with local_program(small_config(tmp_path / "run")) as program:
        program._tracker = Recorder()
        report = write_final_report(program, evaluate(program, stages), 1.0)
        assert list(report["stages"]) == list(stages)
        assert (tmp_path / "run" / "report.json").exists()
        assert "report.json" in program.tracker.artifacts


def test_the_report_is_written_last(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("cluster.report.plot_episodes", broken)
    with local_program(small_config(tmp_path / "run")) as program:
        program._tracker = Recorder()
        with pytest.raises(OSError, match="no space left"):
            write_final_report(program, evaluate(program, ["zero"]), 1.0)
    # Its presence would mark the run as finished.
    assert not (tmp_path / "run" / "report.json").exists()


def test_scenes_shown_are_spread_over_both_kinds():
    assert spread(4, 200) == [0, 51, 100, 151]
    assert spread(0, 200) == [] and spread(1, 1) == [0]
    for count in range(1, 12):
        for total in range(1, 30):
            found = spread(count, total)
            assert found == sorted(set(found)) and set(found) <= set(range(total)) and len(found) <= count
    assert {i % 2 for i in spread(2, 8)} == {0, 1}


def test_a_film_shows_what_the_camera_saw(config, whole, films):
    program, env = whole[0], 2  # of even scenes the desired image looks different
    one = {stage: found[env] for stage, found in films.items()}
    film = make_film(config, program.suite, env, one, count=5, size=64)
    start = program.suite.starts[env]
    assert start.goal_scene != start.scene
    steps = config.evaluation.steps
    assert film.steps == [0, steps // 4, steps // 2, 3 * steps // 4, steps] and film.stages == list(one)
    assert film.frames.shape == (3, 5, 64, 64, 3) and film.goal.shape == (64, 64, 3)
    # All start alike, zero stands still, and the oracle ends near the desired view of the same look.
    assert np.array_equal(film.frames[0, 0], film.frames[1, 0]) and np.array_equal(film.frames[0, 0], film.frames[2, 0])
    assert np.array_equal(film.frames[0, 0], film.frames[0, -1])
    same_look = dataclasses.replace(start, scene=start.goal_scene)
    suite = dataclasses.replace(program.suite, starts=(*program.suite.starts[:env], same_look))
    relit = make_film(config, suite, env, one, count=5, size=64).frames[1].astype(float)
    distance = np.abs(relit - film.goal).mean(axis=(1, 2, 3))
    assert distance[-1] < 0.6 * distance[0]
    assert not np.array_equal(relit[0], film.frames[1, 0])


def test_evaluation_can_be_of_a_part_of_the_suite(tmp_path):
    with local_program(small_config(tmp_path / "run")) as program:
        tasks = split("evaluation", 3, 2, phase="il_quick", lineage=0, round=5, policy="pbvs")
        ticks = []
        result = evaluate_stage(program, "il_quick", "pbvs", None, None, 0, lambda: ticks.append(1), tasks)
        assert ticks and 0.0 < result["free"]["iou"] <= 1.0
        assert [e.meta.id.env for e in stage_episodes(program, "il_quick")] == [0, 1, 2]
        assert stage_episodes(program, "il") == []
