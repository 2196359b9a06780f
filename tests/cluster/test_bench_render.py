"""The benchmark's judgement and its shape; one small real measurement. Its figures are nobody's test."""

import json
from collections import Counter

import numpy as np
import pytest

from cluster import bench_render
from cluster.bench_render import JUDGED, OURS, OURS_SCENES, PEERS, Case, cases, mismatch, ratios, run_worker
from cluster.cli import main
from common.errors import SceneError

SIDE, TRIANGLES = JUDGED


def test_every_configuration_is_asked_for_once():
    full, quick = cases(False), cases(True)
    assert max(Counter(full).values()) == 1 and set(quick) < set(full)
    ours = {(c.size, c.triangles, c.shadows) for c in full if c.system == OURS}
    sizes, triangles = (64, 128, 256, 512), (1000, 5000, 20000, 60000)
    assert ours == {(s, t, shadows) for s in sizes for t in triangles for shadows in (False, True)}
    for peer in PEERS:
        assert {c.size for c in full if c.system == peer} == {64, 128, 256}
    for plan in (full, quick):
        # What a peer is compared with was drawn before it, and so was what shadows are compared with.
        for i, case in enumerate(plan):
            if case.system in PEERS or case.shadows:
                assert Case(OURS, case.size, case.triangles) in plan[: i + 1]
    assert (
        Case("mujoco", 64, TRIANGLES, True).name == "render_64_shadows"
        and Case(OURS, 64, 60000).name == "render_64_60k"
    )


def rates():
    given = {Case(s, SIDE, TRIANGLES): [100.0, 100.0, 100.0] for s in PEERS}
    given |= {Case(OURS, SIDE, TRIANGLES): [900.0, 800.0, 1000.0], Case(OURS_SCENES, SIDE, TRIANGLES): [700.0] * 3}
    given |= {Case(OURS, SIDE, TRIANGLES, True): [700.0, 700.0, 800.0]}
    given |= {Case(OURS, SIDE, 1000): [3000.0] * 3, Case(OURS, SIDE, 60000): [1000.0, 500.0, 1000.0]}
    return given


def test_ratios_are_medians_of_what_was_measured_together():
    cuda = [{"name": "cuda_128", "value": v} for v in (50_000.0, None, 120_000.0)]
    found = {r["name"]: r for r in ratios(rates(), [0.02, 0.005, 0.01], cuda)}
    assert found["render_128_vs_pybullet"] == {
        "name": "render_128_vs_pybullet",
        "value": 9.0,
        "goal": 8.0,
        "holds": True,
    }
    assert found["render_shadows_vs_none"]["value"] == 0.8 and found["render_shadows_vs_none"]["holds"]
    assert found["render_60k_vs_1k"]["value"] == 3.0 and found["render_60k_vs_1k"]["holds"]
    assert found["reset_vs_10_frames"]["value"] == 1.0 and found["reset_vs_10_frames"]["holds"]
    assert found["cuda_128_frames_per_s"]["value"] == 120_000.0 and found["cuda_128_frames_per_s"]["holds"]
    assert set(bench_render.GOALS) < set(found)
    worse = {r["name"]: r["holds"] for r in ratios(rates(), [0.02] * 3, [])}
    assert worse["reset_vs_10_frames"] is False and worse["cuda_128_frames_per_s"] is None


def test_a_peer_that_is_missing_has_no_ratio():
    given = rates()
    given[Case("mujoco", SIDE, TRIANGLES)] = []
    found = {r["name"]: r for r in ratios(given, [0.01] * 3, [])}
    assert found["render_128_vs_mujoco"] == {"name": "render_128_vs_mujoco", "value": None, "goal": 4.0, "holds": None}


def two_squares():
    ids = np.zeros((1, 32, 32), np.int32)
    ids[0, 4:14, 4:14], ids[0, 16:30, 16:30] = 1, 2
    return ids, np.where(ids > 0, 0.5, 1.0).astype(np.float32)


def test_silhouettes_are_not_judged_but_everything_else_is():
    ids, depth = two_squares()
    assert mismatch(ids, depth, ids, depth) == (0.0, 0.0)
    wider = ids.copy()
    wider[0, 3:15, 3:15] = 1
    assert mismatch(ids, depth, wider, depth)[0] == 0.0
    assert mismatch(ids, depth, ids[:, ::-1], depth)[0] > bench_render.MAX_ID_MISMATCH
    assert mismatch(ids, depth, np.where(ids == 2, 1, ids), depth)[0] > bench_render.MAX_ID_MISMATCH
    assert mismatch(ids, depth, ids, depth * 1.01)[1] == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(SceneError, match="no object"):
        mismatch(np.zeros_like(ids), depth, ids, depth)


def saved(path, ids, depth, rgb=0):
    np.savez(path, instance_id=ids, depth=depth, rgb=np.full((*ids.shape, 3), rgb, np.uint8))
    return path


def test_a_peer_that_shows_something_else_ends_the_benchmark(tmp_path):
    ids, depth = two_squares()
    ours, swapped = saved(tmp_path / "a.npz", ids, depth), saved(tmp_path / "b.npz", 3 - ids * (ids > 0), depth)
    assert bench_render._compared(Case("embree", 32, 1000), ours, ours)["id_mismatch"] == 0.0
    with pytest.raises(SceneError, match=r"embree, render_32_1k: share of pixels with another id = 1\.0+: allowed is"):
        bench_render._compared(Case("embree", 32, 1000), ours, swapped)


def test_shadows_must_be_seen_to_count(tmp_path):
    ids, depth = two_squares()
    bright, dark = (saved(tmp_path / f"{v}.npz", ids, depth, v) for v in (200, 100))
    assert bench_render.shaded(bright, dark) == 1.0
    with pytest.raises(SceneError, match=r"share of the ground in shadow = 0\.0000"):
        bench_render.shaded(bright, bright)


def test_a_worker_that_fails_is_one_line_with_its_last_words():
    with pytest.raises(SceneError, match="KeyError: 'dance'"):
        run_worker({"task": "dance"})


def small(quick):
    return [Case(s, 32, 600) for s in (OURS, "embree", "pybullet")]


def test_a_real_measurement_compares_pictures_and_prints_the_contract(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_render, "cases", small)
    monkeypatch.setattr(bench_render, "_opengl", lambda: {"missing": "not asked for"})
    for part in ("_first_frames", "_memory", "_cuda"):
        monkeypatch.setattr(bench_render, part, lambda *a: [])
    monkeypatch.setattr(bench_render, "_resets", lambda *a: ([], []))
    monkeypatch.setattr(bench_render, "ratios", lambda *a: [])
    assert main(["bench", "render", "--json", "--quick", "--repeats", "1", "--pictures", str(tmp_path / "seen")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"bench", "machine", "rows", "ratios"} and result["bench"] == "render"
    rows = {row["system"]: row for row in result["rows"]}
    assert all(set(row) == {"name", "system", "value", "unit", "params"} for row in result["rows"])
    assert rows[OURS]["value"] > 0 and rows[OURS]["params"]["frames_per_wall_s"] > 0
    assert 500 < rows[OURS]["params"]["triangles"] < 700
    assert rows["embree"]["params"]["id_mismatch"] < 1e-3 and rows["embree"]["params"]["depth_error_median"] < 1e-5
    drawn = [system for system, row in rows.items() if "missing" not in row["params"]]
    assert len(list((tmp_path / "seen").glob("*.png"))) == len(drawn) >= 2


def test_settings_that_do_not_belong_are_bad_usage(capsys):
    assert main(["bench", "render", "experiment=smoke"]) == 2
    assert "settings of bench render = ['experiment=smoke']: allowed is none" in capsys.readouterr().err
    assert main(["bench", "pipeline", "--quick"]) == 2
    assert "--quick" in capsys.readouterr().err
