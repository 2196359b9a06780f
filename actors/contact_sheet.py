"""A picture to check scenes by eye: per scene the desired view, the start view, the target's mask and the depth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from PIL import Image

from actors.mesh_library import mesh_library
from actors.poses import sample_cameras
from actors.scenes import sample_scene
from actors.warp_renderer import WarpRenderer
from common.config import EnvConfig, SceneConfig
from common.geometry import intrinsics_from_fov
from common.protocols import F32, U8
from common.rng import Purpose

_NEAR, _FAR = 0.3, 1.5  # metres shown as white and black


def contact_sheet(
    config: SceneConfig, env_config: EnvConfig, kinds: Sequence[str], count: int, *, seed: int = 0, side: int = 128
) -> U8:
    """Picture u8 (rows, columns, 3): two scenes per row, each as goal rgb, start rgb, start mask, start depth.

    Args:
        config: what scenes are drawn from.
        env_config: field of view and lowest camera height.
        kinds: kinds of scene, in turn.
        count: scenes.
        seed: of the scenes.
        side: of one view [px].
    """
    library = mesh_library(seed, config.train_meshes, config.shapes, split="train")
    scenes, cameras = [], []
    for i in range(count):
        key = {"seed": seed, "purpose": Purpose.SCENE, "round": 0, "env": i}
        scenes.append(sample_scene(config, library, kind=kinds[i % len(kinds)], **key))  # type: ignore[arg-type]
        cameras.append(sample_cameras(config, env_config, scenes[-1][0], **key))  # type: ignore[arg-type]
    renderer, ids = WarpRenderer(count), np.arange(count, dtype=np.int64)
    intrinsics = np.tile(intrinsics_from_fov(np.deg2rad(env_config.fov_deg), side, side), (count, 1))
    view = intrinsics, (side, side)
    renderer.reset(ids, [goal for _, goal in scenes])
    goal = renderer.render(ids, np.stack([c[0] for c in cameras]), *view, ["rgb"])
    renderer.reset(ids, [current for current, _ in scenes])
    start = renderer.render(ids, np.stack([c[1] for c in cameras]), *view, ["rgb", "instance_id", "depth"])
    renderer.close()
    assert goal.rgb is not None and start.rgb is not None and start.instance_id is not None and start.depth is not None
    mask = np.where(start.instance_id == 1, 255, 0).astype(np.uint8)
    tiles = np.concatenate([goal.rgb, start.rgb, _grey(mask), _grey(_shade(start.depth))], axis=2)
    if count % 2:
        tiles = np.concatenate([tiles, np.zeros_like(tiles[:1])])
    rows = [np.concatenate([left, right], axis=1) for left, right in zip(tiles[::2], tiles[1::2], strict=True)]
    return np.concatenate(rows)


def _grey(image: U8) -> U8:
    return np.repeat(image[..., None], 3, axis=-1)


def _shade(depth: F32) -> U8:
    return (np.clip((_FAR - depth) / (_FAR - _NEAR), 0.0, 1.0) * 255.0).astype(np.uint8)


def main() -> None:
    """Write a contact sheet as PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", default=["sym_diff", "sym_same", "asym_same"])
    parser.add_argument("--difficulty", default="easy")
    args = parser.parse_args()
    config = SceneConfig(difficulty=args.difficulty)
    sheet = contact_sheet(config, EnvConfig(), args.kinds, args.count, seed=args.seed, side=args.side)
    Image.fromarray(sheet).save(args.path)


if __name__ == "__main__":
    main()
