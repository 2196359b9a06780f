"""The typed configuration of a run. Each field says whether a resumed run may change it.

`configs/*.yaml` hold values, this file holds types, meanings and bounds; an unknown or mistyped key is an error that
names the key. A field declared `fixed` must be the same when a run directory is continued, a `free` one may change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from common.errors import ConfigError, bad_value
from common.learning_config import ImitationConfig as ImitationConfig
from common.learning_config import JitterConfig as JitterConfig
from common.learning_config import LearnerConfig as LearnerConfig
from common.learning_config import PPOConfig as PPOConfig
from common.learning_config import RewardConfig as RewardConfig
from common.learning_config import SelfImitationConfig as SelfImitationConfig
from common.network_config import NetworkConfig as NetworkConfig
from common.network_config import check_network, image_side, token_stride
from common.renderer_config import RendererConfig as RendererConfig
from common.renderer_config import check_renderer
from common.replay_config import ReplayConfig as ReplayConfig
from common.replay_config import check_replay
from common.scene_config import SceneConfig as SceneConfig
from common.scene_config import check_scenes
from common.settings import fixed, free


@dataclasses.dataclass
class EnvConfig:
    """The servo environment."""

    image_size: int = fixed(64, "side of the square images that policies see [px]", "> 0")
    mask_size: int = fixed(128, "side of the masks that IoU and rewards are computed from [px]", "> 0")
    fov_deg: float = fixed(50.0, "vertical field of view [deg]", "> 0")
    dt: float = fixed(0.12, "seconds one action is applied for", "> 0")
    gain: float = fixed(1.0, "commanded twist = gain x denormalised twist [1/s]", "> 0")
    max_twist: float = fixed(3.0, "actions with a larger norm are shortened to it (normalised) [1/s]", "> 0")
    min_height: float = fixed(0.05, "the camera is held at this height above the ground at least [m]", "> 0")


@dataclasses.dataclass
class PhaseConfig:
    """One entry of the schedule: what is learned, from what, and for how many samples."""

    kind: str = fixed("imitation", "which loss", "imitation|value_warmup|ppo|self_imitation")
    train: list[str] = fixed([], "parameter prefixes that learn; everything else is frozen")
    restart: list[str] = fixed([], "parameter prefixes that enter the phase with random weights again")
    samples: int = fixed(0, "the phase ends after this many samples: rows drawn (il), steps collected (RL, SIL)", "> 0")
    reward: RewardConfig = fixed(RewardConfig, "reward weights of this phase")
    imitation: ImitationConfig = fixed(ImitationConfig, "settings of an imitation phase")
    ppo: PPOConfig = fixed(PPOConfig, "settings of a value warm-up or PPO phase")
    self_imitation: SelfImitationConfig = fixed(SelfImitationConfig, "settings of a self-imitation phase")
    evaluate: bool = free(True, "evaluate the policy when the phase ends")


@dataclasses.dataclass
class EvaluationConfig:
    """The frozen, hashed held-out suite."""

    scenes: int = fixed(200, "held-out symmetric scenes", "> 0")
    steps: int = fixed(60, "fixed horizon of an episode", "> 10")
    stop_dt_norm: float = fixed(0.05, "the stopped column ends an episode when the action norm falls below this", "> 0")
    seed: int = fixed(20251, "seed of the suite; not the seed of the run", ">= 0")
    baselines: list[str] = free(["zero", "pbvs", "nearest_goal", "moment_ibvs"], "controllers to compare with")
    film_scenes: int = free(4, "scenes shown as film strips", ">= 0")
    every_rounds: int = free(0, "quick evaluation every so many imitation rounds; 0 is never", ">= 0")
    quick_scenes: int = free(40, "scenes of a quick evaluation", "> 0")
    # How the learned policy steers; PPO and self-imitation always act directly.
    control: str = fixed(
        "direct", "law: the regressed twist itself, or CNSv2 eq. 24 far from the goal", "direct|hybrid"
    )
    hybrid_near: float = fixed(0.1, "gravity centres farther apart start the hybrid law [image sides]", "> 0")
    hybrid_far: float = fixed(0.15, "once nearer than that, they must be this far apart to start it again", "> 0")
    control_source: str = fixed("regression", "head that the twist comes from", "regression|diffusion")
    hypotheses: int = fixed(16, "pose hypotheses that the diffusion head draws per step", "> 0")
    hypothesis_pick: str = fixed(
        "nearest",
        "hypothesis to follow: nearest to the regressed twist, or mode of the least motion",
        "nearest|smallest",
    )
    ddim_steps: int = fixed(10, "denoising steps per hypothesis, network.diffusion_levels at most", "> 0")
    # Other cameras than the policy was trained with (CNSv2 Table I).
    focal_scale: float = fixed(1.0, "focal length of the evaluation camera / of the training camera", "> 0")
    distance_scale: float = fixed(1.0, "factor on all distances between camera and target", "> 0")
    denormalise: bool = fixed(True, "tell the policy those two factors (CNSv2 eq. 18-21); false: it takes them for 1")


@dataclasses.dataclass
class FleetConfig:
    """The collectors."""

    collectors: int = free(2, "collector actors; 0 where replay.train_from gives the data", ">= 0")
    cpus_per_collector: float = free(0.5, "CPUs that Ray reserves per collector", ">= 0")
    shards: int = fixed(2, "pieces a round's work is cut into; any collector may do any piece", "> 0")
    min_collectors: int = free(1, "the run stops if fewer collectors answer for start_timeout_s", "> 0")
    max_collectors: int = free(0, "grow to so many where nodes have room; 0: no more than collectors", ">= 0")
    hang_timeout_s: float = free(90.0, "a collector without progress for this long, or without an answer, hangs", "> 0")
    task_timeout_s: float = free(1800.0, "a piece of work that takes longer is taken away, progress or not", "> 0")
    start_timeout_s: float = free(180.0, "the run stops if too few collectors answer for this long", "> 0")
    rounds_in_flight: int = free(
        2, "imitation rounds collected at a time where deterministic is false, each behind the one before", "> 0"
    )
    max_restarts: int = free(20, "collectors that may die, hang or raise within restart_window_s", ">= 0")
    restart_window_s: float = free(3600.0, "length of that window; 0: the whole run", ">= 0")
    quarantine_s: float = free(
        300.0, "a node whose collectors fail three times in a row gets none for this long", ">= 0"
    )
    max_age_s: float = free(0.0, "a collector older than this is renewed between tasks; 0: never", ">= 0")
    max_tasks: int = free(0, "a collector that did so many tasks is renewed; 0: never", ">= 0")
    max_rss_bytes: int = free(0, "a collector with more resident memory is renewed between tasks; 0: never", ">= 0")


@dataclasses.dataclass
class CheckpointConfig:
    """The checkpoints of a run."""

    every_s: float = free(30.0, "seconds between checkpoints; phase ends always write one", ">= 0")
    keep: int = free(2, "complete checkpoints kept, besides the last of each phase", "> 1")
    every_nth: int = free(0, "checkpoints whose number is a multiple of this are kept as well; 0 is none", ">= 0")
    keep_best: int = free(0, "checkpoints with the best IoU of each evaluation that are kept as well", ">= 0")
    on_error: str = free("stop", "what a run does when a checkpoint cannot be written", "stop|continue")


@dataclasses.dataclass
class RunConfig:
    """A whole run."""

    experiment: str = fixed("custom", "name of the experiment")
    dir: str = free("runs/${experiment}-${seed}", "run directory: replay store, checkpoints, MLflow record, report")
    seed: int = fixed(0, "seed of everything random", ">= 0")
    deterministic: bool = fixed(True, "collect in lock-step, so that a resumed run equals one never stopped")
    learner_threads: int = free(1, "torch threads of the learner", "> 0")
    ray_address: str = free("", "address of a Ray cluster; empty starts one on this machine")
    grace_s: float = free(25.0, "seconds from SIGTERM or SIGUSR1 to the end of the process, checkpoint written", "> 0")
    schedule: list[str] = fixed(["il", "value_warmup", "ppo", "sil", "ppo_smooth"], "phases in order")
    phases: dict[str, PhaseConfig] = fixed({}, "the phases by name")
    init_from: str = fixed("", "weights to start with: a run directory, RUN@PHASE or an export folder; empty: random")
    network: NetworkConfig = fixed(NetworkConfig, "the policy network")
    scenes: SceneConfig = fixed(SceneConfig, "what scenes are drawn from")
    env: EnvConfig = fixed(EnvConfig, "the servo environment")
    evaluation: EvaluationConfig = fixed(EvaluationConfig, "the held-out suite")
    learner: LearnerConfig = fixed(LearnerConfig, "the central learner")
    renderer: RendererConfig = fixed(RendererConfig, "the renderer")
    fleet: FleetConfig = fixed(FleetConfig, "the collectors")
    replay: ReplayConfig = fixed(ReplayConfig, "the replay store")
    checkpoint: CheckpointConfig = fixed(CheckpointConfig, "the checkpoints")


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every leaf setting as (dotted name, value, dataclass field), depth first in order of declaration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{name}.")
        elif isinstance(value, dict) and value and all(dataclasses.is_dataclass(v) for v in value.values()):
            for key, entry in value.items():
                yield from walk(entry, f"{name}.{key}.")
        else:
            yield name, value, field


def check(config: RunConfig) -> None:
    """Check every setting against its bound, and the settings against each other.

    Raises:
        ConfigError: naming the first setting that is out of bounds, its value and what is allowed.
    """
    for name, value, field in walk(config):
        allowed = field.metadata.get("allowed", "")
        if not _within(value, allowed):
            raise ConfigError(bad_value(name, value, allowed))
    for name in config.schedule:
        if name not in config.phases:
            raise ConfigError(bad_value("schedule", name, f"the names under phases: {sorted(config.phases)}"))
        if not config.phases[name].train:
            raise ConfigError(bad_value(f"phases.{name}.train", [], "at least one parameter prefix"))
    for name, phase in config.phases.items():
        rows = phase.imitation.rows_per_episode
        if phase.kind == "imitation" and phase.imitation.batch_size % rows:
            where = f"phases.{name}.imitation.batch_size"
            raise ConfigError(bad_value(where, phase.imitation.batch_size, f"a multiple of rows_per_episode = {rows}"))
    if config.learner.num_learners == 1:
        raise ConfigError(bad_value("learner.num_learners", 1, "0 (in the driver), or 2 and more"))
    if len(set(config.schedule)) != len(config.schedule):
        raise ConfigError(bad_value("schedule", config.schedule, "each phase once"))
    check_network(config.network)
    if config.env.image_size != image_side(config.network):
        allowed = f"{token_stride(config.network)} x network.match_grid = {image_side(config.network)}"
        raise ConfigError(bad_value("env.image_size", config.env.image_size, allowed))
    _check_control(config)
    _check_collecting(config)
    check_scenes(config.scenes)
    check_replay(config.replay)
    fleet = config.fleet
    check_renderer(
        config.renderer,
        sizes=(config.env.image_size, config.env.mask_size),
        collectors=max(fleet.collectors, fleet.max_collectors),
        hang_timeout_s=fleet.hang_timeout_s,
        task_timeout_s=fleet.task_timeout_s,
        start_timeout_s=fleet.start_timeout_s,
    )


def _check_control(config: RunConfig) -> None:
    evaluation, network = config.evaluation, config.network
    if evaluation.hybrid_far < evaluation.hybrid_near:
        allowed = f">= evaluation.hybrid_near = {evaluation.hybrid_near}"
        raise ConfigError(bad_value("evaluation.hybrid_far", evaluation.hybrid_far, allowed))
    if evaluation.control_source == "diffusion":
        if not network.diffusion:
            allowed = "regression, where network.diffusion = False"
            raise ConfigError(bad_value("evaluation.control_source", evaluation.control_source, allowed))
        if evaluation.ddim_steps > network.diffusion_levels:
            allowed = f"1 .. network.diffusion_levels = {network.diffusion_levels}"
            raise ConfigError(bad_value("evaluation.ddim_steps", evaluation.ddim_steps, allowed))


def _check_collecting(config: RunConfig) -> None:
    fleet = config.fleet
    if fleet.max_collectors and fleet.max_collectors < fleet.collectors:
        allowed = f"0, or >= fleet.collectors = {fleet.collectors}"
        raise ConfigError(bad_value("fleet.max_collectors", fleet.max_collectors, allowed))
    if fleet.min_collectors > max(fleet.collectors, 1):
        allowed = f"<= fleet.collectors = {fleet.collectors}"
        raise ConfigError(bad_value("fleet.min_collectors", fleet.min_collectors, allowed))
    if config.fleet.collectors:
        return
    if not config.replay.train_from:
        raise ConfigError(bad_value("fleet.collectors", 0, "> 0, or 0 with replay.train_from, a store to train from"))
    acting = [name for name in config.schedule if config.phases[name].kind != "imitation"]
    if acting:
        allowed = f"> 0 where the schedule has {acting}: they learn from what the newest weights did"
        raise ConfigError(bad_value("fleet.collectors", 0, allowed))


def evaluates(config: RunConfig) -> bool:
    """Whether anything is to be evaluated, which takes somebody who acts."""
    stages = any(config.phases[name].evaluate for name in config.schedule)
    return bool(config.evaluation.baselines or config.evaluation.every_rounds) or stages


def _within(value: Any, allowed: str) -> bool:
    if not allowed:
        return True
    if allowed.startswith(">= "):
        return bool(value >= float(allowed[3:]))
    if allowed.startswith("> "):
        return bool(value > float(allowed[2:]))
    if ".." in allowed:
        low, high = allowed.split("..")
        return bool(float(low) <= value <= float(high))
    return value in allowed.split("|")


def changed_fixed(old: dict[str, Any], new: RunConfig) -> list[tuple[str, Any, Any]]:
    """Settings declared `fixed` whose value differs from a recorded run's: (name, recorded value, new value).

    Args:
        old: what `flatten` gave for the recorded run. A setting that it lacks is younger than the run, which had the
            default of it: only another value is a change.
        new: the configuration asked for now.
    """
    gone = [n for n in old if n.startswith("phases.") and n.split(".")[1] not in new.phases]
    return _changed(old, new, "fixed") + [(n, old[n], None) for n in gone]


def changed_free(old: dict[str, Any], new: RunConfig) -> list[tuple[str, Any, Any]]:
    """As `changed_fixed`, of the settings that a resumed run may change."""
    return _changed(old, new, "free")


def _changed(old: dict[str, Any], new: RunConfig, resume: str) -> list[tuple[str, Any, Any]]:
    current = [(name, value, field) for name, value, field in walk(new) if field.metadata["resume"] == resume]
    changed = [(n, v) for n, v, field in current if (old[n] if n in old else _default(field)) != v]
    return [(name, old.get(name), value) for name, value in changed]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def flatten(config: RunConfig) -> dict[str, Any]:
    """All settings by dotted name, JSON-ready."""
    return {name: value for name, value, _ in walk(config)}
