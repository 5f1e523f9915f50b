import os

import numpy as np

from slidemill.features.ring import Ring


def test_slots_do_not_overlap_and_are_shared_with_a_child():
    ring = Ring(3, 2, 8)
    for slot in range(3):
        ring.view(slot, 2)[:] = slot + 1
    child = os.fork()
    if child == 0:
        ring.view(1, 2)[0] = 77
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert np.unique(ring.view(0, 2)).tolist() == [1]
    assert np.unique(ring.view(1, 2)[0]).tolist() == [77]
    assert np.unique(ring.view(1, 2)[1]).tolist() == [2]
    assert np.unique(ring.view(2, 2)).tolist() == [3]


def test_slots_are_taken_and_given_back():
    ring = Ring(2, 1, 4)
    taken = {ring.take(), ring.take()}
    assert taken == {0, 1}
    assert not ring.has_free
    ring.release(1)
    assert ring.take() == 1
    assert ring.slot_bytes == 48
