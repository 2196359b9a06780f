"""Names of segments and records, of which a run makes new ones for as long as it goes on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from records import make_episode

from replay.retention import Retention, plan_prune, prune, sweep
from replay.storage import Storage
from replay.store import open_store


@pytest.mark.parametrize("storage", ["local", "memory"], indirect=True)
def test_no_name_enters_the_table_of_interned_strings(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's table takes room for every string that was ever in it, until it is copied to a larger one:
    pathlib's names once made a run of half an hour grow by 14 MB.
    """
    interned, real = [], sys.intern
    monkeypatch.setattr(sys, "intern", lambda text: (interned.append(text), real(text))[1])
    Path("a-name-of-its-own")
    if "a-name-of-its-own" not in interned:
        pytest.skip("this Python's pathlib interns nothing")
    store = open_store(storage, "a", create=True)
    interned.clear()
    writer = store.writer("w", max_episodes=1)
    for env in range(6):
        writer.append(make_episode(env=env, rows=2))
    writer.close()
    store.refresh()
    assert len([store.read_episode(e) for e in store.select()]) == 6
    prune(store, plan_prune(store, Retention(newest_rows=4)))
    assert sweep(store, grace_s=0.0).deleted == 4
    store.release()
    assert [text for text in interned if re.search(r"\d{8}|[0-9a-f]{32}", text)] == []
