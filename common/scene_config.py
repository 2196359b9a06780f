"""The settings that scenes are drawn by; by default those of the quick start: one object, matte, no shadows."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from common.errors import ConfigError, bad_value
from common.scene import ShapeKind
from common.settings import fixed

SceneKind = Literal["sym_diff", "sym_same", "asym_same", "any"]


@dataclasses.dataclass
class SceneConfig:
    """What scenes are drawn from. Kinds say what the target is: `sym_diff` (plain object; ground and light differ in
    the goal image), `sym_same` (plain object, same look), `asym_same` (textured object, same look), `any` (plain,
    textured or imported, same or different look).
    """

    train_meshes: int = fixed(240, "training meshes, imported ones among them", "> 0")
    heldout_meshes: int = fixed(80, "meshes that only evaluation sees", "> 0")
    shapes: list[str] = fixed(["cube", "cylinder", "cone", "revolution"], "kinds of the mesh library")
    imitation_mix: dict[str, float] = fixed(
        {"sym_diff": 0.4, "sym_same": 0.3, "asym_same": 0.3}, "share of each kind of scene in imitation data"
    )
    rl_mix: dict[str, float] = fixed({"sym_diff": 0.5, "sym_same": 0.5}, "share of each kind of scene in RL and SIL")
    difficulty: str = fixed("easy", "strength of the ground textures", "easy|hard")
    min_distance: float = fixed(0.55, "nearest camera distance to the target [m]", "> 0")
    max_distance: float = fixed(0.85, "farthest camera distance to the target [m]", "> 0")
    poses: str = fixed(
        "quickstart",
        "ranges of desired and start cameras; the published ones bring their own distances and free directions",
        "quickstart|cns_train|cns_eval|cnsv2|symservo",
    )
    min_visible: float = fixed(
        0.5,
        "share of the target's surface points that both cameras have in their image, no other object before it",
        "0..1",
    )
    # What stands in a scene.
    assets: str = fixed("", "folder of imported meshes (`servofleet assets import`); empty: procedural shapes only")
    asset_share: float = fixed(0.5, "share of imported meshes where there are assets", "0..1")
    rests: str = fixed(
        "standing",
        "how targets of the first six kinds of shape lie: upright and boxes on any face, or any way they can rest; "
        "everything else always lies any way it can rest",
        "standing|any",
    )
    min_objects: int = fixed(1, "fewest objects of a scene, the target among them", "1..12")
    max_objects: int = fixed(1, "most objects of a scene, the target among them", "1..12")
    spread: float = fixed(0.25, "distractors stand this near the target; the disc grows until all fit [m]", "> 0")
    gap: float = fixed(0.01, "free ground between two objects at least [m]", ">= 0")
    copies: float = fixed(0.25, "share of distractors that have the target's shape", "0..1")
    bare_goals: float = fixed(0.0, "share of scenes whose goal image shows the target without distractors", "0..1")
    # How it looks.
    lights: str = fixed("simple", "white light, or coloured light under a sky", "simple|rich")
    shadows: bool = fixed(False, "objects cast shadows")
    materials: str = fixed("matte", "matte surfaces, or also shining ones", "matte|rich")
    symmetric_patterns: float = fixed(
        0.0, "share of the plain procedural targets that wear a pattern with their shape's symmetry instead", "0..1"
    )
    images: str = fixed("", "folder of pictures for the ground; empty: procedural grounds only")
    image_share: float = fixed(0.5, "share of grounds that show a picture where there are some", "0..1")
    intrinsics: float = fixed(
        0.0, "focal lengths differ by up to this factor from env.fov_deg, principal points by a quarter of it", "0..0.4"
    )
    sensor: str = fixed("none", "blur, noise, colour shifts and occluders of the camera", "none|mild|strong")


def check_scenes(config: SceneConfig) -> None:
    """Check what the bounds of single settings do not say.

    Raises:
        ConfigError: naming the setting, its value and what is allowed.
    """
    if config.max_distance < config.min_distance:
        raise ConfigError(bad_value("scenes.max_distance", config.max_distance, "at least scenes.min_distance"))
    if config.max_objects < config.min_objects:
        raise ConfigError(bad_value("scenes.max_objects", config.max_objects, "at least scenes.min_objects"))
    shapes = [k for k in get_args(ShapeKind) if k != "mesh"]
    for kind in config.shapes:
        if kind not in shapes:
            raise ConfigError(bad_value("scenes.shapes", kind, f"one of {shapes}"))
    if not config.shapes and not (config.assets and config.asset_share == 1.0):
        raise ConfigError(bad_value("scenes.shapes", [], "one or more kinds, unless scenes.asset_share of assets is 1"))
    for name, mix in (("imitation_mix", config.imitation_mix), ("rl_mix", config.rl_mix)):
        for kind, share in mix.items():
            if kind not in get_args(SceneKind):
                raise ConfigError(bad_value(f"scenes.{name}", kind, f"one of {get_args(SceneKind)}"))
            if not 0.0 <= share < float("inf"):
                raise ConfigError(bad_value(f"scenes.{name}.{kind}", share, ">= 0"))
        if sum(mix.values()) <= 0.0:
            raise ConfigError(bad_value(f"scenes.{name}", mix, "a share > 0 for one kind of scene at least"))
