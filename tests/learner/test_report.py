import copy
import json

import pytest
from rich.console import Console

from common.errors import SchemaError
from learner.report import METRICS, STAGES, check_report, ordered_stages, print_report, write_report


def metrics(iou):
    values = dict.fromkeys(METRICS, 100.0)
    return values | {"iou": iou, "iou_ci95": [iou - 0.02, iou + 0.04], "dt_norm": 0.123, "energy": 2.5, "steps": 60.0}


def report():
    stages = {name: {"free": metrics(0.5 + 0.01 * i), "stopped": metrics(0.4)} for i, name in enumerate(STAGES)}
    return {"experiment": "demo", "seed": 3, "wall_s": 12.5, "suite_sha256": "ab" * 32, "stages": stages}


def test_report_is_written_whole_and_reads_back_equal(tmp_path):
    path = write_report(tmp_path, report())
    assert path == tmp_path / "report.json"
    assert json.loads(path.read_text()) == report()
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("where", "name"),
    [((), "suite_sha256"), (("stages", "il"), "stopped"), (("stages", "il", "free"), "iou75")],
)
def test_missing_and_added_keys_are_refused_by_name(tmp_path, where, name):
    for change in (lambda d: d.pop(name), lambda d: d.update({"surplus": 1})):
        bad = copy.deepcopy(report())
        inner = bad
        for key in where:
            inner = inner[key]
        change(inner)
        with pytest.raises(SchemaError, match="keys of report" + "".join(f".*{k}" for k in where)):
            write_report(tmp_path, bad)
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_cannot_hold_are_refused(tmp_path):
    bad = report()
    bad["stages"]["il"]["free"]["energy"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, bad)
    check_report(report())


def test_table_has_every_stage_in_order_within_a_hundred_characters():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report(), console)
    lines = console.export_text().splitlines()
    assert max(len(line) for line in lines) <= 100
    rows = [line.split() for line in lines if line.split() and line.split()[0] in STAGES]
    assert [r[0] for r in rows] == list(STAGES)
    assert rows[2][1:6] == ["0.520", "±0.030", "100", "100", "2.50"]
    assert not any("…" in line for line in lines)


def test_unknown_stages_follow_the_known_ones():
    assert ordered_stages(["mine", "pbvs", "zero"]) == ["zero", "pbvs", "mine"]
