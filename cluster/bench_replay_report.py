"""How the benches of the replay store and of the learner show their results: two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_result(
    result: Mapping[str, Any], goals: Mapping[str, tuple[float | None, bool]], console: Console | None = None
) -> None:
    """Print a result; `goals` says which ratios must reach their goal and which must not exceed it."""
    console = Console() if console is None else console
    table = Table("figure", "system", "value", "unit", "", title=f"{result['bench']} on {result['machine']['cpu']}")
    for row in result["rows"]:
        value, params = row["value"], row["params"]
        shown = "missing" if value is None else f"{value:,.0f}" if value >= 100.0 else f"{value:,.2f}"
        notes = params.get("missing") or ", ".join(f"{k} {v}" for k, v in params.items() if k != "repeats")
        table.add_row(row["name"], row["system"], shown, row["unit"], notes)
    console.print(table)
    table = Table("ratio", "value", "goal", "holds")
    for ratio in result["ratios"]:
        goal, at_least = goals[ratio["name"]]
        shown = "missing" if ratio["value"] is None else f"{ratio['value']:,.2f}"
        sign = "" if goal is None else f"{'>=' if at_least else '<='} {goal:g}"
        table.add_row(ratio["name"], shown, sign, "" if ratio["holds"] is None else str(ratio["holds"]))
    console.print(table)
