"""Plan, judgement and shape; one real measurement. Its figures are nobody's test."""

import json
import time
from collections import Counter

import pytest
import torch

from cluster import bench_inference
from cluster.bench_inference import BAR, BATCHES, MODES, NETWORKS, SIZES, Series, plan, ratios, row_of, run_worker
from cluster.bench_inference_worker import measure, network_of, programs
from cluster.cli import main
from common.networks.servo_net import ServoNet


def test_every_configuration_is_asked_for_once():
    full = plan(False, gpu=True)
    assert max(Counter(full).values()) == 1
    assert {(s.network, s.size, s.mode) for s in full if s.device == "cpu"} == {
        (n, size, m) for n in NETWORKS for size in SIZES for m in MODES
    }
    assert {s.precision for s in full if s.device == "cuda"} == {"float32", "bfloat16"}
    assert all(s.batches == BATCHES == tuple(sorted(s.batches)) for s in full)
    assert {s.device for s in plan(False, gpu=False)} == {s.device for s in plan(True, gpu=False)} == {"cpu"}
    judged = [s for s in plan(True, gpu=True) if s.network == "dinov2_b"]
    assert {(s.size, s.device, s.batches) for s in judged} == {(512, "cuda", (1,))}


def row(name, device, value, mode="eager"):
    return {
        "name": name,
        "system": f"{mode}, {device}",
        "value": value,
        "unit": "frames/s",
        "params": {"device": device},
    }


@pytest.mark.parametrize(
    ("values", "value", "holds"), [([120.0, 90.0, None], 120.0, True), ([99.0], 99.0, False), ([None], None, None)]
)
def test_the_bar_is_for_one_large_image_on_a_gpu(values, value, holds):
    name = "inference_dinov2_b_512_b1"
    rows = [row(name, "cuda", v) for v in values]
    rows += [row(name, "cpu", 500.0), row("inference_dinov2_b_512_b8", "cuda", 500.0), row("other", "cuda", 500.0)]
    assert ratios(rows) == [{"name": BAR, "value": value, "goal": 100.0, "holds": holds}]


def test_sides_are_whole_tokens_and_no_smaller_than_asked():
    sides = {(n, size): network_of(n, size)[1] for n in NETWORKS for size in SIZES}
    assert all(sides[n, size] >= size for n, size in sides) and sides["dinov2_b", 512] == 518
    assert all(sides[n, size] == size for n, size in sides if n != "dinov2_b")


def test_rate_and_latency_are_those_of_the_calls():
    found = measure(lambda: time.sleep(0.01), batch=4, seconds=0.1, limit_s=1.0)
    assert found["calls"] >= 5 and 10.0 <= found["p50_ms"] <= found["p99_ms"]
    assert 4 / 0.01 * 0.05 < found["frames_per_s"] <= 4 / 0.01
    slow = measure(lambda: time.sleep(0.02), batch=1, seconds=0.1, limit_s=0.01)
    assert "allowed is 0.01" in slow["missing"] and "frames_per_s" not in slow


def test_what_is_measured_is_the_whole_policy():
    config, side = network_of("conv_small", 64)
    encode, policy = programs(ServoNet(config).eval(), side, "eager", "cpu")
    image, one = torch.zeros(2, side, side, 3, dtype=torch.uint8), torch.ones(2, dtype=torch.float64)
    with torch.no_grad():
        near, far = (policy(image, encode(image), one[:, None].expand(2, 4) * side, d * one, one)[0] for d in (1, 3))
    torch.testing.assert_close(far[:, :3], 3 * near[:, :3])


def test_a_worker_answers_for_every_batch_and_says_what_it_left_out():
    series = Series("conv_small", 64, "eager", "cpu", "float32", (1, 2, 100_000_000))
    answers = run_worker(series, seconds=0.01, limit_s=5.0)
    assert [a["batch"] for a in answers] == [1, 2, 100_000_000]
    assert all(a["frames_per_s"] > 0 and a["p99_ms"] >= a["p50_ms"] > 0 for a in answers[:2])
    assert "allowed is 5" in answers[2]["missing"] or "GiB" in answers[2]["missing"]
    rows = [row_of(series, a) for a in answers]
    assert rows[0]["name"] == "inference_conv_small_64_b1" and rows[2]["value"] is None
    assert rows[0]["params"]["pixels"] == 64 and rows[0]["system"] == "eager, cpu, float32"


@pytest.mark.slow
def test_a_worker_that_fails_says_why_for_every_batch():
    broken = run_worker(Series("nothing", 64, "eager", "cpu", "float32", (1, 2)), seconds=0.01, limit_s=1.0)
    assert [set(a) for a in broken] == [{"batch", "missing"}] * 2


def test_the_printed_json_has_the_promised_shape(monkeypatch, capsys):
    monkeypatch.setattr(bench_inference, "_QUICK", ())
    answer = {"batch": 1, "frames_per_s": 7.0, "p50_ms": 1.0, "p99_ms": 2.0, "calls": 5, "pixels": 64, "threads": 1}
    monkeypatch.setattr(bench_inference, "run_worker", lambda series, **_: [answer])
    assert main(["bench", "inference", "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"bench", "machine", "rows", "ratios"} and result["bench"] == "inference"
    assert all(set(r) == {"name", "system", "value", "unit", "params"} for r in result["rows"])
    published = [r["value"] for r in result["rows"] if "published" in r["system"]]
    assert published == [31.7, 36.0]
    assert main(["bench", "inference", "seed=1"]) == 2
    bench_inference.bench_inference(quick=True, as_json=False)
    shown = capsys.readouterr().out
    assert BAR in shown and "missing" in shown and "31.70" in shown
