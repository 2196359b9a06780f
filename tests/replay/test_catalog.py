"""A catalog says of each episode what the index says, in the same order."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from records import make_episode, version

from replay.catalog import read_catalog
from replay.index import Query
from replay.store import Store, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = open_store(tmp_path_factory.mktemp("c") / "s", "a", create=True)
    for name in ("b", "a"):
        with closing(store.writer(name)) as w:
            for env in range(3):
                w.append(make_episode("dagger", env=env, round=1 + (name == "a"), rows=3 + env, acted=version(env)))
                w.append(make_episode("rollout", env=env, round=int(name == "a"), rows=4, phase="ppo"))
    store.refresh()
    return store


@pytest.mark.parametrize("query", [Query(), Query(kind="dagger"), Query(kind="rollout", min_round=1), Query(phase="x")])
def test_columns_agree_with_the_entries(store: Store, query: Query) -> None:
    entries = store.select(query)
    catalog = read_catalog(store.index, query)
    assert len(catalog) == len(entries)
    places = catalog.places(np.arange(len(entries)))
    for name in ("segment", "writer", "seq", "slot", "start", "rows", "valid_rows"):
        assert [getattr(p, name) for p in places] == [getattr(e, name) for e in entries]
    for name in ("iou_final", "iou_max"):
        expected = [np.nan if getattr(e, name) is None else getattr(e, name) for e in entries]
        np.testing.assert_array_equal(catalog.scores[name], expected)
    for k, e in enumerate(entries):
        said = {n: catalog.names[n][catalog.codes[n][k]] for n in catalog.names}
        assert (said["kind"], said["phase"]) == (e.meta.kind, e.meta.phase)
        assert (said["role"], said["lineage"]) == (e.meta.id.role, str(e.meta.id.lineage))
        acted = e.meta.policy_version
        assert said["policy_version"] == ("none" if acted is None else str(acted))
        assert catalog.numbers["round"][k] == e.meta.id.round


def test_places_are_enough_to_read_rows(store: Store) -> None:
    entries = store.select(Query(kind="dagger"))
    which = np.array([4, 0, 2])
    places = read_catalog(store.index, Query(kind="dagger")).places(which)
    index, rows = np.array([0, 1, 2, 0]), np.array([1, 0, 2, 2])
    by_place = store.read_rows(["image", "action"], places, index, rows)
    by_entry = store.read_rows(["image", "action"], [entries[k] for k in which], index, rows)
    for name, array in by_place.items():
        np.testing.assert_array_equal(array, by_entry[name])
    assert store.valid_rows(places[0]).tolist() == store.valid_rows(entries[4]).tolist()
