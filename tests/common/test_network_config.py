import dataclasses

import pytest

from common.config import NetworkConfig, PhaseConfig, RunConfig, check
from common.errors import ConfigError
from common.network_config import check_network, image_side, token_stride


def test_a_token_is_as_large_as_the_backbone_says():
    sides = {"conv_small": 8, "vit_tiny": 10, "vit_small": 10, "dinov2_b": 14, "dinov3_b": 16, "cradio_b": 16}
    for backbone, side in sides.items():
        network = NetworkConfig(backbone=backbone, patch=10, match_grid=5)
        assert token_stride(network) == side and image_side(network) == 5 * side
        check_network(network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pretrained": "/a"}, r"pretrained = '/a': allowed is empty for backbone = conv_small; .*'dinov2_b'"),
        ({"backbone": "dinov2_b", "pretrained": "hub:x"}, r"pretrained = 'hub:x': allowed is hub:ORG/NAME"),
        (
            {"backbone": "vit_tiny", "freeze_backbone": False},
            r"freeze_backbone = False: allowed is True for .*vit_tiny",
        ),
        ({"patch": 7}, r"network\.patch = 7: allowed is an even number"),
        ({"transformer_width": 50}, r"transformer_width = 50: allowed is a multiple of 4 x transformer_heads = 16"),
        ({"transformer_width": 24}, r"transformer_width = 24: allowed is a multiple of 4 x transformer_heads = 16"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        check_network(dataclasses.replace(NetworkConfig(), **change))


def test_a_run_checks_the_image_size_by_the_backbone():
    phases = {name: PhaseConfig(train=["policy."], samples=10) for name in RunConfig().schedule}
    config = RunConfig(phases=phases)
    config.network.backbone, config.env.image_size = "dinov2_b", 112
    check(config)
    config.env.image_size = 128
    with pytest.raises(ConfigError, match=r"env\.image_size = 128: allowed is 14 x network\.match_grid = 112"):
        check(config)
    config.network.backbone, config.network.patch = "vit_tiny", 7
    with pytest.raises(ConfigError, match=r"network\.patch = 7"):
        check(config)
