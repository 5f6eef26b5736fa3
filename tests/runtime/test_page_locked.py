"""Page-locked memory for a GPU's input: used again when nobody can see it any more, and never a reason to fail.

No GPU is needed: the CUDA runtime is stood in for by one of ordinary memory. On a real one: tests/scoring/test_gpu.py.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from sparkscore.runtime.page_locked import PageLocked

MIB = 1 << 20


class Runtime:
    """The four calls of the CUDA runtime, over ordinary memory; it refuses what would be more than `has_bytes`."""

    def __init__(self, has_bytes=1 << 40):
        self.has_bytes, self.held, self.asked, self.devices, self.error = has_bytes, {}, 0, [], 0

    def cudaSetDevice(self, device):
        self.devices.append(device)
        return 0

    def cudaHostAlloc(self, place, size, flags):
        self.asked += 1
        if sum(map(len, self.held.values())) + size.value > self.has_bytes:
            self.error = 2
            return 2
        memory = ctypes.create_string_buffer(size.value)
        place._obj.value = ctypes.addressof(memory)
        self.held[ctypes.addressof(memory)] = memory
        return 0

    def cudaFreeHost(self, place):
        del self.held[place.value]
        return 0

    def cudaGetLastError(self):
        error, self.error = self.error, 0
        return error

    def holds(self, array):
        at = array.__array_interface__["data"][0]
        return any(start <= at < start + len(memory) for start, memory in self.held.items())


def test_an_array_lies_in_locked_memory_of_the_sessions_gpu():
    runtime = Runtime()
    block = PageLocked(3, runtime)((1000, 30), "float32")
    block[:] = np.arange(30)
    assert (block.shape, block.dtype, block.flags.c_contiguous) == ((1000, 30), np.float32, True)
    assert runtime.holds(block)
    assert runtime.devices == [3]
    assert (block == np.arange(30, dtype=np.float32)).all()


def test_memory_is_used_again_once_the_array_and_all_its_views_are_gone():
    runtime = Runtime()
    memory = PageLocked(0, runtime)
    first = memory((MIB,), "uint8")
    first[:] = 7
    view = first[10:20].reshape(2, 5)
    del first
    other = memory((MIB,), "uint8")
    other[:] = 9
    assert (view == 7).all(), "the view's memory was given to another array"
    assert len(runtime.held) == 2
    del view
    again = memory((MIB - 5,), "uint8")
    assert runtime.holds(again)
    assert len(runtime.held) == 2, "memory that nobody uses is taken again"
    assert not np.shares_memory(again, other)


def test_memory_far_larger_than_the_array_is_kept_for_larger_ones():
    runtime = Runtime()
    memory = PageLocked(0, runtime)
    large = memory((64 * MIB,), "uint8")
    del large
    small = memory((MIB,), "uint8")
    assert sorted(map(len, runtime.held.values())) == [MIB, 64 * MIB]
    assert runtime.holds(small)


@pytest.mark.parametrize(("shape", "dtype"), [((10, 3), "float32"), ((0,), "float32"), ((MIB,), object)])
def test_small_arrays_and_objects_lie_in_ordinary_memory(shape, dtype):
    runtime = Runtime()
    array = PageLocked(0, runtime)(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert runtime.asked == 0


def test_beyond_the_limit_idle_memory_is_freed_first_and_then_arrays_lie_in_ordinary_memory():
    runtime = Runtime()
    memory = PageLocked(0, runtime, limit_bytes=7 * MIB)
    idle = memory((6 * MIB,), "uint8")
    del idle
    one = memory((MIB // 2,), "uint8")  # 6 MiB are too much for it
    two = memory((2 * MIB,), "uint8")  # with them it would be 9
    assert sorted(map(len, runtime.held.values())) == [MIB, 2 * MIB], "the idle 6 MiB were freed"
    three = memory((5 * MIB,), "uint8")
    assert [runtime.holds(a) for a in (one, two, three)] == [True, True, False]
    three[:] = 1


def test_where_cuda_refuses_arrays_lie_in_ordinary_memory_and_its_error_is_taken_back(caplog):
    runtime = Runtime(has_bytes=MIB)
    memory = PageLocked(0, runtime)
    held = memory((MIB,), "uint8")
    arrays = [memory((MIB,), "uint8") for _ in range(3)]
    assert not any(runtime.holds(array) for array in arrays)
    assert runtime.error == 0, "the next call of the model would report it"
    assert runtime.asked == 2, "it is not asked at each batch"
    assert caplog.text.count("ordinary memory feeds the GPU: CUDA error 2") == 1
    del held
    assert runtime.holds(memory((MIB,), "uint8")), "what it gave before is still used"


def test_without_a_cuda_runtime_in_the_process_arrays_lie_in_ordinary_memory():
    array = PageLocked(0)((MIB,), "uint8")
    array[:] = 1
    assert array.flags.owndata
