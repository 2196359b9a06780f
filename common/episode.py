"""The episode record: one typed schema, the single source for replay arrays, wire messages and learner batches.

A record holds *rows*. An episode of T steps has T + 1 rows: row t is the observation before action t, and the last row
is the final observation (its action fields are zero and `action_valid` is false). A *pair block* is a record too: one
goal and N independent views of one scene, one row each, with no order between them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import SchemaError, bad_value
from common.identity import EpisodeId, PolicyVersion

SCHEMA_VERSION = 1

Kind = Literal["pairs", "dagger", "rollout", "evaluation"]
KINDS: tuple[Kind, ...] = ("pairs", "dagger", "rollout", "evaluation")


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of the record.

    Attributes:
        name: of the array.
        dtype: numpy dtype name.
        dims: names of the trailing axes; the same name has the same length throughout a record. Numbers are literal.
        unit: SI unit, "1" for dimensionless, "" for categorical.
        meaning: one sentence, frames included.
        level: "step" fields have one entry per row, "episode" fields one per record.
        kinds: record kinds that must carry the field.
    """

    name: str
    dtype: str
    dims: tuple[str | int, ...]
    unit: str
    meaning: str
    level: Literal["step", "episode"]
    kinds: tuple[Kind, ...]


_IMITATION: tuple[Kind, ...] = ("pairs", "dagger")
_ACTING: tuple[Kind, ...] = ("dagger", "rollout", "evaluation")
_RL: tuple[Kind, ...] = ("rollout",)
_SCORED: tuple[Kind, ...] = ("rollout", "evaluation")

STEP_FIELDS: tuple[Field, ...] = (
    Field("image", "uint8", ("height", "width", 3), "1", "current RGB image", "step", _IMITATION),
    Field("mask", "bool", ("height", "width"), "1", "target instance in the current image", "step", _IMITATION),
    Field("match", "float16", ("grid", "grid", 2), "1", "where the surface point at each grid cell centre of the "
          "current image appears in the goal image, (x, y) in units of its sides; NaN where it is not visible", "step",
          _IMITATION),
    Field("expert_twist", "float32", (6,), "1/s", "normalised twist [v; w] that the expert wants", "step", _IMITATION),
    Field("label_valid", "bool", (), "1", "expert_twist may be learned from", "step", _IMITATION),
    Field("world_T_cam", "float64", (4, 4), "m", "camera pose at this row", "step", KINDS),
    Field("action", "float32", (6,), "1/s", "normalised twist as the policy chose or sampled it", "step", _ACTING),
    Field("twist_applied", "float32", (6,), "m/s, rad/s", "camera twist as executed, after clamp and denormalisation",
          "step", _ACTING),
    Field("action_valid", "bool", (), "1", "an action was taken at this row (false in the final row)", "step", _ACTING),
    Field("terminated", "bool", (), "1", "the action of this row ended the episode for good", "step", _ACTING),
    Field("truncated", "bool", (), "1", "the episode was cut after the action of this row", "step", _ACTING),
    Field("iou", "float32", (), "1", "IoU of current and goal target mask at this row", "step", _SCORED),
    Field("reward", "float32", (), "1", "reward of the action of this row (Sym-Servo eq. 10)", "step", _RL),
    Field("reward_iou", "float32", (), "1", "IoU term (eq. 5)", "step", _RL),
    Field("reward_center", "float32", (), "1", "mask-centre term (eq. 6)", "step", _RL),
    Field("reward_visibility", "float32", (), "1", "visibility term (eq. 7)", "step", _RL),
    Field("reward_action", "float32", (), "1", "action regularisation term (eq. 8)", "step", _RL),
    Field("reward_success", "float32", (), "1", "task completion term (eq. 9)", "step", _RL),
    Field("z", "float32", ("feature",), "1", "frozen feature that enters the terminal MLP", "step", _RL),
    Field("logp", "float32", (), "1", "log-probability of action under the policy that acted", "step", _RL),
    Field("action_dist_inputs", "float32", (12,), "1", "mean and log-std of the acting Gaussian", "step", _RL),
    Field("value", "float32", (), "1", "value estimate when acting", "step", _RL),
)  # fmt: skip

EPISODE_FIELDS: tuple[Field, ...] = (
    Field("goal_image", "uint8", ("height", "width", 3), "1", "desired RGB image", "episode", _IMITATION),
    Field("goal_mask", "bool", ("height", "width"), "1", "target instance in the desired image", "episode", _IMITATION),
    Field("goal_world_T_cam", "float64", (4, 4), "m", "desired camera pose", "episode", KINDS),
    Field("intrinsics", "float64", (4,), "px", "fx, fy, cx, cy for the image size", "episode", KINDS),
    Field("d_star", "float32", (), "m", "distance of the desired camera to the target", "episode", KINDS),
    Field("dt", "float32", (), "s", "time one action is applied for", "episode", _ACTING),
    Field("gain", "float32", (), "1/s", "factor between normalised twist and commanded twist", "episode", _ACTING),
)  # fmt: skip

FIELDS: dict[str, Field] = {f.name: f for f in (*STEP_FIELDS, *EPISODE_FIELDS)}


@dataclasses.dataclass(frozen=True)
class EpisodeMeta:
    """What is known of an episode besides its arrays.

    Attributes:
        id: unique name; the same work done twice has the same id.
        kind: which fields the record must carry.
        phase: name of the learning phase it was collected in.
        policy: which controller acted ("uniform" for pair blocks).
        policy_version: weights that acted, or None where nothing learned acted.
        target_id: instance id of the target.
        scene: SceneSpec as JSON; for scenes whose goal image shows another look, that of the current images.
        scene_seed: seed the scene was drawn from.
        collector: who collected it; not part of the content hash.
        encoder_sha256: of the encoder that computed z, "" where no z is stored.
        renderer, assets_sha256, code_sha256, config_sha256: what the episode was made with.
    """

    id: EpisodeId
    kind: Kind
    phase: str
    policy: str
    policy_version: PolicyVersion | None
    target_id: int
    scene: str
    scene_seed: int
    collector: str
    encoder_sha256: str = ""
    renderer: str = ""
    assets_sha256: str = ""
    code_sha256: str = ""
    config_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` gives an equal meta back."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out["id"] = str(self.id)
        out["policy_version"] = None if self.policy_version is None else dataclasses.asdict(self.policy_version)
        return out

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> EpisodeMeta:
        """Inverse of `to_dict`.

        Raises:
            SchemaError: if a key is missing, unknown or malformed.
        """
        cls.check(raw)
        version = raw["policy_version"]
        values = {**raw, "id": EpisodeId.parse(raw["id"])}
        return cls(**values | {"policy_version": None if version is None else PolicyVersion(**version)})

    @staticmethod
    def check(raw: Mapping[str, Any]) -> None:
        """Refuse what `from_dict` refuses, without building it: a store has a million of them.

        Raises:
            SchemaError: as `from_dict`.
        """
        if raw.keys() != _META_NAMES:
            missing, unknown = sorted(_META_NAMES - raw.keys()), sorted(raw.keys() - _META_NAMES)
            raise SchemaError(f"episode meta keys: missing {missing}, unknown {unknown}")
        EpisodeId.check(raw["id"])
        if raw["policy_version"] is not None:
            PolicyVersion(**raw["policy_version"])
        if raw["kind"] not in KINDS:
            raise SchemaError(bad_value("episode kind", raw["kind"], f"one of {KINDS}"))


_META_NAMES = frozenset(f.name for f in dataclasses.fields(EpisodeMeta))


@dataclasses.dataclass(frozen=True)
class Episode:
    """A checked record: construction refuses unknown, missing, wrongly typed or wrongly shaped fields by name.

    Attributes:
        meta: names and provenance.
        steps: step-level arrays, (rows, *dims).
        fixed: episode-level arrays, (*dims).
    """

    meta: EpisodeMeta
    steps: Mapping[str, NDArray[Any]]
    fixed: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        check_episode(self)

    @property
    def num_rows(self) -> int:
        """Rows: T + 1 for an episode of T steps, N for a pair block of N pairs."""
        return len(self.steps["world_T_cam"])

    def nbytes(self) -> int:
        """Bytes of all arrays, uncompressed."""
        return sum(a.nbytes for a in (*self.steps.values(), *self.fixed.values()))

    def sha256(self) -> str:
        """Content hash: meta (without the collector's name) and every field's name, dtype, shape and bytes."""
        meta = self.meta.to_dict()
        del meta["collector"]
        digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
        for group in (self.steps, self.fixed):
            for name in sorted(group):
                array = np.ascontiguousarray(group[name])
                digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
                digest.update(array.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def check_episode(episode: Episode) -> None:
    """Check a record against the schema.

    Raises:
        SchemaError: naming the field, what it is and what it should be.
    """
    kind = episode.meta.kind
    if kind not in KINDS:
        raise SchemaError(bad_value("episode kind", kind, f"one of {KINDS}"))
    lengths: dict[str, int] = {}
    for group, level in ((episode.steps, "step"), (episode.fixed, "episode")):
        for field in FIELDS.values():
            if field.level == level and kind in field.kinds and field.name not in group:
                raise SchemaError(f"field {field.name} is missing: {kind!r} records need it ({field.meaning})")
        for name, array in group.items():
            field_or_none = FIELDS.get(name)
            if field_or_none is None or field_or_none.level != level:
                allowed = sorted(f.name for f in FIELDS.values() if f.level == level)
                raise SchemaError(bad_value(f"{level} field name", name, f"one of {allowed}"))
            _check_array(field_or_none, array, lengths)
    if lengths.get("rows", 0) < 1:
        raise SchemaError(bad_value("number of rows", lengths.get("rows", 0), "at least 1"))


def _check_array(field: Field, array: NDArray[Any], lengths: dict[str, int]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(field.dtype):
        seen = str(array.dtype) if isinstance(array, np.ndarray) else f"no array but {type(array).__name__}"
        raise SchemaError(bad_value(f"dtype of field {field.name}", seen, field.dtype))
    dims: tuple[str | int, ...] = (("rows",) if field.level == "step" else ()) + field.dims
    ok = array.ndim == len(dims)
    if ok:
        for dim, size in zip(dims, array.shape, strict=True):
            ok = ok and size == (dim if isinstance(dim, int) else lengths.setdefault(dim, size))
    if not ok:
        expected = tuple(d if isinstance(d, int) else lengths.get(d, d) for d in dims)
        raise SchemaError(bad_value(f"shape of field {field.name}", array.shape, str(expected)))
