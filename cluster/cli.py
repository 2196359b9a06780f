"""The command line: one entry point, every verb takes `name=value` overrides of the configuration.

Exit codes: 0 done, 1 failed, 2 bad usage, 75 ended early because it was asked to (start it again), 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from cluster import bench_verb, render_server_verb, replay_verb, status_verb
from cluster.assets_verb import add_arguments
from cluster.bench_verb import quiet_libraries
from cluster.config_loading import load_config
from cluster.draining import EX_TEMPFAIL, Drained, Draining
from common.errors import ConfigError, ServofleetError, bad_value

_EXAMPLES = """examples:
  servofleet train experiment=quickstart            ten minutes on two cores; the same command continues a stopped run
  servofleet train experiment=quickstart seed=1     another seed, another run directory
  servofleet evaluate experiment=quickstart         evaluate the newest weights of that run again
  servofleet export run=runs/quickstart-0 out=policy   the policy as a program for a robot, checked against the run
  servofleet replay info runs/quickstart-0/store    what a replay store holds
  servofleet replay verify runs/quickstart-0/store  read all of it again and list what is wrong
  servofleet replay prune runs/quickstart-0/store --newest-steps 1000000 --dry-run   what a policy would delete
  servofleet replay plan --rate 20 experiment=quickstart   the disk that a run takes
  servofleet assets import models --out cache       OBJ, GLB and PLY models into a cache for scenes
  servofleet bench pipeline --json                  rates of every part on this machine
  servofleet bench render --quick                   our renderer against others, in a minute
  servofleet bench replay --quick                   our replay store against others, in four minutes
  servofleet bench learner --json                   our learners against plain torch loops
  servofleet bench inference --quick                frames per second of the policy, in a minute
  servofleet bench scale                            what 8 to 1024 environments cost the driver, without rendering them
  servofleet bench soak --minutes 30 --kills 100    a fleet under kills: nothing lost, nothing leaked
  servofleet render scenes.png scenes.difficulty=hard   a picture of scenes as episodes draw them
  servofleet status runs/quickstart-0 --watch       what a run is doing, from another shell
  servofleet render-server --listen unix:///run/user/1000/render.sock   a renderer for other processes
  servofleet doctor                                 what this machine lacks
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; errors a user can act on become one line on stderr."""
    arguments = parse(argv)
    try:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except ConfigError as e:
        print(f"servofleet: {e}", file=sys.stderr)
        return 2
    except Drained as e:
        print(f"servofleet: {e}", file=sys.stderr)
        return EX_TEMPFAIL
    except ServofleetError as e:
        print(f"servofleet: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("servofleet: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; settings may stand anywhere, where argparse alone takes them from one place only.

    Ends the process with exit code 2 on bad usage.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and (any(a.startswith("-") for a in rest) or not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


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
        "--policy", default="learned", help="learned (default), zero, pbvs, nearest_goal, moment_ibvs or export:DIR"
    )
    takes_overrides(evaluate)
    takes_overrides(
        verb("export", _export, "Write a run's policy as a program: run=DIR out=DIR [checkpoint=N] [image_size=PX].")
    )
    replay = verb("replay", replay_verb.replay, "Look into replay stores and keep them in order.")
    replay_verb.add_arguments(replay)
    add_arguments(verb("assets", _assets, "Import models into a cache that scenes are drawn from."))
    bench = verb("bench", bench_verb.bench, "Measure rates on this machine.")
    bench_verb.add_arguments(bench)
    takes_overrides(bench)
    render = verb("render", _render, "Draw scenes as episodes draw them into one picture, to look at.")
    render.add_argument("--count", type=bench_verb.positive, default=12, help="scenes (default 12)")
    render.add_argument("--side", type=bench_verb.positive, default=128, help="of one view in pixels (default 128)")
    render.add_argument("--seed", type=int, help="of the scenes (default: the configuration's)")
    render.add_argument("--kinds", metavar="KIND,KIND", help="kinds of scene in turn (default: all)")
    render.add_argument(
        "overrides", nargs="*", metavar="OUT.png | name=value", help="the picture (default scenes.png), and settings"
    )
    status_verb.add_arguments(verb("status", status_verb.status, "Say what a run is doing; works from any shell."))
    server = verb("render-server", render_server_verb.render_server, "Render for other processes of this machine.")
    render_server_verb.add_arguments(server)
    doctor = verb("doctor", _doctor, "Check this machine and say what to fix.")
    doctor.add_argument("--isaac", action="store_true", help="what it lacks to render with Isaac Sim, and nothing else")
    takes_overrides(doctor)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides)
    # Before the libraries are loaded: that takes seconds, in which a batch system may ask as well.
    with Draining(config.grace_s) as draining:
        quiet_libraries()
        from cluster.console import Display
        from cluster.driver import train

        report = train(config, Display(), draining)
    if arguments.json:
        print(json.dumps(report))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides)
    quiet_libraries()
    from cluster.evaluate_verb import evaluate_run

    _set_threads(config.learner_threads)
    result = evaluate_run(config, arguments.policy, as_json=arguments.json)
    if arguments.json:
        print(json.dumps(result))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from cluster.export_verb import export

    _set_threads(1)
    result = export(arguments.overrides)
    parity = result["manifest"]["parity"]
    agreed = f"agrees with the run on {parity['frames']} frames within {parity['command']:.2g}"
    print(json.dumps(result) if arguments.json else f"{result['out']}: {agreed}")
    return 0


def _render(arguments: argparse.Namespace) -> int:
    paths = [a for a in arguments.overrides if "=" not in a]
    if len(paths) > 1:
        raise ConfigError(bad_value("picture", paths, "one file name; settings are name=value"))
    config = load_config([a for a in arguments.overrides if "=" in a])
    quiet_libraries()
    from cluster.render_verb import render_scenes

    seed = config.seed if arguments.seed is None else arguments.seed
    kinds = None if arguments.kinds is None else arguments.kinds.split(",")
    out = paths[0] if paths else "scenes.png"
    result = render_scenes(config, out, kinds=kinds, count=arguments.count, seed=seed, side=arguments.side)
    print(json.dumps(result) if arguments.json else result["path"])
    return 0


def _assets(arguments: argparse.Namespace) -> int:
    from cluster.assets_verb import import_assets

    return import_assets(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from cluster.doctor import check_machine, print_checks
    from cluster.doctor_isaac import check_isaac

    config = load_config(arguments.overrides)
    checks = check_isaac() if arguments.isaac else check_machine(config)
    print_checks(checks, as_json=arguments.json)
    return 0 if all(c.ok for c in checks) else 1


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


if __name__ == "__main__":
    sys.exit(main())
