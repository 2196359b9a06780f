"""From command-line overrides to a checked `RunConfig`: hydra composes, the dataclasses decide what is allowed.

The values come from `configs/` (installed as package data, so any working directory will do), the types from
`common.config`. Light: imports neither torch nor ray nor mlflow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from common.config import PhaseConfig, RunConfig, check, walk
from common.errors import ConfigError, bad_value

# Folders of configs/ whose files are chosen by name.
_GROUPS = ("experiment", "ablation")


def load_config(overrides: Sequence[str], config_dir: str | Path | None = None) -> RunConfig:
    """Compose, convert and check the configuration of a run.

    Args:
        overrides: hydra overrides, `experiment=NAME`, `ablation=NAME` or `ablation=[NAME,NAME]`, and
            `dotted.key=value`; later ones win.
        config_dir: a folder with an `experiment/` folder of the user's own yaml files. Its names come in addition to
            the ones that servofleet brings, which win where both have one.

    Returns:
        Plain dataclasses, every interpolation resolved and every bound of `common.config` checked.

    Raises:
        ConfigError: one line that names the key or experiment, and near matches or what is allowed.
    """
    own = Path(str(resources.files("configs")))
    extra = [] if config_dir is None else [_folder(config_dir)]
    parsed = [_parse(text) for text in overrides]
    for group in _GROUPS:
        names = _names([own, *extra], group)
        for override in (o for o in parsed if o.key_or_group == group):
            value = override.value()
            for name in value if isinstance(value, list) else [value]:
                if name is not None and name not in names:
                    raise ConfigError(bad_value(group, name, f"{names}{_suggest(str(name), names)}"))
    search = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in extra)}]"] if extra else []
    groups = [o.input_line for o in parsed if o.key_or_group in _GROUPS and o.input_line]
    try:
        config = _compose(own, [*search, *overrides])
    except ConfigError:
        # Composed without the other overrides the phases' names are known, and a key that does not exist can be told
        # from one whose value is wrong.
        _check_keys(parsed, _compose(own, [*search, *groups]))
        raise
    _check_keys(parsed, config)  # hydra lets +KEY through, and the conversion to dataclasses would drop it
    check(config)
    return config


def known_keys(config: RunConfig) -> list[str]:
    """Dotted names of everything that an override may set, inner nodes and the keys of dictionaries included."""
    names: set[str] = set()
    for leaf, value, _ in walk(config):
        parts = leaf.split(".")
        names.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
        if isinstance(value, dict):
            names.update(f"{leaf}.{key}" for key in value)
    return sorted(names)


def _compose(own: Path, overrides: list[str]) -> RunConfig:
    ConfigStore.instance().store(name="schema", node=RunConfig)
    try:
        with initialize_config_dir(str(own), version_base="1.3"):
            tree = compose("config", overrides=overrides)
        config = OmegaConf.to_object(tree)
    except (HydraException, OmegaConfBaseException) as e:
        raise ConfigError(_explain(e)) from e
    except YAMLError as e:
        raise ConfigError(f"not yaml: {' '.join(str(e).split())}") from e
    if not isinstance(config, RunConfig):
        raise ConfigError(f"{own / 'config.yaml'} does not start from the schema: its defaults list must name it first")
    return config


def _parse(text: str) -> Override:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as e:
        allowed = "key=value, with quotes around values that hold ',' '=' or blanks"
        raise ConfigError(bad_value("override", text, allowed)) from e
    if override.is_sweep_override():
        raise ConfigError(bad_value("override", text, "one value per key; a list is written [a,b]"))
    return override


def _check_keys(parsed: Iterable[Override], base: RunConfig) -> None:
    known = known_keys(base)
    tables = {name for name, value, _ in walk(base) if isinstance(value, dict)}
    for override in parsed:
        key = override.key_or_group
        parts = key.split(".")
        if (
            override.is_delete()
            or key in known
            or key in _GROUPS
            or (override.is_add() and key.rpartition(".")[0] in tables)
        ):
            continue
        if parts[0] == "phases" and len(parts) > 1 and parts[1] not in base.phases:
            allowed = f"{sorted(base.phases)} (new phases are written in an experiment's yaml)"
            raise ConfigError(bad_value("phase", parts[1], allowed))
        raise ConfigError(f"{key}: no such setting{_suggest(key, known)}")


def _suggest(seen: str, names: list[str]) -> str:
    """Near matches of the whole name; where a setting was put under the wrong node, of its last part."""
    found = difflib.get_close_matches(seen, names, n=3, cutoff=0.7)
    last = seen.rpartition(".")[2]
    found += [n for n in names if n.rpartition(".")[2] == last and n not in found][: 3 - len(found)]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _explain(error: Exception) -> str:
    """One line of hydra's or OmegaConf's exception: the key, what is wrong with it, near matches."""
    cause: BaseException = error
    while not isinstance(cause, OmegaConfBaseException) and cause.__cause__ is not None:
        cause = cause.__cause__
    text = f"{error}\n{cause}"
    key = re.search(r"full_key: (\S+)", text)
    unknown = re.search(r"Key '[^']*' (?:is )?not in ", text)
    where = re.match(r"In '([^']+)'", text)
    prefix = f"{where[1]}.yaml: " if where else ""
    if key and unknown:
        parts = key[1].split(".")
        phases = {parts[1]: PhaseConfig()} if parts[0] == "phases" and len(parts) > 2 else {}
        return f"{prefix}{key[1]}: no such setting{_suggest(key[1], known_keys(RunConfig(phases=phases)))}"
    lines = [line.strip() for line in str(cause).splitlines() if "raised while composing" not in line]
    message = lines[0] if lines else type(cause).__name__
    return f"{prefix}{key[1]}: {message}" if key and key[1] not in message else f"{prefix}{message}"


def _names(folders: list[Path], group: str) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser().resolve()
    if not (folder / "experiment").is_dir():
        raise ConfigError(bad_value("config_dir", str(path), "a folder that holds experiment/NAME.yaml files"))
    return folder
