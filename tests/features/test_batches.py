import numpy as np
import pytest
import torch

from slidemill.features.batches import CPU_BATCH, Batch, find_batch_size, is_out_of_memory


def test_a_batch_takes_what_fits_and_says_whose_it_is():
    batch = Batch(5, 4, torch.device("cpu"))
    pixels = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3)
    released = []
    assert batch.put(3, np.arange(4), pixels) == 4
    batch.after_copy(lambda: released.append("a"))
    assert not batch.is_full
    assert batch.put(8, np.arange(10, 14), pixels) == 1
    assert batch.is_full
    assert released == ["a"]
    assert (batch.tiles[:4].numpy() == pixels).all()
    assert (batch.tiles[4].numpy() == pixels[0]).all()
    assert [(slide, rows.tolist()) for slide, rows in batch.segments] == [
        (3, [0, 1, 2, 3]),
        (8, [10]),
    ]
    pixels[:] = 0
    assert batch.tiles[1].any(), "it is a copy"
    batch.clear(None)
    assert batch.count == 0
    assert batch.segments == []


def test_on_a_cpu_batches_are_small():
    assert find_batch_size(lambda tiles: None, 224, torch.device("cpu")) == CPU_BATCH


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_bugs(error, found):
    assert is_out_of_memory(error) is found
