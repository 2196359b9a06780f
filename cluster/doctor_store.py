"""`python -m cluster.doctor_store WHERE`: read the records of a store and its newest episodes, print JSON."""

import json
import sys

from common.errors import StoreError
from replay.store import open_store

_NEWEST = 8


def probe(where: str) -> dict[str, int]:
    """Look into a store: {"episodes", "rows": that it shows, "read": of its newest episodes, read whole}.

    Raises:
        StoreError: naming the first thing that cannot be read.
    """
    store = open_store(where, ram_bytes=0)
    try:
        store.refresh()
        ((episodes, rows),) = store.index.rows("SELECT count(*), coalesce(sum(rows), 0) FROM episodes")
        newest = store.index.rows(
            "SELECT episodes.id FROM episodes JOIN records USING (writer, seq) "
            "ORDER BY records.committed_at DESC, slot DESC LIMIT ?",
            (_NEWEST,),
        )
        for (name,) in newest:
            store.read_episode(name)
    finally:
        store.close()
    return {"episodes": int(episodes), "rows": int(rows), "read": len(newest)}


if __name__ == "__main__":
    try:
        print(json.dumps(probe(sys.argv[1])))
    except StoreError as e:
        sys.exit(str(e).splitlines()[0])
