"""The two programs of an export: the goal's features once per episode, a command for the robot once per image.

Everything between the camera's bytes and the robot's twist is inside: image normalisation, network,
denormalisation by focal length, clamp, distance and gain. What runs them needs torch and nothing of ours.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from common.networks.backbone import ImageFeatures
from common.networks.denormalisation import clamp_twist, refocus_twist, scale_twist
from common.networks.servo_net import ServoNet

MAX_BATCH = 4096


class GoalProgram(nn.Module):
    """Desired images -> what is kept of them for an episode."""

    def __init__(self, net: ServoNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features by name, each (N, ...), of u8 images (N, H, W, 3)."""
        features = self.net.encode_image(image)
        values = {field.name: getattr(features, field.name) for field in dataclasses.fields(features)}
        return {name: value for name, value in values.items() if value is not None}


class PolicyProgram(nn.Module):
    """Current images and the goal's features -> twists.

    Args:
        net: the policy network.
        focal: focal length of the training camera in pixels of the images that the program takes.
        max_twist: twists with a larger norm, in units of d* and at gain 1, are shortened to it.
    """

    def __init__(self, net: ServoNet, focal: float, max_twist: float) -> None:
        super().__init__()
        self.net, self.focal, self.max_twist = net, focal, max_twist

    def forward(
        self, image: Tensor, goal: dict[str, Tensor], intrinsics: Tensor, d_star: Tensor, gain: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Twists of the camera in the camera's frame (OpenCV: x right, y down, z forward), [v; w].

        Args:
            image: u8 (N, H, W, 3) RGB.
            goal: what `GoalProgram` made of N desired images of the same camera.
            intrinsics: f64 (N, 4) ``[fx, fy, cx, cy]`` in pixels of the image. Only the focal length enters, as the
                geometric mean of both: pixels have to be nearly square and the principal point near the middle.
            d_star: f64 (N,) distance of the desired camera to the target [m].
            gain: f64 (N,) [1/s].

        Returns:
            command f32 (N, 6) [m/s, rad/s], NaN where an intrinsic or a distance is not positive; and the same in units
            of d* and at gain 1, f32 (N, 6), whose norm the stop rule looks at.
        """
        current = self.net.encode_image(image)
        z = self.net.fuse(current, ImageFeatures(**goal)).z.float()
        ratio = (intrinsics[:, 0] * intrinsics[:, 1]).sqrt() / self.focal
        twist = clamp_twist(refocus_twist(self.net.twist(z), ratio), self.max_twist)
        command = scale_twist(twist, d_star) * gain[:, None]
        return command.float(), twist.float()


@torch.no_grad()
def trace_programs(
    net: ServoNet, image_size: int, focal: float, max_twist: float
) -> tuple[ExportedProgram, ExportedProgram]:
    """Goal and policy program of a network, for any batch of 1 .. `MAX_BATCH` images of H = W = `image_size`.

    Args:
        net: on the CPU; put into evaluation mode.
        image_size: side of the images [px].
        focal: of the training camera, in pixels of such an image.
        max_twist: largest norm of a twist in units of d*.

    Raises:
        ValueError: if the network takes no images of this size.
    """
    net.eval()
    batch = Dim("batch", min=1, max=MAX_BATCH)
    # Two of everything: with a batch of one, tracing would take the dimension for a constant.
    image = torch.zeros((2, image_size, image_size, 3), dtype=torch.uint8)
    encode = GoalProgram(net)
    goal = encode(image)
    each = {0: batch}
    encoded = torch.export.export(encode, (image,), dynamic_shapes=(each,))
    numbers = torch.ones(2, dtype=torch.float64)
    acted = torch.export.export(
        PolicyProgram(net, focal, max_twist),
        (image, goal, torch.full((2, 4), float(image_size), dtype=torch.float64), numbers, numbers.clone()),
        dynamic_shapes=(each, dict.fromkeys(goal, each), each, each, each),
    )
    return encoded, acted
