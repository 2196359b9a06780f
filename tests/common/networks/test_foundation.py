import dataclasses
import socket
import sys

import pytest
import torch
from foundation_folders import KINDS, save_tiny

from common.config import NetworkConfig
from common.errors import CheckpointError, ConfigError
from common.networks.foundation import load_foundation
from common.networks.frozen import Frozen, frozen_prefixes
from common.networks.servo_net import ServoNet, encoder_sha256, get_weights, initial_weights, set_weights

SMALL = NetworkConfig(
    match_grid=3, match_layers=1, fuse_layers=1, transformer_width=32, transformer_heads=2, fine_width=8, feature_dim=32
)


def images(n, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator)


def with_folder(folder, backbone="dinov2_b", **changes):
    return dataclasses.replace(SMALL, backbone=backbone, pretrained=str(folder), **changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One tiny model of each kind: backbone -> (folder, model)."""
    made = {}
    for backbone in KINDS:
        folder = tmp_path_factory.mktemp(backbone)
        made[backbone] = folder, save_tiny(folder, backbone)
    return made


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever opens a connection fails the test."""

    def refuse(*args, **kwargs):
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("backbone", list(KINDS))
def test_a_folder_gives_its_models_patch_tokens_of_normalised_images(folders, backbone):
    folder, model = folders[backbone]
    loaded = load_foundation(with_folder(folder, backbone)).eval()
    patch = KINDS[backbone][1]["patch_size"]
    rgb = images(2, 2 * patch, 3 * patch)
    pixels = rgb.permute(0, 3, 1, 2).float() / 255.0
    if backbone != "cradio_b":  # which does this itself
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        wanted = model(pixels).last_hidden_state[:, -6:]
        torch.testing.assert_close(loaded(rgb), wanted)
    assert loaded.width == 16 and wanted.std() > 0.1
    if backbone == "cradio_b":
        torch.testing.assert_close(wanted, model(pixels).features)


@pytest.mark.parametrize("backbone", list(KINDS))
def test_the_whole_network_runs_on_it_at_several_sizes(folders, backbone):
    config = with_folder(folders[backbone][0], backbone)
    torch.manual_seed(0)
    net, patch = ServoNet(config).eval(), KINDS[backbone][1]["patch_size"]
    with torch.inference_mode():
        for height, width in ((3, 3), (2, 4)):
            size = (height * patch, width * patch)
            out = net(images(2, *size), images(2, *size, 1))
            assert out.z.shape == (2, 32) and torch.isfinite(out.z).all()
            assert out.seg_logits.shape == (2, height, width)


def test_frozen_is_evaluated_without_gradients_whatever_is_asked_of_the_network(folders):
    net = ServoNet(with_folder(folders["dinov2_b"][0]))
    frozen = net.encoder.backbone.coarse
    assert isinstance(frozen, Frozen) and frozen_prefixes(net) == ("encoder.backbone.coarse.module.",)
    net.train()
    assert net.training and not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    out = net(images(2, 42, 42), images(2, 42, 42, 1))
    (out.z.square().sum() + out.match_logits.sum() + out.seg_logits.sum() + out.goal_seg_logits.sum()).backward()
    names = dict(net.encoder.named_parameters())
    reached = {name for name, p in names.items() if p.grad is not None and p.grad.any()}
    assert reached == {name for name in names if not name.startswith("backbone.coarse.")}
    # Even where gradients were asked for, none flow.
    frozen.requires_grad_(True)
    assert not frozen(images(1, 42, 42)).requires_grad


def test_one_that_is_not_frozen_learns_in_every_parameter(folders):
    net = ServoNet(with_folder(folders["dinov2_b"][0], freeze_backbone=False))
    assert frozen_prefixes(net) == ()
    out = net(images(2, 42, 42), images(2, 42, 42, 1))
    (
        out.z.square().sum() + out.match_logits.square().sum() + out.seg_logits.sum() + out.goal_seg_logits.sum()
    ).backward()
    assert [n for n, p in net.encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert any(name.startswith("encoder.backbone.coarse.model.") for name in get_weights(net))


def test_weights_hold_the_hash_of_a_frozen_backbone_instead_of_its_parameters(folders, tmp_path):
    config = with_folder(folders["dinov2_b"][0])
    weights = initial_weights(config, 0)
    frozen = [name for name in weights if name.startswith("encoder.backbone.coarse.")]
    assert frozen == ["encoder.backbone.coarse.frozen_sha256"] and weights[frozen[0]].shape == (32,)
    same = ServoNet(config)
    set_weights(same, weights)
    save_tiny(tmp_path, "dinov2_b", seed=1)
    other = with_folder(tmp_path)
    before = get_weights(ServoNet(other))
    net = ServoNet(other)
    with pytest.raises(CheckpointError, match=r"frozen_sha256 = [0-9a-f]{12}: allowed is [0-9a-f]{12}, the frozen"):
        set_weights(net, weights)
    assert (get_weights(net)[frozen[0]] == before[frozen[0]]).all()
    # All else being equal, the encoder's hash tells the two apart.
    mixed = {**weights, frozen[0]: before[frozen[0]]}
    assert encoder_sha256(mixed) != encoder_sha256(weights) == encoder_sha256(get_weights(same))


def test_goal_features_are_the_same_kept_or_not(folders):
    torch.manual_seed(0)
    net = ServoNet(with_folder(folders["dinov2_b"][0])).eval()
    current, goal = images(2, 42, 42), images(2, 42, 42, 1)
    with torch.inference_mode():
        kept = net.encode_image(goal)
        assert torch.equal(net.fuse(net.encode_image(current), kept).z, net(current, goal).z)


def test_random_weights_are_the_same_in_every_process_and_leave_the_generator_alone(monkeypatch):
    import common.networks.foundation as foundation

    monkeypatch.setattr(foundation, "_BASE", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
    config = dataclasses.replace(SMALL, backbone="dinov2_b")
    found = []
    for seed in (5, 6):  # of the process, which must neither matter nor change
        torch.manual_seed(seed)
        found.append(load_foundation(config).state_dict())
        after = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.rand(1) == after
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    one, two = (initial_weights(config, seed) for seed in (3, 3))
    assert encoder_sha256(one) == encoder_sha256(two) and one["encoder.backbone.coarse.frozen_sha256"].any()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", list(KINDS))
def test_without_a_folder_the_shape_is_the_base_model(backbone):
    config = dataclasses.replace(SMALL, backbone=backbone)
    net = ServoNet(config).eval()
    assert sum(p.numel() for p in net.encoder.backbone.coarse.parameters()) / 1e6 == pytest.approx(86, rel=0.15)
    side = 3 * KINDS[backbone][1]["patch_size"]
    with torch.inference_mode():
        assert torch.isfinite(net(images(1, side, side), images(1, side, side, 1)).z).all()


def test_a_name_is_not_looked_up_unless_the_hub_is_allowed(monkeypatch):
    with pytest.raises(ConfigError, match=r"pretrained = 'facebook/dinov2-base': allowed is a folder .* or hub:"):
        load_foundation(with_folder("facebook/dinov2-base"))


def test_the_hub_is_asked_only_where_it_is_allowed(monkeypatch):
    import transformers

    asked = []

    def remember(place, **options):
        asked.append((place, options["local_files_only"], options["trust_remote_code"]))
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", remember)
    with pytest.raises(ConfigError, match=r"hub:some/model.*not here"):
        load_foundation(with_folder("hub:some/model"))
    assert asked == [("some/model", False, False)]


def test_folders_that_do_not_hold_such_a_model_are_named(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"network\.pretrained = .*a model that transformers can read"):
        load_foundation(with_folder(tmp_path))
    with pytest.raises(ConfigError, match=r"\(dinov2, patch 14\).*allowed is a dinov3_vit model of patch 16"):
        load_foundation(with_folder(folders["dinov2_b"][0], "dinov3_b"))
    save_tiny(tmp_path / "patch", "dinov2_b", patch_size=7)
    with pytest.raises(ConfigError, match=r"patch 7.*of patch 14"):
        load_foundation(with_folder(tmp_path / "patch"))
    save_tiny(tmp_path / "empty", "dinov2_b")
    (tmp_path / "empty" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="whole safetensors weights"):
        load_foundation(with_folder(tmp_path / "empty"))


def test_weights_that_lack_parameters_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_tiny(tmp_path, "dinov2_b")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    gone = sorted(tensors)[-1]
    save_file({name: t for name, t in tensors.items() if name != gone}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="1 are missing, such as"):
        load_foundation(with_folder(tmp_path))
    save_file({name: t[:0] if name == gone else t for name, t in tensors.items()}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"network\.pretrained"):
        load_foundation(with_folder(tmp_path))


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"backbone = 'dinov2_b': .*servofleet\[foundation\]"):
        load_foundation(dataclasses.replace(SMALL, backbone="dinov2_b"))
    ServoNet(dataclasses.replace(SMALL, backbone="vit_tiny", vit_layers=1))
