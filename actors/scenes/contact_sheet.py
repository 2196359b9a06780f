"""A picture to check scenes by eye: per scene the desired view, the start view, its instance ids and its depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from actors.env import EpisodeStart, ServoEnv
from actors.scenes.mesh import Mesh
from common.config import EnvConfig, RewardConfig
from common.errors import SceneError, bad_value
from common.protocols import F32, I32, U8, Renderer

SCENES_PER_ROW = 2
CAPTION = 16  # pixels of a line of text
MARGIN = 4  # pixels around a scene
_INK, _PAPER = (235, 235, 235), (24, 24, 28)
# Colours of instance ids 1, 2, ... in turn; 0 is black.
_COLORS = np.array(
    [
        [230, 75, 60], [60, 140, 230], [80, 190, 90], [245, 190, 50], [160, 90, 200], [40, 190, 190],
        [240, 130, 190], [150, 110, 70], [180, 210, 60], [110, 120, 140], [250, 160, 110], [90, 80, 250],
    ],
    np.uint8,
)  # fmt: skip


def contact_sheet(
    renderer: Renderer,
    env_config: EnvConfig,
    starts: Sequence[EpisodeStart],
    labels: Sequence[str],
    side: int,
    meshes: Mapping[str, Mesh] | None = None,
) -> Image.Image:
    """Draw episodes' starts as policies see them; two scenes per row, each as desired rgb, start rgb, ids, depth.

    Args:
        renderer: with room for as many environments; the scenes' meshes are loaded.
        env_config: field of view and everything else but the sizes.
        starts: one per scene.
        labels: caption of each scene.
        side: of one view [px].
        meshes: imported meshes by content hash.

    Raises:
        SceneError: if there is nothing to draw, or a scene cannot be built.
    """
    count = len(starts)
    if not count or len(labels) != count:
        raise SceneError(bad_value("starts, labels", (count, len(labels)), "one or more scenes and as many captions"))
    sized = dataclasses.replace(env_config, image_size=side, mask_size=side)
    env = ServoEnv(renderer, sized, RewardConfig(), count, meshes)
    desired = env.reset(starts, masks=False).rgb
    start = env.look(image=True, masks=False).rgb
    ids = np.arange(count, dtype=np.int64)
    seen = renderer.render(ids, env.world_T_cam, env.intrinsics, (side, side), ["instance_id", "depth"])
    assert desired is not None and start is not None and seen.instance_id is not None and seen.depth is not None
    near, far = depth_range(seen.depth)
    views = np.concatenate([desired, start, id_colors(seen.instance_id), depth_colors(seen.depth, near, far)], axis=2)
    captions = [f"{i}  {label}" for i, label in enumerate(labels)]
    return _laid_out(views, captions, ("desired", "start", "instance ids", f"depth {near:.2f} .. {far:.2f} m"))


def id_colors(instance_id: I32) -> U8:
    """Colours (..., 3) of instance ids (...): one per id, 0 is black; after twelve they repeat."""
    colors = _COLORS[(instance_id - 1) % len(_COLORS)]
    colors[instance_id == 0] = 0
    return colors


def depth_range(depth: F32) -> tuple[float, float]:
    """The range [m] that colours are spread over: from the nearest depth on to where 95 % of the finite ones end.

    (0, 1) where there is none.
    """
    finite = depth[np.isfinite(depth)]
    if not finite.size:
        return 0.0, 1.0
    near, far = float(finite.min()), float(np.percentile(finite, 95.0))
    return near, max(far, near + 0.01)


def depth_colors(depth: F32, near: float, far: float) -> U8:
    """Colours (..., 3) of depths (...) [m], from red (near) to blue (far and beyond); black where there is none."""
    shade = np.clip((far - depth) / (far - near), 0.0, 1.0)
    colors = (np.asarray(matplotlib.colormaps["turbo"](shade))[..., :3] * 255.0 + 0.5).astype(np.uint8)
    colors[~np.isfinite(depth)] = 0
    return np.asarray(colors)


def _laid_out(views: U8, captions: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Tiles (N, H, W, 3) in rows of two under their captions; the columns' names stand once at the top."""
    height, width = views.shape[1:3]
    cell_height, cell_width = CAPTION + height + MARGIN, width + MARGIN
    across = min(SCENES_PER_ROW, len(views))
    down = -(-len(views) // across)
    sheet = Image.new("RGB", (across * cell_width + MARGIN, CAPTION + down * cell_height + MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column in range(across):
        for k, name in enumerate(columns):
            draw.text((MARGIN + column * cell_width + k * width // len(columns), 2), name, _INK, font)
    for i, (view, caption) in enumerate(zip(views, captions, strict=True)):
        x, y = MARGIN + i % across * cell_width, CAPTION + i // across * cell_height
        draw.text((x, y + 2), caption, _INK, font)
        sheet.paste(Image.fromarray(view), (x, y + CAPTION))
    return sheet
