"""`servofleet assets import`: models into a cache, with a progress bar and a table of what was refused and why."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from actors.assets.importing import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `servofleet assets` takes; choices and defaults repeat `ImportSettings`, which is slow to import."""
    add = parser.add_argument
    add("action", choices=["import"], help="import: read models, decimate them, store them in a cache")
    add("folder", metavar="DIR", help="folder of models")
    add("--out", required=True, metavar="CACHE", help="folder of the cache; made if it does not exist")
    layouts = ["auto", "gso", "ycb", "omniobject3d", "flat"]
    add("--layout", choices=layouts, default="auto", help="how DIR is laid out (default auto: found out by folder)")
    add("--max-triangles", type=int, default=5000, metavar="N", help="decimate what has more (default 5000)")
    add("--texture-side", type=int, default=512, metavar="S", help="largest side of a texture in texels (default 512)")
    add("--licence", default="", metavar="TEXT", help="licence of these models, kept with each")
    add("--symmetry", metavar="FILE.json", help="symmetries by model name")
    add("--up", choices=["file", "y", "z"], default="file", help="axis that points up (default file: y in GLB, else z)")
    add("--scale", type=float, default=1.0, metavar="M", help="metres per unit of the files (default 1)")
    add(
        "--missing-texture",
        choices=["error", "plain"],
        default="error",
        help="a picture that a file names is missing: refuse the model (default), or use its material's plain colour",
    )
    add("--allow-errors", action="store_true", help="exit with 0 although models were refused")


def import_assets(arguments: argparse.Namespace) -> int:
    """Run the verb; 0 if every model is in the cache or `--allow-errors` is given, 1 if one was refused.

    Raises:
        ConfigError: if a setting is out of range or the folder is none.
        AssetError: if there is no model, or the cache cannot be used.
    """
    from rich.console import Console
    from rich.progress import Progress

    from actors.assets.importing import import_models, read_symmetries
    from actors.assets.layouts import find_models
    from actors.assets.manifest import ImportSettings

    folder, cache = Path(arguments.folder), Path(arguments.out)
    settings = ImportSettings(
        arguments.max_triangles, arguments.texture_side, arguments.up, arguments.scale, arguments.missing_texture
    )
    symmetries = read_symmetries(Path(arguments.symmetry)) if arguments.symmetry else {}
    models = find_models(folder, arguments.layout)
    outcomes: list[Outcome] = []
    # Closing publishes what is done, also after Ctrl-C.
    steps = closing(import_models(folder, models, cache, settings, arguments.licence, symmetries))
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress, steps as iterator:
        task = progress.add_task("importing", total=len(models))
        for outcome in iterator:
            outcomes.append(outcome)
            progress.update(task, advance=1, description=f"importing, last {outcome.name}"[:40])
    report = _report(cache, outcomes)
    if arguments.json:
        print(json.dumps(report))
    else:
        _print(report, Console())
    return 1 if report["failed"] and not arguments.allow_errors else 0


def _report(cache: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    from actors.assets.manifest import read_manifest

    counts = Counter(o.status for o in outcomes)
    records, sha256 = read_manifest(cache)
    return {
        "cache": str(cache),
        "imported": counts["imported"],
        "replaced": counts["replaced"],
        "unchanged": counts["unchanged"],
        "failed": [{"file": o.file, "error": o.error} for o in outcomes if o.status == "failed"],
        "assets": len(records),
        "triangles": sum(r.triangles for r in records),
        "manifest_sha256": sha256,
    }


def _print(report: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not console.is_terminal:
        # A log file has no width.
        console.width = max(console.width, 100)
    if report["failed"]:
        table = Table("file", "refused because", title="refused models")
        for row in report["failed"]:
            table.add_row(escape(row["file"]), escape(row["error"]))
        console.print(table)
    done = ", ".join(f"{report[key]} {key}" for key in ("imported", "replaced", "unchanged"))
    nothing = "" if report["imported"] or report["replaced"] else " (nothing changed)"
    text = f"{done}, {len(report['failed'])} refused{nothing}; {report['assets']} models in {report['cache']}"
    console.print(text, highlight=False, soft_wrap=True, markup=False)
