import contextlib

import pytest
from local_program import local_program, small_config, version_of

from cluster import evaluate_verb
from cluster.evaluate_verb import conditions, evaluate_run
from common.config import EvaluationConfig
from common.networks.servo_net import initial_weights
from learner.checkpoint import Checkpoints
from learner.report import METRICS

BASE = {"focal_scale": 1.0, "distance_scale": 1.0, "denormalise": True}
BASE |= {"control": "direct", "control_source": "regression"}


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """`evaluate_run` with a collector of this process in place of the fleet."""
    monkeypatch.setattr(evaluate_verb, "RunDirectory", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(evaluate_verb, "build_program", lambda config, directory: local_program(config))

    weights = initial_weights(small_config(tmp_path).network, 1)
    version = version_of(weights)
    arrays = {f"weights/{name}": array for name, array in weights.items()}
    state = {"lineage": version.lineage, "counter": version.counter}
    Checkpoints(tmp_path / "run" / "checkpoints", 2).save(1, arrays, state)

    def run(*overrides, policy="learned", as_json=True):
        config = small_config(tmp_path / "run", "evaluation.scenes=4", "evaluation.steps=11", *overrides)
        return evaluate_run(config, policy, as_json=as_json)

    return run


def test_conditions_name_what_makes_tables_incomparable_and_no_more():
    assert conditions(EvaluationConfig()) == BASE
    hybrid = conditions(EvaluationConfig(control="hybrid"))
    assert hybrid == BASE | {"control": "hybrid", "hybrid_near": 0.1, "hybrid_far": 0.15}
    diffusion = conditions(EvaluationConfig(control_source="diffusion"))
    assert set(diffusion) - set(BASE) == {"hypotheses", "hypothesis_pick", "ddim_steps"}


def test_the_result_says_under_which_conditions_and_names_another_suite(evaluate):
    first = evaluate(policy="pbvs")
    assert first["conditions"] == BASE and set(first["free"]) == set(METRICS)
    scaled = evaluate("evaluation.focal_scale=1.5", "evaluation.distance_scale=1.5", policy="pbvs")
    assert scaled["conditions"] == BASE | {"focal_scale": 1.5, "distance_scale": 1.5}
    assert scaled["suite_sha256"] != first["suite_sha256"]


def test_the_learned_policy_is_steered_as_asked(evaluate):
    direct = evaluate()
    results = [evaluate(*changes) for changes in (
        ["evaluation.control=hybrid", "evaluation.hybrid_near=1e-6", "evaluation.hybrid_far=1e-6"],
        ["evaluation.control_source=diffusion", "evaluation.hypotheses=4"],
        ["evaluation.focal_scale=1.5"],
        ["evaluation.focal_scale=1.5", "evaluation.denormalise=false"],
    )]  # fmt: skip
    energies = {round(r["free"]["energy"], 9) for r in [direct, *results]}
    assert len(energies) == 5
    assert [r["suite_sha256"] == direct["suite_sha256"] for r in results] == [True, True, False, False]


def test_the_table_says_what_is_not_as_usual(evaluate, capsys):
    evaluate("evaluation.focal_scale=0.5", "evaluation.denormalise=false", policy="pbvs", as_json=False)
    assert "smoke (focal_scale=0.5, denormalise=False), seed 0" in capsys.readouterr().out
    evaluate(policy="pbvs", as_json=False)
    assert "smoke, seed 0" in capsys.readouterr().out
