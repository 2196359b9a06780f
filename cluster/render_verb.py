"""`servofleet render`: a picture of scenes as the configuration draws them, to look at before anything is trained."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from actors.rasteriser.renderer import WarpRenderer
from actors.scenes.contact_sheet import contact_sheet
from actors.scenes.models import open_stock
from actors.scenes.starts import sample_start
from common.config import RunConfig
from common.errors import ConfigError, bad_value
from common.fsio import replace_atomically
from common.rng import Purpose
from common.scene import SceneSpec
from common.scene_config import SceneKind

_PNG = b"\x89PNG\r\n\x1a\n"


def render_scenes(
    config: RunConfig, out: str, *, kinds: Sequence[str] | None, count: int, seed: int, side: int
) -> dict[str, Any]:
    """Draw scenes and write them as one PNG.

    Args:
        config: its `scenes` and `env` say what is drawn.
        out: path ending in .png; a PNG there is replaced, any other file is not.
        kinds: kinds of scene in turn, or None for all.
        count: scenes.
        seed: of the scenes and the shapes in them.
        side: of one view [px].

    Returns:
        ``{"path", "scenes": [{"kind", "target", "objects"}]}``.

    Raises:
        ConfigError: if the path cannot be written, or a kind or a setting of the scenes is not one.
        AssetError: if imported meshes or pictures cannot be read.
    """
    path = _checked(out)
    wanted = list(get_args(SceneKind)) if kinds is None else list(kinds)
    for kind in wanted:
        if kind not in get_args(SceneKind):
            raise ConfigError(bad_value("kinds", kind, f"one or more of {get_args(SceneKind)}"))
    stock = open_stock(config.scenes, seed, config.scenes.train_meshes, "train")
    turn = [wanted[i % len(wanted)] for i in range(count)]
    starts = [
        sample_start(
            config.scenes,
            config.env,
            stock.models,
            {kind: 1.0},
            seed=seed,
            purpose=Purpose.SCENE,
            round=0,
            env=i,
            meshes=stock.assets,
            images=stock.images,
        )
        for i, kind in enumerate(turn)
    ]
    scenes = [_described(kind, start.scene) for kind, start in zip(turn, starts, strict=True)]
    renderer = WarpRenderer(count)
    try:
        renderer.load(stock.assets)
        labels = [f"{s['kind']}, {s['target']}, objects: {s['objects']}" for s in scenes]
        sheet = contact_sheet(renderer, config.env, starts, labels, side, stock.assets)
    finally:
        renderer.close()
    data = io.BytesIO()
    sheet.save(data, format="PNG")
    try:
        replace_atomically(path, data.getvalue())
    except OSError as e:
        raise ConfigError(bad_value("picture", out, f"a file that can be written ({e.strerror})")) from e
    return {"path": str(path), "scenes": scenes}


def _described(kind: str, scene: SceneSpec) -> dict[str, Any]:
    return {"kind": kind, "target": scene.target().shape.kind, "objects": len(scene.objects)}


def _checked(out: str) -> Path:
    """The path, if a picture may be written there.

    Raises:
        ConfigError: if it has another ending, its folder is missing, or something else stands there.
    """
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise ConfigError(bad_value("picture", out, "a name that ends in .png"))
    if not path.parent.is_dir():
        raise ConfigError(bad_value("picture", out, "a file in a folder that exists"))
    if path.exists():
        if not path.is_file():
            raise ConfigError(bad_value("picture", out, "a file"))
        with open(path, "rb") as f:
            if f.read(len(_PNG)) != _PNG:
                raise ConfigError(bad_value("picture", out, "a new file or a PNG; what stands there is no PNG"))
    return path
