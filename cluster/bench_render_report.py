"""How `servofleet bench render` shows its result: tables, and pictures of what each renderer drew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

_SHOWN = 8  # cameras in a picture
_COLORS = np.array([[0, 0, 0], [230, 75, 60], [60, 180, 90], [60, 110, 230]], np.uint8)  # of ids 0 .. 3


def print_result(result: Mapping[str, Any], goals: Mapping[str, tuple[float, bool]]) -> None:
    """Print a result as tables; `goals` says which ratios must reach their goal and which must not exceed it."""
    console = Console()
    rows = result["rows"]
    table = _table(
        "figure", "system", "frames/CPU-s", "frames/s", "id mismatch", title=f"render on {result['machine']['cpu']}"
    )
    for row in rows:
        if row["unit"] == "frames/CPU-s":
            wall, wrong = row["params"].get("frames_per_wall_s"), row["params"].get("id_mismatch")
            shown = "" if wrong is None else f"{100 * wrong:.3f} %"
            table.add_row(row["name"], row["system"], _number(row), "" if wall is None else f"{wall:,.0f}", shown)
    if table.row_count:
        console.print(table)
    table = _table("figure", "system", "value", "unit", "")
    for row in rows:
        if row["unit"] != "frames/CPU-s":
            notes = ", ".join(f"{k} {row['params'][k]}" for k in ("scenes", "busy", "missing") if k in row["params"])
            table.add_row(row["name"], row["system"], _number(row), row["unit"], notes)
    console.print(table)
    table = _table("ratio", "value", "goal", "holds")
    for ratio in result["ratios"]:
        goal = "" if ratio["goal"] is None else f"{'>=' if goals[ratio['name']][1] else '<='} {ratio['goal']:g}"
        value = "missing" if ratio["value"] is None else f"{ratio['value']:,.2f}"
        table.add_row(ratio["name"], value, goal, "" if ratio["holds"] is None else str(ratio["holds"]))
    console.print(table)


def _table(*columns: str, title: str | None = None) -> Table:
    """Columns that wrap rather than cut a name."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(row: Mapping[str, Any]) -> str:
    value = row["value"]
    if value is None:
        return "missing"
    return f"{value:,.0f}" if value >= 100.0 else f"{value:,.2f}"


def picture(frames: Mapping[str, NDArray[Any]]) -> Image.Image:
    """Colours, instance ids and depth, one above the other, of the first cameras.

    Args:
        frames: rgb u8 (N, H, W, 3), instance_id (N, H, W), depth (N, H, W) [m]; depth: white at 0.4 m, black at 1.2 m.
    """
    rgb, ids, depth = (frames[k][:_SHOWN] for k in ("rgb", "instance_id", "depth"))
    grey = (np.clip((1.2 - depth) / 0.8, 0.0, 1.0) * 255.0).astype(np.uint8)
    rows = [rgb, _COLORS[ids], np.repeat(grey[..., None], 3, axis=-1)]
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
