"""`servofleet bench WHAT`: which benchmarks there are, and which options each of them takes."""

from __future__ import annotations

import argparse

from cluster.config_loading import load_config
from common.errors import ConfigError, bad_value

_FIXED = {
    "render": "its scene is",
    "render-server": "its scene is",
    "replay": "its episodes are",
    "inference": "its networks are",
    "scale": "its traffic is",
    "soak": "its fleet is",
}
_QUICK = ("render", "render-server", "replay", "inference", "scale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the verb its arguments, except `--json` and settings."""
    parser.add_argument(
        "what",
        choices=["pipeline", "render", "render-server", "replay", "learner", "inference", "scale", "soak"],
        help="pipeline: every part and end to end; render, replay, learner: ours against others; inference: policy; "
        "scale: many environments; soak: a fleet for long; render-server: a renderer in a process of its own",
    )
    parser.add_argument("--repeats", type=positive, default=3, help="repeats per figure; medians are reported")
    parser.add_argument("--quick", action="store_true", help="fewer configurations, about one minute")
    parser.add_argument("--pictures", metavar="DIR", help="render: keep a PNG of what each renderer drew")
    parser.add_argument("--minutes", type=float, help="soak: how long (default 30)")
    parser.add_argument("--kills", type=int, help="soak: processes killed meanwhile (default 0: memory is judged)")


def bench(arguments: argparse.Namespace) -> int:
    """Run a benchmark.

    Raises:
        ConfigError: if it does not take an option or a setting that was given.
    """
    what, repeats, as_json = arguments.what, arguments.repeats, arguments.json
    if what in _FIXED and arguments.overrides:
        raise ConfigError(bad_value(f"settings of bench {what}", arguments.overrides, f"none: {_FIXED[what]} fixed"))
    if what != "render" and arguments.pictures is not None:
        raise ConfigError(bad_value("bench", what, "render, with --pictures"))
    if what not in _QUICK and arguments.quick:
        raise ConfigError(bad_value("bench", what, f"one of {', '.join(_QUICK)}, with --quick"))
    if what != "soak" and (arguments.minutes is not None or arguments.kills is not None):
        raise ConfigError(bad_value("bench", what, "soak, with --minutes or --kills"))
    if what == "render":
        from cluster.bench_render import bench_render

        bench_render(repeats=repeats, quick=arguments.quick, as_json=as_json, pictures=arguments.pictures)
    elif what == "render-server":
        from cluster.bench_render_server import bench_render_server

        bench_render_server(repeats=repeats, quick=arguments.quick, as_json=as_json)
    elif what == "replay":
        from cluster.bench_replay import bench_replay

        bench_replay(repeats=repeats, quick=arguments.quick, as_json=as_json)
    elif what == "inference":
        from cluster.bench_inference import bench_inference

        bench_inference(quick=arguments.quick, as_json=as_json)
    elif what == "scale":
        quiet_libraries()
        from cluster.bench_scale import bench_scale

        bench_scale(quick=arguments.quick, as_json=as_json)
    elif what == "soak":
        quiet_libraries()
        from cluster.bench_soak import bench_soak

        minutes = 30.0 if arguments.minutes is None else arguments.minutes
        bench_soak(minutes=minutes, kills=arguments.kills or 0, as_json=as_json)
    else:
        config = load_config(arguments.overrides or ["experiment=quickstart"])
        quiet_libraries()
        if what == "learner":
            from cluster.bench_learner import bench_learner

            bench_learner(config, repeats=repeats, as_json=as_json)
        else:
            from cluster.bench_pipeline import bench_pipeline

            bench_pipeline(config, repeats=repeats, as_json=as_json)
    return 0


def positive(text: str) -> int:
    """A count of an option.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: allowed is >= 1")
    return value


def quiet_libraries() -> None:
    """Keep what libraries log at start-up out of the operator's view; warnings of ours are not logged but shown."""
    import logging
    import os

    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("WARP_QUIET", "1")
    for name in ("mlflow", "alembic", "ray", "ray.rllib"):
        logging.getLogger(name).setLevel(logging.ERROR)
