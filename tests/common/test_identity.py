import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SchemaError
from common.identity import EpisodeId, PolicyVersion, json_sha256, weights_sha256

ids = st.builds(
    EpisodeId,
    run=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True),
    lineage=st.integers(0, 9999),
    role=st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True),
    round=st.integers(0, 10**8 - 1),
    env=st.integers(0, 10**6 - 1),
)


@given(ids)
def test_id_text_reads_back_equal(episode_id):
    assert EpisodeId.parse(str(episode_id)) == episode_id


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 10**8 - 1), st.integers(0, 10**6 - 1)), max_size=8))
def test_sorting_text_is_sorting_ids(numbers):
    made = [EpisodeId("run", lineage, "il", round_, env) for lineage, round_, env in numbers]
    assert sorted(map(str, made)) == [str(i) for i in sorted(made)]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"run": "Run"}, "run"), ({"run": ""}, "run"), ({"run": "a/b"}, "run"), ({"role": "0x"}, "role"),
     ({"lineage": -1}, "lineage"), ({"round": 10**8}, "round"), ({"env": 10**6}, "env")],
)  # fmt: skip
def test_bad_parts_are_refused_by_name(change, named):
    parts = {"run": "run", "lineage": 0, "role": "il", "round": 0, "env": 0}
    with pytest.raises(SchemaError, match=f"episode id {named} = "):
        EpisodeId(**(parts | change))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run/0000/il/00000000",
        "run/0/il/00000000/000000",
        "run/000x/il/00000000/000000",
        "run/0000/il/00000000/000000/",
        "run/0000/il/00000000/\u0660\u0660\u0660\u0660\u0660\u0660",
        "run/0000/il/-0000001/000000",
    ],
)
def test_other_texts_are_no_ids(text):
    with pytest.raises(SchemaError, match="episode id"):
        EpisodeId.parse(text)


def test_weights_hash_sees_names_types_shapes_and_bytes_but_not_the_order():
    a, b = np.arange(6, dtype=np.float32), np.ones(2)
    base = weights_sha256({"a": a, "b": b})
    assert base == weights_sha256({"b": b, "a": a}) == weights_sha256({"a": a[::-1][::-1], "b": b.copy()})
    others = [
        {"a": a, "c": b}, {"a": a.reshape(2, 3), "b": b}, {"a": a.view(np.int32), "b": b},
        {"a": a + np.float32(1e-6), "b": b}, {"a": a}, {"a": a, "b": b.astype(">f8")},
    ]  # fmt: skip
    assert len({base, *map(weights_sha256, others)}) == 7


def test_json_hash_ignores_key_order_only():
    assert json_sha256({"a": 1, "b": [1, 2]}) == json_sha256({"b": [1, 2], "a": 1})
    assert json_sha256({"a": [1, 2]}) != json_sha256({"a": [2, 1]})
    with pytest.raises(ValueError, match="JSON"):
        json_sha256(float("nan"))


def test_policy_version_prints_short_and_sorts_by_history():
    old, new = PolicyVersion(0, 9, "f" * 64), PolicyVersion(1, 0, "0" * 64)
    assert str(old) == "0.9.ffffffffffff" and old < new
