"""The command line itself: usage, exit codes and what goes to which stream. Whole runs are in `tests/e2e`."""

import json
import signal
import subprocess
import sys

import pytest

from cluster.cli import main
from cluster.draining import Drained
from common.errors import CheckpointError, ConfigError
from replay.store import open_store

VERBS = ("train", "evaluate", "render", "replay", "bench", "status", "doctor")


@pytest.fixture(autouse=True)
def handlers():
    """`train` takes over SIGTERM; other tests want their own again."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def trained(monkeypatch):
    """Records what `train` was asked for instead of training."""
    asked = []

    def record(config, display, draining):
        asked.append(config)
        return {"experiment": config.experiment, "stages": {}}

    monkeypatch.setattr("cluster.driver.train", record)
    return asked


def failing(error):
    def run(*args, **kwargs):
        raise error

    return run


def usage(capsys, *arguments):
    """Exit code, stdout and stderr of a call that argparse ends."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_help_shows_every_verb_and_examples(capsys):
    code, out, _ = usage(capsys, "--help")
    assert code == 0 and "examples:" in out
    assert all(verb in out for verb in VERBS)
    assert out.count("  servofleet ") >= 5


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(capsys, verb):
    code, out, _ = usage(capsys, verb, "--help")
    assert code == 0 and out.startswith(f"usage: servofleet {verb}") and "--json" in out
    assert ("name=value" in out) == (verb not in ("replay", "status"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "'trian'"),
        ([], "VERB"),
        (["train", "--seed", "1"], "--seed"),
        (["replay", "drop", "somewhere"], "'drop'"),
        (["replay", "info"], "STORE"),
        (["bench", "everything"], "'everything'"),
    ],
)
def test_bad_usage_is_exit_code_2_on_stderr(capsys, arguments, message):
    code, out, err = usage(capsys, *arguments)
    assert code == 2 and out == "" and message in err


def test_the_examples_of_the_help_can_be_parsed(capsys):
    from cluster.cli import _EXAMPLES, _parser

    examples = [line.split("  ")[1].split()[1:] for line in _EXAMPLES.splitlines() if line.startswith("  servofleet")]
    assert len(examples) >= 6
    for example in examples:
        assert _parser().parse_args(example).verb == example[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "experiment=smoke", "--json"],
        ["train", "--json", "experiment=smoke"],
        ["bench", "pipeline", "experiment=smoke", "--json"],
        ["bench", "--repeats", "1", "pipeline", "experiment=smoke", "--json"],
        ["evaluate", "experiment=smoke", "--policy", "pbvs", "--json"],
        ["evaluate", "--json", "--policy", "pbvs", "experiment=smoke"],
    ],
)
def test_overrides_may_stand_before_or_behind_options(arguments):
    from cluster.cli import _parser

    parsed = _parser().parse_args(arguments)
    assert parsed.overrides == ["experiment=smoke"] and parsed.json


def test_overrides_may_stand_on_both_sides_of_an_option(capsys):
    from cluster.cli import parse

    assert parse(["bench", "pipeline", "a=1", "--repeats", "1", "b=2"]).overrides == ["a=1", "b=2"]
    assert parse(["render", "out.png", "--count", "3", "b=2"]).overrides == ["out.png", "b=2"]
    for wrong in (["train", "a=1", "--json", "--sed", "b=2"], ["replay", "info", "here", "there"]):
        code, _, err = usage(capsys, *wrong)
        assert code == 2 and f"unrecognized arguments: {' '.join(wrong[3:])}" in err


def test_training_takes_overrides_and_says_nothing_on_stdout(capsys, trained, tmp_path):
    assert main(["train", "experiment=smoke", "seed=7", f"dir={tmp_path}"]) == 0
    assert (trained[0].experiment, trained[0].seed, trained[0].dir) == ("smoke", 7, str(tmp_path))
    assert capsys.readouterr().out == ""


def test_json_is_all_there_is_on_stdout(capsys, trained):
    assert main(["train", "experiment=smoke", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"experiment": "smoke", "stages": {}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_termination_request_ends_training_with_a_code_of_its_own(capsys, monkeypatch, number):
    def asked(config, display, draining):
        signal.raise_signal(number)
        draining.reached()
        raise Drained(draining.verdict)

    monkeypatch.setattr("cluster.driver.train", asked)
    assert main(["train", "experiment=smoke"]) == 75
    out, err = capsys.readouterr()
    line = f"servofleet: {number.name}: stopped behind a checkpoint; the same command continues from it\n"
    assert (out, err) == ("", line)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "servofleet: stopped; the same command continues from the last checkpoint"),
        (ConfigError("seed = -1: allowed is >= 0"), 2, "servofleet: seed = -1: allowed is >= 0"),
        (CheckpointError("checkpoint 3 is torn"), 1, "servofleet: checkpoint 3 is torn"),
    ],
)
def test_errors_a_user_can_act_on_are_one_line(capsys, monkeypatch, error, code, line):
    monkeypatch.setattr("cluster.driver.train", failing(error))
    assert main(["train", "experiment=smoke"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")


def test_errors_of_ours_are_not_hidden(monkeypatch):
    monkeypatch.setattr("cluster.driver.train", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["train", "experiment=smoke"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=smok"], "did you mean smoke"),
        (["experiment=smoke", "sed=1"], "did you mean seed"),
        (["experiment=smoke", "seed=-1"], "seed = -1: allowed is >= 0"),
        (["experiment=smoke", "seed"], "override = 'seed'"),
    ],
)
def test_a_bad_setting_is_bad_usage_and_starts_nothing(capsys, trained, overrides, message):
    assert main(["train", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert trained == []


def test_evaluating_a_run_that_never_was_is_one_line(capsys, tmp_path):
    assert main(["evaluate", "experiment=smoke", f"dir={tmp_path / 'nothing'}"]) == 1
    assert "holds no complete checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_an_unknown_policy_is_bad_usage_and_starts_nothing(capsys, monkeypatch):
    monkeypatch.setattr("cluster.evaluate_verb.build_program", failing(AssertionError("the fleet was started")))
    assert main(["evaluate", "experiment=smoke", "--policy", "pbsv"]) == 2
    assert "controller = 'pbsv': allowed is one of ('zero', 'pbvs'" in capsys.readouterr().err


def test_what_a_store_holds(capsys, tmp_path):
    open_store(tmp_path / "store", mode="a", create=True).close()
    assert main(["replay", "info", str(tmp_path / "store"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 0
    assert main(["replay", "info", str(tmp_path / "store")]) == 0
    assert capsys.readouterr().out
    assert main(["replay", "info", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"servofleet: store {tmp_path / 'nowhere'} does not exist\n"


def test_asking_for_help_loads_none_of_the_heavy_libraries():
    script = (
        "import sys, cluster.cli\n"
        "try: cluster.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'warp') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]\n", done.stderr
