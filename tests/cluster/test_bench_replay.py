"""The bench of the replay store measures what it says: same pictures everywhere, missing peers named, goals judged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from cluster import bench_replay, bench_replay_worker, cli
from cluster.bench_replay import GOALS, Worker
from cluster.bench_replay_data import ROWS, episode, episodes
from cluster.bench_replay_peers import memmap_reader, ram_reader, zarr_reader
from cluster.bench_replay_report import print_result
from common.errors import ConfigError, StoreError
from replay.store import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("bench") / "store"
    writer = open_store(path, "a", create=True).writer("w", max_episodes=2, max_bytes=1 << 32)
    for e in episodes(3):
        writer.append(e)
    writer.close()
    return path


def test_episodes_are_made_again_the_same() -> None:
    a, b, c = episode(4), episode(4), episode(5)
    assert a.sha256() == b.sha256() != c.sha256()
    assert a.num_rows == ROWS and a.steps["image"].shape == (ROWS, 128, 128, 3)
    assert 0 < a.steps["mask"].mean() < 1


@pytest.mark.parametrize("build", [ram_reader, memmap_reader, zarr_reader])
def test_every_reader_reads_the_rows_that_were_asked_for(store: Path, tmp_path: Path, build) -> None:
    reader = build(store, tmp_path)
    numbers = np.array([0, 2 * ROWS + 80, ROWS, ROWS - 1, ROWS])
    image, mask = reader.rows(numbers)
    assert image.dtype == torch.uint8 and mask.dtype == torch.bool
    for k, n in enumerate(numbers.tolist()):
        steps = episode(n // ROWS).steps
        np.testing.assert_array_equal(image[k].numpy(), steps["image"][n % ROWS])
        np.testing.assert_array_equal(mask[k].numpy(), steps["mask"][n % ROWS])
    if reader.episode is not None:
        np.testing.assert_array_equal(reader.episode(2)[0].numpy(), episode(2).steps["image"])


def test_ours_gives_whole_episodes_and_random_rows(store: Path) -> None:
    opened = open_store(store)
    opened.refresh()
    reader = bench_replay_worker._ours(opened)
    image, mask = reader.rows(np.empty(0, np.int64))
    assert image.shape == (64, 128, 128, 3) and mask.shape == (64, 128, 128) and mask.any()
    assert reader.episode is not None
    np.testing.assert_array_equal(reader.episode(1)[1].numpy(), episode(1).steps["mask"])


def test_commits_and_raw_files_are_timed_in_turns(tmp_path: Path, monkeypatch) -> None:
    small = lambda count, first=0: [episode(first + i, 16) for i in range(count)]
    monkeypatch.setattr(bench_replay_worker, "episodes", small)
    job = {"system": "servofleet", "scratch": str(tmp_path), "name": "w-0", "segments": 2, "raw": True}
    answer = bench_replay_worker.insert(job)()
    assert len(answer["commits"]) == len(answer["raws"]) == 2 and answer["episodes"] == 16
    opened = open_store(tmp_path / "in")
    assert opened.refresh() == {"w-0": 3}
    assert len(opened.select()) == 24
    sizes = {p.stat().st_size for p in tmp_path.glob("raw-*")}
    assert sizes == {max(r.nbytes for r in opened.records())}


def test_the_index_is_rebuilt_from_as_many_records_as_it_says(tmp_path: Path) -> None:
    answer = bench_replay_worker.rebuild({"scratch": str(tmp_path), "episodes": 200})()
    assert answer["episodes"] == 192 and answer["seconds"] > 0


def test_cold_reads_are_measured_on_ours_and_by_pread(store: Path) -> None:
    answer = bench_replay_worker.cold({"store": str(store), "batches": 1})
    assert all(v > 0 for v in answer().values())


def test_a_peer_that_is_not_installed_is_missing_and_a_failure_is_told(store: Path, tmp_path: Path) -> None:
    job = {"task": "read", "store": str(store), "scratch": str(tmp_path), "seconds": 0.01}
    with Worker(**job, system="reverb") as worker:
        assert worker.missing is not None and ("reverb" in worker.missing or "tensorflow" in worker.missing)
    with Worker(**job, system="servofleet") as worker:
        assert worker.missing is None and set(worker.measure()) == {"rows", "episodes"}
    with pytest.raises(StoreError, match="KeyError: 'nothing'"):
        Worker(task="nothing")


def test_ratios_are_judged_by_their_goals_and_shown() -> None:
    made = {name: bench_replay._ratio(name, 1.0) for name in GOALS}
    assert made["commit_vs_raw_fsync"]["holds"] is True and made["sample_vs_reverb"]["holds"] is False
    assert made["growth_cost"]["holds"] is True and made["sample_vs_torchrl"]["holds"] is None
    assert bench_replay._ratio("growth_cost", 1.31)["holds"] is False
    assert bench_replay._ratio("sample_vs_lance", None) == {
        "name": "sample_vs_lance", "value": None, "goal": 10.0, "holds": None
    }  # fmt: skip
    rows = [bench_replay._row("insert", "lance", [], "MB/s", missing="no lance")]
    rows.append(bench_replay._row("insert", "servofleet", [1.0, 3.0, 250.0], "MB/s"))
    assert rows[1]["value"] == 3.0 and rows[1]["params"] == {"repeats": [1.0, 3.0, 250.0]}
    result = {"bench": "replay", "machine": {"cpu": "x"}, "rows": rows, "ratios": list(made.values())}
    text = io.StringIO()
    print_result(json.loads(json.dumps(result)), GOALS, Console(file=text, width=160))
    assert "no lance" in text.getvalue() and "<= 1.3" in text.getvalue()


def test_the_verb_hands_its_arguments_on(monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(bench_replay, "bench_replay", lambda **given: seen.update(given))
    assert cli.main(["bench", "replay", "--quick", "--json", "--repeats", "2"]) == 0
    assert seen == {"repeats": 2, "quick": True, "as_json": True}
    for wrong in (["seed=1"], ["--pictures", "x"]):
        with pytest.raises(ConfigError):
            arguments = cli.parse(["bench", "replay", *wrong])
            arguments.run(arguments)


@pytest.mark.slow
def test_a_whole_run_has_every_ratio(capsys) -> None:
    result = bench_replay.bench_replay(repeats=1, quick=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == result
    assert [r["name"] for r in result["ratios"]] == list(GOALS)
    present = {r["name"] for r in result["ratios"] if r["value"] is not None}
    assert {"sample_vs_ram_take", "commit_vs_raw_fsync", "episodes_vs_memmap", "growth_cost"} <= present
