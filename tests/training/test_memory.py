"""Out of memory: what is said, what still fits, and that a failed try leaves nothing behind."""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch

from training import config as configs
from training.editors.settings import DiffusersSettings
from training.memory import explain, fit, is_out_of_memory, peak_memory_mb

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_heap():
    """Collecting garbage takes a second in a process with all these libraries; what is there now is not looked at."""
    gc.freeze()
    yield
    gc.unfreeze()


def fits_up_to(limit, error=torch.OutOfMemoryError):
    tried = []

    def try_size(size):
        tried.append(size)
        if size > limit:
            raise error("CUDA out of memory. Tried to allocate 20.00 MiB.")

    return try_size, tried


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_the_largest_power_of_two_that_runs(error):
    try_size, tried = fits_up_to(11, error)
    assert fit(try_size, 100) == 8
    assert tried == [64, 32, 16, 8]


def test_the_largest_is_tried_first_and_may_fit():
    try_size, tried = fits_up_to(64)
    assert fit(try_size, 64) == 64
    assert tried == [64]


def test_where_not_even_one_fits_the_error_comes_through():
    try_size, _ = fits_up_to(0)
    with pytest.raises(torch.OutOfMemoryError):
        fit(try_size, 4)
    with pytest.raises(ValueError, match="at least 1"):
        fit(try_size, 0)


def test_other_errors_are_not_mistaken_for_it():
    tried = []

    def broken(size):
        tried.append(size)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        fit(broken, 8)
    assert tried == [8]


def test_a_failed_try_leaves_no_tensor_behind():
    """An error's traceback keeps the frames that it came through, and they the tensors that filled the memory."""
    kept, alive_before = [], []

    def inner(size, activations):
        try:
            raise ValueError("first of two")
        except ValueError:
            own = torch.zeros(10)
            kept.append(weakref.ref(own))
            raise torch.OutOfMemoryError("CUDA out of memory.")  # noqa: B904 - with the other as its context

    def try_size(size):
        alive_before.append([reference() is not None for reference in kept])
        activations = torch.zeros(size, requires_grad=True) * 2
        kept.append(weakref.ref(activations))
        if size > 2:
            inner(size, activations)

    gc.disable()  # nothing may have to wait for the collector
    try:
        assert fit(try_size, 8) == 2
    finally:
        gc.enable()
    assert [len(before) for before in alive_before] == [0, 2, 4]
    assert not any(alive for before in alive_before for alive in before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_real_memory_that_runs_out():
    """A process that may use 1.5 GB more: 2^k tensors of 64 MB; torch's own error on a CPU is a plain RuntimeError."""
    code = (
        "import resource, torch\n"
        "from training.memory import fit, peak_memory_mb\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1536 << 20),) * 2)\n"
        "print(fit(lambda n: [torch.empty(16 << 20) for _ in range(n)], 1000))\n"
        "before = peak_memory_mb('cpu'); kept = torch.ones(64 << 20); print(peak_memory_mb('cpu') - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    size, grown = done.stdout.split()
    assert size == "16"
    assert float(grown) == pytest.approx(256, rel=0.1)


def test_what_is_out_of_memory():
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes"))


def test_settings_that_help_are_named_and_those_that_are_down_are_not():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of")
    text = explain(
        error,
        configs.paper(),
        DiffusersSettings(model="m", condition_area=1024 * 1024, target_area=256 * 256),
        {"activation_checkpointing": True, "float8": False, "shard_base": False},
    )
    lines = text.splitlines()
    assert "2.50 GiB were wanted" in lines[0]
    assert [line.split()[2].strip(",") for line in lines[1:] if line.startswith("- lower")] == [
        "micro_batch",
        "rollout_batch",
        "condition_area",
    ]
    assert "now 1048576" in text
    assert "float8" in text
    assert "shard_base" in text
    assert "activation_checkpointing" not in text


def test_nothing_left_to_lower():
    assert "a device with more memory" in explain(MemoryError(), {"micro_batch": 1})


def test_peak_memory_of_this_process():
    assert peak_memory_mb("cpu") > 50
