"""An export is complete and agrees with the policy, or it is not there."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from cluster.export_verb import read_source
from common.config import NetworkConfig
from common.errors import ConfigError, ExportError
from common.networks import exported_programs
from learner import export
from learner.export import MIN_FRAMES, TOLERANCE, check_parity, write_export


@pytest.fixture(scope="module")
def source(exported):
    return read_source(exported.run)[1]


def altered(frames, name, row, amount):
    array = getattr(frames, name).copy()
    array[row] += amount
    return dataclasses.replace(frames, **{name: array})


def test_parity_is_that_of_real_frames(exported):
    found = check_parity(exported.policy, exported.frames)
    assert found == {**exported.manifest["parity"], "frames": len(exported.frames.rgb)}
    assert len(exported.frames.rgb) >= 3 * MIN_FRAMES and max(found["command"], found["twist"]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "row", "amount", "words"),
    [
        ("command", -1, 2.1e-4, "command of the program"),
        ("twist", 0, -2.1e-4, "twist of the program"),
        ("command", 7, np.nan, "differs by nan"),
        ("rgb", 5, 100, "twist of the program"),
        ("intrinsics", 9, 3.0, "twist of the program"),
        ("d_star", 40, 0.01, "command of the program"),
    ],
)
def test_every_frame_counts(exported, name, row, amount, words):
    with pytest.raises(ExportError, match=f"export refused: .*{words}|{words}"):
        check_parity(exported.policy, altered(exported.frames, name, row, amount))


def test_too_few_frames_prove_nothing(exported):
    parts = {f.name: getattr(exported.frames, f.name)[: MIN_FRAMES - 1] for f in dataclasses.fields(exported.frames)}
    with pytest.raises(ExportError, match="= 99: allowed is >= 100"):
        check_parity(exported.policy, dataclasses.replace(exported.frames, **parts))


def test_a_wrong_denormalisation_is_refused_and_removed(exported, source, tmp_path, monkeypatch):
    """The traced programs of this policy, but one divides by another focal length; nothing may remain of it."""

    def wrong(net, image_size, focal, max_twist):
        goal, policy = (torch.export.load(exported.out / name) for name in ("goal.pt2", "policy.pt2"))
        nodes = [n for n in policy.graph.nodes if focal in n.args]
        assert len(nodes) == 1
        nodes[0].args = tuple(1.01 * focal if a == focal else a for a in nodes[0].args)
        policy.graph_module.recompile()
        return goal, policy

    monkeypatch.setattr(export, "trace_programs", wrong)
    with pytest.raises(ExportError, match=r"export refused: (twist|command) of the program differs by"):
        write_export(tmp_path / "out", source, exported.frames)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_law_without_the_focal_length_is_refused(exported, source, tmp_path, monkeypatch):
    """The same from the other end: traced with a law that forgets the focal length."""
    monkeypatch.setattr(exported_programs, "refocus_twist", lambda twist, ratio: twist.double())
    with pytest.raises(ExportError, match=r"export refused: (twist|command) of the program differs by"):
        write_export(tmp_path / "out", source, exported.frames)
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_never_overwritten(exported, source, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match=r"out = .*: allowed is a folder that does not exist yet"):
        write_export(tmp_path / "out", source, exported.frames)


def test_other_weights_and_unknown_licences_are_refused(exported, source, tmp_path, monkeypatch):
    version = dataclasses.replace(source.version, sha256="0" * 64)
    with pytest.raises(ExportError, match="not those of policy version"):
        write_export(tmp_path / "out", dataclasses.replace(source, version=version), exported.frames)
    monkeypatch.delitem(export.LICENSES, "conv_small")
    monkeypatch.setattr(export, "trace_programs", None)  # so late a refusal would cost the user a minute
    with pytest.raises(ExportError, match=r"network\.backbone = 'conv_small'"):
        write_export(tmp_path / "out", source, exported.frames)
    assert os.listdir(tmp_path) == []


def test_every_backbone_has_a_note_about_its_licence():
    field = NetworkConfig.__dataclass_fields__["backbone"]
    assert set(field.metadata["allowed"].split("|")) <= set(export.LICENSES)
