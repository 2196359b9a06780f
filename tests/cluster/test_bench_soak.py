"""A soak's verdicts: what is lost, wrong or left is found; memory is judged as its interval says."""

import dataclasses
import shutil

import numpy as np
import pytest

from cluster.bench_replay_data import episode
from cluster.bench_soak import NONE_OF, ROLES, bench_soak, growth, judge
from cluster.bench_soak_ledger import Ledger
from cluster.bench_soak_slope import Slope
from common.errors import ServofleetError
from replay.retention import Retention, plan_prune, prune, sweep
from replay.store import open_store


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("soak") / "store"
    store = open_store(path, "a", create=True)
    writer = store.writer("w", max_episodes=2, max_bytes=1 << 30)
    acks = [a for k in range(4) for a in writer.append(episode(k, side=16))]
    writer.close()
    store.close()
    return path, [a.episode_id for a in acks]


@pytest.fixture
def soaked(written, tmp_path):
    """A store of two segments of two episodes, all of them acknowledged and audited."""
    shutil.copytree(written[0], tmp_path / "store")
    store = open_store(tmp_path / "store", "a", ram_bytes=0)
    ledger = Ledger(tmp_path / "audited")
    ledger.acknowledged(written[1])
    ledger.audit(store)
    yield store, ledger, written[1]
    store.close()


def test_a_store_that_keeps_everything_has_nothing_wrong(soaked):
    store, ledger, ids = soaked
    ledger.audit(store)  # what was audited is not counted again
    found = ledger.close(store.url)
    assert (found.acked, found.kept, found.bad, found.first) == (len(ids), len(ids), 0, "")


def test_an_acknowledged_episode_that_never_came_is_lost(soaked):
    store, ledger, ids = soaked
    ledger.acknowledged(["bench/0000/dagger/00000000/000099"])
    ledger.audit(store)
    found = ledger.close(store.url)
    assert found.lost == 1 and found.acked == len(ids) + 1 and "000099 was acknowledged" in found.first


def test_an_episode_that_vanishes_later_is_lost(soaked):
    store, ledger, _ = soaked
    (store.root / "commits" / "w" / "00000001.json").unlink()
    found = ledger.close(store.url)
    assert found.lost == 2 and "which nobody deleted" in found.first


def test_what_retention_took_is_not_lost(soaked):
    store, ledger, ids = soaked
    prune(store, plan_prune(store, Retention(newest_rows=100)))
    assert sweep(store, grace_s=0.0).deleted == 1
    found = ledger.close(store.url)
    assert (found.bad, found.kept) == (0, len(ids) - 2)


def test_a_flipped_byte_of_a_segment_is_wrong(soaked):
    store, ledger, _ = soaked
    path = next((store.root / "data" / "w-00000000.zarr" / "image").glob("c*"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    found = ledger.close(store.url)
    assert found.wrong >= 1 and found.lost == 0


def test_the_same_id_with_two_contents_is_a_conflict_and_with_one_is_none(soaked):
    store, ledger, _ = soaked
    again = store.writer("again", max_episodes=1, max_bytes=1 << 30)
    again.append(episode(0, side=16))
    ledger.audit(store)
    assert (ledger.verdict.repeated, ledger.verdict.bad) == (1, 0)
    other = episode(1, side=16)
    again.append(dataclasses.replace(other, fixed={**other.fixed, "dt": np.array(9.0, np.float32)}))
    again.close()
    ledger.audit(store)
    assert ledger.verdict.conflicting == 1 and "000001 was committed with 2 contents" in ledger.verdict.first


COUNTS = {"kills": 3, **dict.fromkeys(NONE_OF, 0)}


def holds(counts=None, kills=3, **slopes):
    return {r["name"]: r["holds"] for r in judge(COUNTS | (counts or {}), kills, slopes)}


def test_what_must_not_be_fails_its_ratio():
    assert all(v for n, v in holds().items() if not n.startswith("rss"))
    for name in NONE_OF:
        assert holds({name: 1})[name] is False
    assert holds(kills=4)["kills"] is False


def test_memory_must_be_flat_and_known_to_grow_by_less_than_20():
    assert holds(driver=Slope(2.0, -1.0, 5.0, 240))["rss_slope_driver"] is True
    assert holds(driver=Slope(2.0, 1.0, 3.0, 240))["rss_slope_driver"] is False
    assert holds(driver=Slope(2.0, -20.0, 24.0, 240))["rss_slope_driver"] is False
    assert [holds()[f"rss_slope_{role}"] for role in ROLES] == [None] * 3


def test_growth_is_of_the_level_and_not_of_its_flicker():
    assert growth([40, 60] * 20) == 0.0
    assert growth([40] * 20 + [43] * 20) == 3.0
    assert growth([43] * 20 + [40] * 20) == 0.0


@pytest.mark.parametrize("wrong", [{"minutes": 0.0, "kills": 1}, {"minutes": 1.0, "kills": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ServofleetError, match="allowed is"):
        bench_soak(**wrong, as_json=True)


@pytest.mark.slow
@pytest.mark.faults
def test_a_short_soak_under_kills_loses_and_leaks_nothing(capfd):
    result = bench_soak(minutes=0.7, kills=4, as_json=False, seed=3)
    found = {r["name"]: r for r in result["ratios"]}
    assert found["kills"]["value"] == 4
    assert [n for n in NONE_OF if not found[n]["holds"]] == [], capfd.readouterr()
    rows = {r["name"]: r["value"] for r in result["rows"]}
    assert rows["acknowledged"] > 100 and rows["updates"] > 10
