"""Run an exported policy on pictures, with torch and Pillow and nothing of servofleet.

python examples/run_exported_policy.py EXPORT current.png desired.png FOCAL_PX DISTANCE_M

FOCAL_PX is the camera's focal length in pixels of the pictures, DISTANCE_M the desired camera's distance to the target.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from PIL import Image


def read_image(path: str, size: int, focal: float) -> tuple[torch.Tensor, list[float]]:
    """A picture as the program takes it, u8 (1, size, size, 3), and the camera ``[fx, fy, cx, cy]`` that goes with it.

    The middle square is cut out, so the principal point stays in the middle, and brought to `size`; that changes the
    focal length in pixels by the same factor.
    """
    with Image.open(path) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
    square = square.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, size, size, 3)
    scaled = focal * size / side
    return pixels, [scaled, scaled, size / 2, size / 2]


def main(folder: str, current: str, desired: str, focal: float, distance: float) -> None:
    """Print the command for one picture."""
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    encode_goal = torch.export.load(Path(folder) / "goal.pt2").module()
    policy = torch.export.load(Path(folder) / "policy.pt2").module()
    size = manifest["image_size"]
    image, camera = read_image(current, size, focal)
    goal_image, _ = read_image(desired, size, focal)
    intrinsics = torch.tensor([camera], dtype=torch.float64)
    d_star = torch.tensor([distance], dtype=torch.float64)
    gain = torch.tensor([manifest["gain"]], dtype=torch.float64)
    with torch.no_grad():
        goal = encode_goal(goal_image)  # once per episode
        command, twist = policy(image, goal, intrinsics, d_star, gain)  # once per image
    stop = bool(twist[0].norm() < manifest["stop_dt_norm"])
    # [v; w] of the camera in its own frame (x right, y down, z forward), m/s and rad/s, for the next dt seconds.
    print(json.dumps({"command": command[0].tolist(), "stop": stop, "dt": manifest["dt"]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
