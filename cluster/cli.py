"""The command line: one entry point, every verb takes `name=value` overrides of the configuration.

Exit codes: 0 done, 1 failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from cluster.config_loading import load_config
from common.errors import ConfigError, ServofleetError

_EXAMPLES = """examples:
  servofleet train experiment=quickstart            ten minutes on two cores; the same command continues a stopped run
  servofleet train experiment=quickstart seed=1     another seed, another run directory
  servofleet evaluate experiment=quickstart         evaluate the newest weights of that run again
  servofleet replay info runs/quickstart-0/store    what a replay store holds
  servofleet bench pipeline --json                  rates of every part on this machine
  servofleet doctor                                 what this machine lacks
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; errors a user can act on become one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except ConfigError as e:
        print(f"servofleet: {e}", file=sys.stderr)
        return 2
    except ServofleetError as e:
        print(f"servofleet: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("servofleet: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="servofleet",
        description="Train visual-servo policies with a fleet of renderers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        return sub

    def takes_overrides(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("overrides", nargs="*", metavar="name=value", help="settings, e.g. experiment=smoke seed=3")

    takes_overrides(verb("train", _train, "Train a run, or continue it: the run directory decides."))
    evaluate = verb("evaluate", _evaluate, "Evaluate a run's newest weights, or a baseline, on the held-out suite.")
    evaluate.add_argument(
        "--policy", default="learned", help="learned (default), zero, pbvs, nearest_goal or moment_ibvs"
    )
    takes_overrides(evaluate)
    replay = verb("replay", _replay, "Look into a replay store.")
    replay.add_argument("action", choices=["info"], help="info: episodes, rows, bytes, phases, versions, IoU, writers")
    replay.add_argument("path", help="store directory")
    bench = verb("bench", _bench, "Measure rates on this machine.")
    bench.add_argument("what", choices=["pipeline"], help="pipeline: render, collect, store, sample, learn, end to end")
    bench.add_argument("--repeats", type=int, default=3, help="repeats per figure; medians are reported")
    takes_overrides(bench)
    takes_overrides(verb("doctor", _doctor, "Check this machine and say what to fix."))
    return parser


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides)
    _quiet_libraries()
    from cluster.console import Display
    from cluster.driver import train
    from cluster.program import stop_on_sigterm

    stop_on_sigterm()
    _set_threads(config.learner_threads)
    report = train(config, Display())
    if arguments.json:
        print(json.dumps(report))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides)
    _quiet_libraries()
    from cluster.evaluate_verb import evaluate_run

    _set_threads(config.learner_threads)
    result = evaluate_run(config, arguments.policy, as_json=arguments.json)
    if arguments.json:
        print(json.dumps(result))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from replay.inspect import print_info, store_info

    info = store_info(arguments.path)
    if arguments.json:
        print(json.dumps(info))
    else:
        print_info(info, Console())
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides or ["experiment=quickstart"])
    _quiet_libraries()
    from cluster.bench_pipeline import bench_pipeline

    bench_pipeline(config, repeats=arguments.repeats, as_json=arguments.json)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from cluster.doctor import check_machine, print_checks

    config = load_config(arguments.overrides)
    checks = check_machine(config)
    print_checks(checks, as_json=arguments.json)
    return 0 if all(c.ok for c in checks) else 1


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _quiet_libraries() -> None:
    """Keep what libraries log at start-up out of the operator's view; warnings of ours are not logged but shown."""
    import logging
    import os

    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("WARP_QUIET", "1")
    for name in ("mlflow", "alembic", "ray", "ray.rllib"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
