"""Names that make collected data traceable: policy versions, episode ids, content hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.errors import SchemaError, bad_value

_RUN_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_ROLE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CANONICAL = re.compile(rf"({_RUN_ID.pattern})/([0-9]{{4}})/({_ROLE.pattern})/([0-9]{{8}})/([0-9]{{6}})")


@dataclasses.dataclass(frozen=True, order=True)
class PolicyVersion:
    """Which weights acted.

    Attributes:
        lineage: branch of the run's history; a resume that cannot promise identical data opens the next one.
        counter: how many times weights were published in this lineage.
        sha256: content hash of the published weights (`weights_sha256`), hex; decides when the numbers lie.
    """

    lineage: int
    counter: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.lineage}.{self.counter}.{self.sha256[:12]}"


@dataclasses.dataclass(frozen=True, order=True)
class EpisodeId:
    """Unique name of an episode; the same work done twice has the same id, so that duplicates can be dropped.

    Sorting by id is sorting by (run, lineage, role, round, env): the order the samplers draw in, whoever wrote first.
    """

    run: str
    lineage: int
    role: str
    round: int
    env: int

    def __post_init__(self) -> None:
        if not _RUN_ID.fullmatch(self.run):
            raise SchemaError(bad_value("episode id run", self.run, f"a name matching {_RUN_ID.pattern}"))
        if not _ROLE.fullmatch(self.role):
            raise SchemaError(bad_value("episode id role", self.role, f"a name matching {_ROLE.pattern}"))
        for name, value, width in (("lineage", self.lineage, 4), ("round", self.round, 8), ("env", self.env, 6)):
            if not 0 <= value < 10**width:
                raise SchemaError(bad_value(f"episode id {name}", value, f"0 .. {10**width - 1}"))

    def __str__(self) -> str:
        return f"{self.run}/{self.lineage:04d}/{self.role}/{self.round:08d}/{self.env:06d}"

    @classmethod
    def parse(cls, text: str) -> EpisodeId:
        """Inverse of ``str``.

        Raises:
            SchemaError: if the text is not an episode id.
        """
        canonical = _CANONICAL.fullmatch(text)
        if canonical is not None:  # the usual case, and there may be a million of them
            run, lineage, role, round_, env = canonical.groups()
            return cls(run, int(lineage), role, int(round_), int(env))
        parts = text.split("/")
        if len(parts) != 5 or not all(p.isascii() and p.isdigit() for p in (parts[1], parts[3], parts[4])):
            raise SchemaError(bad_value("episode id", text, "run/lineage/role/round/env"))
        parsed = cls(parts[0], int(parts[1]), parts[2], int(parts[3]), int(parts[4]))
        if str(parsed) != text:
            raise SchemaError(bad_value("episode id", text, f"the canonical form {parsed}"))
        return parsed

    @classmethod
    def check(cls, text: str) -> None:
        """Refuse what `parse` refuses.

        Raises:
            SchemaError: as `parse`.
        """
        if _CANONICAL.fullmatch(text) is None:
            cls.parse(text)


def weights_sha256(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """Content hash of named arrays: names, dtypes, shapes and bytes, independent of the order of the mapping."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def json_sha256(value: object) -> str:
    """Content hash of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
