import dataclasses

import numpy as np
import pytest
import torch

from common.config import NetworkConfig
from common.identity import weights_sha256
from common.networks.conv_encoder import ConvEncoder
from common.networks.servo_net import ServoNet, encoder_sha256, initial_weights, set_weights


def images(n, seed, side=64):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def test_the_quick_start_network_is_what_it_always_was():
    """Names, shapes and first draws of every parameter, and what the network makes of two images."""
    weights = initial_weights(NetworkConfig(), 0)
    assert weights_sha256(weights) == "8e0cb9bc2c05217183b666155064efb1ac727e7b0af82c0ba668aec2c04eca15"
    assert encoder_sha256(weights).startswith("8e178ae5b135")
    net = ServoNet(NetworkConfig())
    set_weights(net, weights)
    with torch.inference_mode():
        z = net(images(3, 0), images(3, 1)).z
    recorded = torch.tensor([0.45365966363525, 0.202774316072464, 0.5837319493293762, -1.878688097000122])
    torch.testing.assert_close(z[0, :4], recorded, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["raw_score", "explicit"])
def test_ablations_read_the_scores_otherwise(kind):
    net = ServoNet(dataclasses.replace(NetworkConfig(), matching=kind))
    assert isinstance(net.encoder, ConvEncoder)
    out = net(images(2, 0), images(2, 1))
    assert out.z.shape == (2, 256)
    out.z.square().sum().backward()
    first = net.encoder.matching.channels
    assert first == (81 if kind == "raw_score" else 2)
    assert net.encoder.mix.weight.grad[:, :first].any()
    assert net.encoder.mix.in_channels == first + 2 * 56 + 7
