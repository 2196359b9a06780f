"""Tensors of a batch: the schema's dtypes, and no copy where none is needed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from records import make_episode

from replay.drawing import Group
from replay.prefetch import Prefetcher
from replay.samplers import RowSampler
from replay.store import open_store
from replay.torch_batches import to_torch


def test_tensors_share_the_memory_of_the_arrays() -> None:
    batch = {"image": np.zeros((2, 4, 4, 3), np.uint8), "mask": np.ones((2, 4, 4), bool), "iou": np.ones(2, np.float32)}
    tensors = to_torch(batch, pin=False)
    assert [t.dtype for t in tensors.values()] == [torch.uint8, torch.bool, torch.float32]
    for name, tensor in tensors.items():
        assert tensor.data_ptr() == batch[name].ctypes.data
        assert tensor.shape == batch[name].shape


def test_a_batch_of_the_store_arrives_as_tensors(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", "a", create=True)
    with closing(store.writer("w")) as w:
        w.append(make_episode("dagger", rows=4))
    store.refresh()
    groups = [Group("dagger", 3)]
    plain = RowSampler(store, 0, ["image", "mask", "match", "d_star"]).batch(groups, 0)
    with Prefetcher(RowSampler(store, 0, ["image", "mask", "match", "d_star"]), groups, to_torch) as prefetcher:
        tensors = prefetcher.next()
    assert (tensors["image"].dtype, tensors["mask"].dtype) == (torch.uint8, torch.bool)
    for name, array in plain.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)
        assert tensors[name].is_pinned() == torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be pinned here")
def test_pinning_without_cuda_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        to_torch({"iou": np.ones(2, np.float32)}, pin=True)


@pytest.mark.gpu
def test_pinned_tensors_can_be_copied_from_at_any_time() -> None:
    tensor = to_torch({"image": np.ones((2, 4, 4, 3), np.uint8)})["image"]
    assert tensor.is_pinned()
    assert tensor.to("cuda", non_blocking=True).sum().item() == 96
