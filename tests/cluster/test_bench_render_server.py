import json

import pytest

from cluster import bench_render_server
from cluster.bench_render_server import LOCAL, OVERLAPPED, SENT, SHARED, ratios
from cluster.cli import main
from common.errors import RendererError


def answer(local=0.10, shared=0.11, sent=0.16, overlapped=0.10, read=0.02):
    ways = {LOCAL: local, SHARED: shared, SENT: sent, OVERLAPPED[SHARED]: overlapped, OVERLAPPED[SENT]: 0.15}
    extra = {"read": read, "reset_in_process": 0.064, "reset_server": 0.128, "environments": 64, "bytes": 1000}
    return ways | extra


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_the_goals_are_held_by_the_worse_of_the_sizes() -> None:
    found = by_name(ratios({128: [answer()], 256: [answer(shared=0.125)]}))
    assert found["shared_memory_vs_local"] == {
        "name": "shared_memory_vs_local",
        "value": 0.8,
        "goal": 0.9,
        "holds": False,
    }
    assert found["shared_memory_128_vs_local"]["value"] == pytest.approx(0.909, abs=1e-3)
    assert found["shared_memory_128_vs_local"]["goal"] is None
    assert found["socket_vs_local"]["value"] == 0.625 and found["socket_vs_local"]["holds"]
    # Of 20 ms of reading 10 ms were done while the server was rendering.
    assert found["shared_memory_128_overlap_of_reading"]["value"] == 0.5


def test_the_median_of_the_repeats_counts() -> None:
    three = [answer(shared=s) for s in (0.1, 0.2, 1.0)]
    assert by_name(ratios({128: three}))["shared_memory_vs_local"]["value"] == 0.5


def test_json_has_a_row_per_way_and_size(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(bench_render_server, "_run", lambda job: answer())
    assert main(["bench", "render-server", "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bench"] == "render-server"
    rates = {(r["name"], r["system"]): r["value"] for r in result["rows"] if r["unit"] == "frames/s"}
    assert rates[("frames_128", "in process")] == 640.0 and len(rates) == 10
    resets = {r["name"]: r["value"] for r in result["rows"] if r["unit"] == "ms/scene"}
    assert resets["reset_server_256"] == 2.0


@pytest.mark.slow
def test_a_process_that_fails_is_an_error_that_says_why() -> None:
    with pytest.raises(RendererError, match=r"bench render-server.*KeyError"):
        bench_render_server._run({"batches": 1})


@pytest.mark.slow
def test_the_real_thing_measures_every_way(capsys) -> None:
    assert main(["bench", "render-server", "--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert all(row["value"] > 0.0 for row in result["rows"])
    assert {r["name"] for r in result["ratios"] if r["goal"]} == {"shared_memory_vs_local", "socket_vs_local"}
