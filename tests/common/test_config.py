import copy
import dataclasses
import json

import pytest

from common.config import PhaseConfig, RunConfig, changed_fixed, check, flatten, walk
from common.errors import ConfigError


def config():
    phases = {name: PhaseConfig(train=["policy."], samples=10) for name in RunConfig().schedule}
    return RunConfig(phases=phases)


def put(target, dotted, value):
    *path, last = dotted.split(".")
    for key in path:
        target = target[key] if isinstance(target, dict) else getattr(target, key)
    setattr(target, last, value)


def outside(allowed):
    """Values that a bound must refuse."""
    if allowed.startswith(">="):
        return [float(allowed[2:]) - 1e-9, float("nan")]
    if allowed.startswith(">"):
        return [float(allowed[1:]), float("nan")]
    if ".." in allowed:
        return [float(allowed.split("..")[0]) - 1e-9, float(allowed.split("..")[1]) + 1e-9, float("nan")]
    return ["surely_not_this"]


def inside(allowed):
    """Values that a bound must let pass."""
    if allowed.startswith(">="):
        return [float(allowed[2:])]
    if allowed.startswith(">"):
        return [float(allowed[1:]) + 1]
    if ".." in allowed:
        return [float(x) for x in allowed.split("..")]
    return allowed.split("|")


def once(name):
    """True for one of the phases: they are all of one type."""
    return not name.startswith("phases.") or name.startswith("phases.ppo.")


# Settings that `check` also compares with each other.
LINKED = {
    "network.backbone",
    "network.match_grid",
    "network.transformer_width",
    "env.image_size",
    "fleet.collectors",
    "renderer.backend",
    "renderer.place",
    "scenes.min_distance",
    "scenes.max_distance",
    "scenes.min_objects",
    "scenes.max_objects",
    "phases.ppo.imitation.batch_size",
    "phases.ppo.imitation.rows_per_episode",
    "evaluation.hybrid_near",
    "replay.slow_free_bytes",
}
BOUNDED = [
    (name, field.metadata["allowed"])
    for name, _, field in walk(config())
    if field.metadata.get("allowed") and once(name)
]


def test_every_setting_says_what_it_means_and_whether_a_resume_may_change_it():
    leaves = list(walk(config()))
    assert len(leaves) > 100
    for name, _, field in leaves:
        assert field.metadata.get("resume") in ("fixed", "free"), name
        assert len(field.metadata.get("doc", "")) > 3, name


def test_the_diffusion_head_can_only_steer_where_there_is_one():
    c = config()
    c.evaluation.control_source = "diffusion"
    check(c)
    c.evaluation.ddim_steps = 51
    with pytest.raises(ConfigError, match=r"ddim_steps = 51: allowed is 1 .. network.diffusion_levels = 50"):
        check(c)
    c.network.diffusion = False
    with pytest.raises(ConfigError, match=r"control_source = 'diffusion': allowed is regression"):
        check(c)


def test_defaults_are_within_their_bounds_and_shared_by_no_two_configs():
    a, b = config(), config()
    check(a)
    a.schedule.append("x")
    a.scenes.imitation_mix["y"] = 1.0
    a.network.widths.clear()
    a.env.dt = 9.0
    assert flatten(b) == flatten(config())


@pytest.mark.parametrize(("name", "allowed"), BOUNDED)
def test_every_bound_holds_and_its_error_names_the_setting(name, allowed):
    for value in outside(allowed):
        bad = config()
        put(bad, name, value)
        with pytest.raises(ConfigError) as caught:
            check(bad)
        assert str(caught.value).startswith(f"{name} = {value!r}: allowed is {allowed}")
    for value in inside(allowed) if name not in LINKED else []:
        good = config()
        put(good, name, value)
        check(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.schedule.append("more"), "schedule = 'more': allowed is the names under phases"),
        (lambda c: c.schedule.append("il"), "schedule = .* each phase once"),
        (lambda c: c.phases["ppo"].train.clear(), r"phases\.ppo\.train = \[\]"),
        (lambda c: put(c, "env.image_size", 72), r"env\.image_size = 72: allowed is 8 x network\.match_grid = 64"),
        (lambda c: put(c, "scenes.max_distance", 0.1), r"scenes\.max_distance = 0\.1: .*min_distance"),
        (lambda c: put(c, "phases.il.imitation.batch_size", 15), r"il\.imitation\.batch_size = 15: .*a multiple of"),
        (
            lambda c: put(c, "evaluation.hybrid_far", 0.05),
            r"evaluation\.hybrid_far = 0\.05: .* >= evaluation\.hybrid_near",
        ),
        (lambda c: put(c, "replay.slow_free_bytes", 0), r"slow_free_bytes = 0: .* least replay\.stop_free_bytes"),
        (lambda c: put(c, "replay.error_band", 1.0), r"error_band = 1\.0: allowed is 0 where"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(change, message):
    bad = config()
    change(bad)
    with pytest.raises(ConfigError, match=message):
        check(bad)


def recorded():
    """What a run directory holds: a JSON round trip of the flat settings."""
    return json.loads(json.dumps(flatten(config())))


def test_an_unchanged_config_resumes():
    assert changed_fixed(recorded(), config()) == []


@pytest.mark.parametrize(
    "name", [name for name, value, _ in walk(config()) if isinstance(value, int | float) and once(name)]
)
def test_a_changed_number_is_reported_exactly_if_it_is_fixed(name):
    new = config()
    old = flatten(new)[name]
    put(new, name, old + 1)
    resume = next(field.metadata["resume"] for n, _, field in walk(new) if n == name)
    assert changed_fixed(recorded(), new) == ([(name, old, old + 1)] if resume == "fixed" else [])


def test_changed_lists_and_phases_are_reported():
    new = config()
    new.network.widths = [1, 2, 3]
    assert changed_fixed(recorded(), new) == [("network.widths", [24, 40, 56], [1, 2, 3])]
    less = config()
    del less.phases["ppo"]
    names = {name for name, _, _ in changed_fixed(recorded(), less)}
    assert "phases.ppo.samples" in names and all(n.startswith("phases.ppo.") for n in names)
    more = config()
    more.phases["again"] = copy.deepcopy(more.phases["ppo"])
    assert ("phases.again.samples", None, 10) in changed_fixed(recorded(), more)


def test_walk_goes_into_phases_by_their_names():
    flat = flatten(config())
    assert flat["phases.sil.self_imitation.lr"] == 3e-4
    assert flat["scenes.rl_mix"] == {"sym_diff": 0.5, "sym_same": 0.5}
    assert not any(dataclasses.is_dataclass(v) for v in flat.values())
