"""Write the reference pages that follow from the code: `make docs`, or `python docs/make_reference.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from common.config import PhaseConfig, RunConfig
from common.episode import EPISODE_FIELDS, KINDS, STEP_FIELDS, EpisodeMeta, Field

_NOTE = "<!-- Written by docs/make_reference.py from {source}; run `make docs` after a change there. -->\n"

_CONFIGURATION = """# Configuration

{note}
`servofleet VERB name=value ...` sets any of these by its dotted name; `experiment=NAME` picks the values to start from
(`configs/experiment/NAME.yaml`). A list is written `[a,b]`; a table is changed entry by entry (`table.key=value`, or
`+table.key=value` for a new entry). A value with commas, blanks or `=` in it goes in quotes: `"dir='my run'"`.

*Resume* says whether a run directory may be continued with another value: `fixed` settings must stay, `free` ones may
change. The settings of a phase are `phases.PHASE.NAME`, as in `phases.ppo.ppo.lr=5e-4`.
"""

_RECORD = """# The episode record

{note}
One record is an episode of T steps with T + 1 rows (the last row is the final observation), or a pair block: one goal
and N independent views. Step fields have one entry per row, episode fields one per record. A record of a kind must
carry the fields marked for it; `common/episode.py` checks names, dtypes and shapes. Frames and units are explained in
the [glossary](architecture.md#glossary).
"""


def configuration() -> str:
    """The page about every setting: name, default, meaning, bound, and whether a resumed run may change it."""
    parts = [_CONFIGURATION.format(note=_NOTE.format(source="common/config.py and common/scene_config.py"))]
    for prefix, node in _nodes(RunConfig, ""):
        title = f"`{prefix}`" if prefix else "The run"
        lines = [f"## {title}", "", " ".join((node.__doc__ or "").split()), ""]
        lines += ["| name | default | meaning | allowed | resume |", "|---|---|---|---|---|"]
        hints = get_type_hints(node)
        for field in dataclasses.fields(node):
            if dataclasses.is_dataclass(hints[field.name]) or field.name == "phases":
                continue
            meta = field.metadata
            cells = [f"`{field.name}`", f"`{_default(field)}`", meta["doc"], meta["allowed"], meta["resume"]]
            lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def record() -> str:
    """The page about every field of the episode record."""
    parts = [_RECORD.format(note=_NOTE.format(source="common/episode.py"))]
    for title, fields in (("Step fields", STEP_FIELDS), ("Episode fields", EPISODE_FIELDS)):
        lines = [f"## {title}", "", "| field | dtype | shape | unit | meaning | kinds |", "|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(_cell(c) for c in _field_cells(field)) + " |" for field in fields]
        parts.append("\n".join(lines) + "\n")
    known = ", ".join(f"`{f.name}`" for f in dataclasses.fields(EpisodeMeta))
    parts.append(f"## Provenance\n\nBesides its arrays every record says: {known}. See `common.episode.EpisodeMeta`.\n")
    return "\n".join(parts)


def _nodes(node: type[Any], prefix: str) -> Iterator[tuple[str, type[Any]]]:
    """The node itself and those below it, by dotted prefix; phases once, under a placeholder."""
    yield prefix, node
    hints = get_type_hints(node)
    for field in dataclasses.fields(node):
        hint = hints[field.name]
        if get_origin(hint) is dict and get_args(hint)[1] is PhaseConfig:
            yield from _nodes(PhaseConfig, f"{prefix}{field.name}.PHASE.")
        elif dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _nodes(hint, f"{prefix}{field.name}.")


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default if field.default != "" else '""'


def _field_cells(field: Field) -> list[str]:
    kinds = "all" if field.kinds == KINDS else ", ".join(field.kinds)
    shape = ", ".join(str(d) for d in field.dims)
    return [f"`{field.name}`", field.dtype, f"({shape})", field.unit, field.meaning, kinds]


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")


PAGES = {"configuration.md": configuration, "record.md": record}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(__file__).parent / name).write_text(page())
