"""The learners with the papers' encoder: from scratch, and around a frozen backbone."""

import dataclasses

import numpy as np
import pytest
import torch
from learner_data import raw_batch, run_config

from common.networks.frozen import frozen_prefixes
from common.networks.servo_net import ServoNet, encoder_sha256, get_weights, set_weights
from learner.learners import build_learner

PATCH = {"vit_tiny": 8, "dinov2_b": 14}
GRID = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import transformers

    place = tmp_path_factory.mktemp("dinov2")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 42}
    transformers.Dinov2Model(transformers.Dinov2Config(**shape)).save_pretrained(place)
    return place


def config_of(backbone, folder):
    config = run_config()
    small = {"vit_layers": 1, "match_layers": 1, "fuse_layers": 1, "transformer_width": 32, "transformer_heads": 2}
    config.network = dataclasses.replace(config.network, backbone=backbone, match_grid=GRID, fine_width=8, **small)
    if backbone == "dinov2_b":
        config.network.pretrained = str(folder)
    return config


def batch_of(backbone, seed):
    """Random images, masks and matches of 3 x 3 tokens."""
    batch, rng, side = raw_batch(seed), np.random.default_rng(seed), GRID * PATCH[backbone]
    for name in ("image", "goal_image"):
        batch[name] = rng.integers(0, 256, (len(batch[name]), side, side, 3), dtype=np.uint8)
    for name in ("mask", "goal_mask"):
        batch[name] = rng.random((len(batch[name]), side, side)) > 0.5
    batch["match"] = rng.random((len(batch["image"]), GRID, GRID, 2)).astype(np.float16)
    return batch


@pytest.mark.parametrize("backbone", list(PATCH))
def test_imitation_trains_all_but_the_frozen_backbone_and_resumes(backbone, folder):
    config = config_of(backbone, folder)
    learner = build_learner(config, "il")
    before = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    learner.update(batch_of(backbone, 0))
    frozen = frozen_prefixes(learner.net)
    assert bool(frozen) == (backbone == "dinov2_b")
    wanted = ("encoder.", "diffusion.", "policy.")
    moved = {name for name, p in learner.net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(wanted) and not name.startswith(frozen)}

    arrays, rest = learner.state()
    held = {name for name in arrays if ".coarse.module." in name}
    assert not held, "a frozen backbone has no place in a checkpoint"
    restored = build_learner(config, "il")
    restored.load_state(arrays, rest)
    for each in (learner, restored):
        each.update(batch_of(backbone, 1))
    one, two = learner.get_weights(), restored.get_weights()
    assert set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_rl_phases_leave_the_encoder_and_its_hash_alone(folder):
    config = config_of("dinov2_b", folder)
    torch.manual_seed(0)
    weights = get_weights(ServoNet(config.network))
    for name in ("value_warmup", "ppo", "sil"):
        learner = build_learner(config, name)
        learner.set_weights(weights)
        trained = {n for n, p in learner.net.named_parameters() if p.requires_grad}
        assert trained and not any(n.startswith("encoder.") for n in trained)
        assert encoder_sha256(learner.get_weights()) == encoder_sha256(weights)
    again = ServoNet(config.network)
    set_weights(again, learner.get_weights())
