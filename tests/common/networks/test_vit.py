import pytest
import torch

from common.config import NetworkConfig
from common.networks.matching_encoder import coarse_backbone
from common.networks.vit import VIT_SIZES, VisionTransformer


def images(n, height, width):
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "width", "heads", "millions"), [("vit_tiny", 192, 3, 5.4), ("vit_small", 384, 6, 21.4)]
)
def test_sizes_are_those_of_the_names(name, width, heads, millions):
    with torch.device("meta"):
        vit = VisionTransformer(*VIT_SIZES[name], 12, 16, 4)
    assert (vit.width, vit.layers[0].attention.heads, len(vit.layers)) == (width, heads, 12)
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 32), (8, 64)])
def test_any_multiple_of_the_patch_gives_its_grid_of_tokens(height, width):
    torch.manual_seed(0)
    vit = VisionTransformer(16, 2, 2, 8, 4)
    tokens = vit(images(2, height, width))
    assert tokens.shape == (2, height * width // 64, 16) and torch.isfinite(tokens).all()


def test_tokens_lie_row_by_row():
    """Without attention to others, a change of one patch changes its own token alone."""
    torch.manual_seed(0)
    vit = VisionTransformer(16, 2, 1, 8, 4)
    torch.nn.init.zeros_(vit.layers[0].attention.out.weight)
    one = images(1, 16, 32)
    two = one.clone()
    two[0, 8:16, 16:24] += 50
    changed = (vit(one) - vit(two)).abs().amax(dim=2)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 2]


def test_positions_matter():
    """Two patches that change places do not merely exchange their tokens."""
    torch.manual_seed(0)
    vit = VisionTransformer(16, 2, 2, 8, 4)
    one = images(1, 16, 32)
    two = one.clone()
    two[0, :8, :8], two[0, 8:, 24:] = one[0, 8:, 24:], one[0, :8, :8]
    a, b = vit(one)[0], vit(two)[0]
    assert (a[0] - b[7]).abs().max() > 1e-3


def test_the_configuration_decides_patch_and_depth():
    vit, width = coarse_backbone(NetworkConfig(backbone="vit_tiny", vit_layers=3, patch=16, match_grid=5))
    assert isinstance(vit, VisionTransformer) and width == 192
    assert len(vit.layers) == 3 and vit.embed.stride == (16, 16) and vit.rope.span == 5
