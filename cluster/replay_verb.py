"""`servofleet replay ...`: look into replay stores and keep them in order."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from common.errors import ConfigError, StoreError, bad_value

Progress = Callable[[int, int], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs below `servofleet replay`."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Callable[..., Any]:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(act=run)
        # Suppressed: this parser would otherwise take back what stood before the verb.
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on stdout"
        )
        return sub.add_argument

    def with_store(add: Callable[..., Any], lease: bool = False) -> None:
        add("path", metavar="STORE", help="folder or URL of the store: s3://bucket/prefix, gs://..., az://...")
        if lease:
            text = "uncommitted segments and temporary files younger than this are left alone (default 24)"
            add("--lease-hours", type=float, default=24.0, metavar="H", help=text)

    with_store(verb("info", _info, "Episodes, rows, bytes, phases, policy versions, IoU, writers, age."))
    with_store(verb("verify", _verify, "Read everything again and list what is wrong."), lease=True)

    add = verb("repair", _repair, "Move what is damaged to the store's quarantine and build the index anew.")
    with_store(add, lease=True)
    add("--dry-run", action="store_true", help="change nothing, only say what would happen")
    add("--index", metavar="FILE", help="a reader's SQLite file, to be built anew")

    add = verb("merge", _merge, "Copy the episodes of stores into one; duplicates are dropped, the result is verified.")
    add("paths", nargs="+", metavar="STORE", help="stores to read")
    add("-o", "--out", required=True, metavar="STORE", help="store to write; a merge that was stopped goes on here")

    add = verb(
        "prune", _prune, "Take out what a policy no longer keeps, and delete what was taken out long enough ago."
    )
    with_store(add, lease=True)
    add("--newest-steps", type=int, metavar="N", help="keep the newest records, N rows at least")
    add("--max-bytes", type=int, metavar="B", help="keep no more of the newest than fit into B bytes with the rest")
    add("--min-iou", type=float, metavar="X", help="keep records with an episode that reached this IoU")
    text = "delete records that were taken out longer ago than this (default 1); pinned ones stay"
    add("--grace-hours", type=float, default=1.0, metavar="H", help=text)
    add("--dry-run", action="store_true", help="change nothing, only say what would go")

    add = verb("export", _export, "Write the episodes as one zarr group, or the small fields as a Parquet table.")
    with_store(add)
    add("out", help="folder (zarr) or file (parquet) that does not exist yet")
    add("--to", required=True, choices=["zarr", "parquet"], help="form of the export")
    add("--kind", help="only this kind of records; needed for zarr where the store holds several")
    add("--phase", help="only episodes of this phase")

    add = verb("plan", _plan, "Bytes per hour and days of disk for a configuration.")
    add("--rate", type=float, metavar="R", help="episodes per second of the whole fleet")
    add("--measure", metavar="STORE", help="take the rate from a store that grew")
    add("--disk", metavar="PATH", help="any path on the disk (default: the run directory's)")
    add("overrides", nargs="*", metavar="name=value", help="settings, e.g. experiment=quickstart env.image_size=64")


def replay(arguments: argparse.Namespace) -> int:
    """Run a verb: 0 done, 1 something is wrong with the store or it failed, 2 bad usage.

    Raises:
        StoreError, ConfigError: one line that names what is wrong.
    """
    act: Callable[[argparse.Namespace], int] = arguments.act
    try:
        return act(arguments)
    except KeyboardInterrupt:
        text = "stopped; the store is valid, and the same command goes on or starts again"
        print(f"servofleet replay {arguments.action}: {text}", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _progress(text: str, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(f"{text} [{unit}]", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(arguments: argparse.Namespace, result: dict[str, Any], lines: list[str]) -> None:
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(lines))


def _info(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from replay.inspect import print_info, store_info

    info = store_info(arguments.path)
    if arguments.json:
        print(json.dumps(info))
    else:
        print_info(info, Console())
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from replay.verify import find_faults

    with _progress("verifying", "bytes") as progress:
        faults = find_faults(arguments.path, lease_s=_seconds(arguments, "lease_hours"), progress=progress)
    result = {"path": arguments.path, "whole": not faults, "faults": [dataclasses.asdict(f) for f in faults]}
    _say(arguments, result, [str(f) for f in faults] or [f"{arguments.path} is whole"])
    return 1 if faults else 0


def _repair(arguments: argparse.Namespace) -> int:
    from replay.repair import repair

    lease = _seconds(arguments, "lease_hours")
    with _progress("repairing", "bytes") as progress:
        done = repair(
            arguments.path,
            dry_run=arguments.dry_run,
            lease_s=lease,
            index_path=arguments.index,
            progress=progress,
        )
    would = "would be " if arguments.dry_run else ""
    lines = [*done.faults, *(f"{would}moved to quarantine: {path}" for path in done.moved)]
    lines += [f"{would}committed again: {i}" for i in done.saved] + [f"lost: {i}" for i in done.lost]
    _say(arguments, {"dry_run": arguments.dry_run, **dataclasses.asdict(done)}, lines or ["nothing to repair"])
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from replay.merge import merge

    with _progress("merging", "episodes") as progress:
        done = merge(arguments.paths, arguments.out, progress=progress)
    text = f"{done.episodes} episodes in {arguments.out}: {done.copied} copied, {done.duplicates} duplicates dropped"
    lines = [f"{text}, {len(done.conflicts)} ids with different content"]
    _say(arguments, {"out": arguments.out, **dataclasses.asdict(done)}, lines)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from replay.retention import Retention, plan_prune, prune, sweep
    from replay.store import open_store

    try:
        policy = Retention(arguments.newest_steps, arguments.max_bytes, arguments.min_iou)
    except StoreError as error:
        raise ConfigError(str(error)) from error
    grace, lease = _seconds(arguments, "grace_hours"), _seconds(arguments, "lease_hours")
    store = open_store(arguments.path, "r" if arguments.dry_run else "a")
    try:
        store.refresh()
        plan = plan_prune(store, policy)
        if not arguments.dry_run:
            prune(store, plan)
        with _progress("deleting", "tombstones") as progress:
            swept = sweep(store, grace_s=grace, lease_s=lease, dry_run=arguments.dry_run, progress=progress)
    finally:
        store.close()
    result = {"dry_run": arguments.dry_run, **plan.summary(), "swept": dataclasses.asdict(swept)}
    would = "would be " if arguments.dry_run else ""
    lines = [
        f"{part}: {c['records']} records, {c['episodes']} episodes, {c['rows']} rows, {c['bytes'] / 1e6:.1f} MB"
        for part in ("going", "pinned", "successful", "newest")
        for c in (result[part],)
    ]
    lines.append(
        f"{would}deleted: {swept.deleted} records, {swept.uncommitted} uncommitted segments, {swept.bytes / 1e6:.1f} "
        f"MB; taken out but kept: {swept.in_grace} in their grace period, {swept.pinned} pinned"
    )
    _say(arguments, result, lines)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from replay.export import export

    with _progress("exporting", "episodes") as progress:
        done = export(
            arguments.path, arguments.out, arguments.to, kind=arguments.kind, phase=arguments.phase, progress=progress
        )
    line = f"{done['episodes']} episodes, {done['rows']} rows, {done['bytes'] / 1e6:.1f} MB in {arguments.out}"
    _say(arguments, {"out": arguments.out, **done}, [line])
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from cluster.config_loading import load_config
    from cluster.replay_plan import print_plan, replay_plan

    config = load_config(arguments.overrides or ["experiment=quickstart"])
    plan = replay_plan(config, arguments.rate, arguments.measure, arguments.disk)
    if arguments.json:
        print(json.dumps(plan))
    else:
        print_plan(plan, Console())
    return 0


def _seconds(arguments: argparse.Namespace, name: str) -> float:
    hours: float = getattr(arguments, name)
    if not hours >= 0:
        raise ConfigError(bad_value(f"--{name.replace('_', '-')}", hours, ">= 0"))
    return hours * 3600
