import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.episode import EPISODE_FIELDS, FIELDS, KINDS, STEP_FIELDS, Episode, EpisodeMeta, check_episode
from common.errors import SchemaError
from common.identity import EpisodeId, PolicyVersion

SIZES = {"height": 8, "width": 8, "grid": 2, "feature": 5}


def meta(kind="rollout", **changes):
    made = EpisodeMeta(
        id=EpisodeId("run", 0, "ppo_rollout", 3, 7),
        kind=kind,
        phase="ppo",
        policy="learned",
        policy_version=PolicyVersion(0, 2, "ab" * 32),
        target_id=1,
        scene="{}",
        scene_seed=5,
        collector="c0",
    )
    return dataclasses.replace(made, **changes)


def record(kind="rollout", rows=4):
    """Arrays that the schema asks of a kind, and no more."""
    rng = np.random.default_rng(0)

    def array(field, lead):
        shape = (*lead, *(SIZES.get(d, d) for d in field.dims))
        return np.asarray(rng.random(shape) * 3).astype(field.dtype)

    steps = {f.name: array(f, (rows,)) for f in STEP_FIELDS if kind in f.kinds}
    return steps, {f.name: array(f, ()) for f in EPISODE_FIELDS if kind in f.kinds}


def episode(kind="rollout", rows=4, **changes):
    return Episode(meta(kind, **changes), *record(kind, rows))


def test_schema_describes_itself_completely():
    assert len(FIELDS) == len(STEP_FIELDS) + len(EPISODE_FIELDS)
    for field in FIELDS.values():
        assert np.dtype(field.dtype).name == field.dtype and field.meaning and set(field.kinds) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_complete_records_pass(kind):
    made = episode(kind, rows=6)
    assert made.num_rows == 6
    assert made.nbytes() == sum(a.nbytes for a in (*made.steps.values(), *made.fixed.values()))


@pytest.mark.parametrize(("kind", "name"), [(k, f.name) for k in KINDS for f in FIELDS.values() if k in f.kinds])
def test_each_missing_field_is_named(kind, name):
    steps, fixed = record(kind)
    steps.pop(name, None)
    fixed.pop(name, None)
    with pytest.raises(SchemaError, match=f"field {name} is missing: '{kind}' records need it"):
        Episode(meta(kind), steps, fixed)


@pytest.mark.parametrize("level", ["step", "episode"])
def test_unknown_and_misplaced_fields_are_named(level):
    for name in ("surplus", "d_star" if level == "step" else "iou"):
        steps, fixed = record()
        (steps if level == "step" else fixed)[name] = np.zeros(4, dtype=np.float32)
        with pytest.raises(SchemaError, match=f"{level} field name = '{name}': allowed is one of"):
            Episode(meta(), steps, fixed)


mutations = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 100), st.sampled_from(["dtype", "list", "axis", "longer", "shorter"])
)


@given(mutations)
def test_one_wrong_array_is_refused_by_its_name(mutation):
    kind, index, how = mutation
    steps, fixed = record(kind)
    names = [*steps, *fixed]
    name = names[index % len(names)]
    group = steps if name in steps else fixed
    array = group[name]
    if how == "dtype":
        group[name] = array.astype("complex64")
    elif how == "list":
        group[name] = array.tolist()
    elif how == "axis":
        group[name] = array[..., None]
    else:
        # A literal axis is wrong by itself; a named one disagrees with the other fields that have it.
        literal = [i for i, d in enumerate(FIELDS[name].dims) if isinstance(d, int)]
        lead = 1 if name in steps else 0
        if not literal and not lead:
            return
        axis = lead + literal[0] if literal else 0
        size = array.shape[axis]
        keep = np.arange(size + 1) % size if how == "longer" else np.arange(size - 1)
        group[name] = np.take(array, keep, axis=axis)
    with pytest.raises(SchemaError) as caught:
        Episode(meta(kind), steps, fixed)
    what = "dtype" if how in ("dtype", "list") else "shape"
    # The first field of a record sets the number of rows: if that one is wrong, the next is blamed.
    first = name == next(iter(steps)) and how in ("longer", "shorter")
    assert f"{what} of field {'' if first else name}" in str(caught.value)


def test_a_numpy_scalar_is_no_array_and_the_error_says_so():
    steps, fixed = record()
    fixed["d_star"] = np.float32(0.5)
    with pytest.raises(SchemaError, match="dtype of field d_star = 'no array but float32': allowed is float32"):
        Episode(meta(), steps, fixed)


def test_named_axes_agree_between_step_and_episode_fields():
    steps, fixed = record("pairs")
    fixed["goal_image"] = np.zeros((8, 9, 3), dtype=np.uint8)
    with pytest.raises(SchemaError, match=r"shape of field goal_image = \(8, 9, 3\): allowed is \(8, 8, 3\)"):
        Episode(meta("pairs"), steps, fixed)


def test_a_record_has_rows_and_a_known_kind():
    with pytest.raises(SchemaError, match="number of rows = 0"):
        episode(rows=0)
    with pytest.raises(SchemaError, match="episode kind = 'films'"):
        Episode(meta("films"), *record())


def test_meta_reads_back_equal_through_json():
    for made in (meta(), meta("pairs", policy_version=None, encoder_sha256="cd" * 32)):
        assert EpisodeMeta.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_meta_refuses_other_keys_and_kinds():
    raw = meta().to_dict()
    with pytest.raises(SchemaError, match=r"missing \['phase'\], unknown \['face'\]"):
        EpisodeMeta.from_dict({("face" if k == "phase" else k): v for k, v in raw.items()})
    with pytest.raises(SchemaError, match="episode kind"):
        EpisodeMeta.from_dict(raw | {"kind": "films"})
    with pytest.raises(SchemaError, match="episode id"):
        EpisodeMeta.from_dict(raw | {"id": "films"})
    for wrong in ({"id": "films"}, {"kind": "films"}, {"face": ""}):
        with pytest.raises(SchemaError):
            EpisodeMeta.check(raw | wrong)
    EpisodeMeta.check(raw)


def test_content_hash_ignores_the_collector_and_nothing_else():
    base = episode().sha256()
    assert episode(collector="another").sha256() == base
    others = [episode(phase="sil"), episode(scene_seed=6), episode(rows=5)]
    for name in ("reward", "world_T_cam", "d_star"):
        steps, fixed = record()
        group = steps if name in steps else fixed
        group[name] = np.asarray(group[name] + 1, dtype=group[name].dtype)
        others.append(Episode(meta(), steps, fixed))
    steps, fixed = record()
    steps["z"] = np.asfortranarray(steps["z"])
    assert Episode(meta(), steps, fixed).sha256() == base
    assert len({base, *(o.sha256() for o in others)}) == 7


def test_optional_known_fields_may_come_along():
    steps, fixed = record("evaluation")
    steps["reward"] = np.zeros(4, dtype=np.float32)
    made = Episode(meta("evaluation"), steps, fixed)
    check_episode(made)
    steps["reward"] = np.zeros(3, dtype=np.float32)
    with pytest.raises(SchemaError, match="reward"):
        Episode(meta("evaluation"), steps, fixed)
