"""The GPU kernel in Triton's interpreter, and on a GPU where there is one."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from wsis_d2.layers import boundary_affinity, random_walk

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)

# The interpreter must be chosen before the first import of Triton.
IN_THE_INTERPRETER = """
import torch
from wsis_d2.layers import PairAffinity, boundary_affinity
from wsis_d2.layers.random_walk import _chebyshev_series, chebyshev_coefficients
from wsis_d2.layers.triton_stencil import TritonStencil

torch.manual_seed(0)
for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
    for num_maps, height, width, radius in ((1, 2, 3, 5), (5, 13, 11, 3)):
        affinity = boundary_affinity(torch.rand(height, width, dtype=dtype), radius).pow(2)
        matrix = affinity.dense()
        transition = matrix / matrix.sum(0)
        stencil = TritonStencil(affinity)
        x, v = torch.rand(2, num_maps, height, width, dtype=dtype)
        product = x.flatten(1) @ transition

        u, packed = stencil.pack(x), stencil.pack(v)
        torch.testing.assert_close(stencil.product(u), product, atol=tolerance, rtol=0)
        assert stencil.recur(u, packed) is packed
        torch.testing.assert_close(packed, 2 * product - v.flatten(1), atol=2 * tolerance, rtol=0)
        assert torch.equal(stencil.unpack(u, num_maps), x)

# Maps and affinities whose strides are not those of their shape.
x = torch.rand(13, 11, 5, dtype=dtype).permute(2, 0, 1)
values = affinity.values.permute(1, 2, 0).contiguous().permute(2, 0, 1)
stencil = TritonStencil(PairAffinity(affinity.offsets, values))
u, packed = stencil.pack(x), stencil.pack(x.flip(0))
product = x.flatten(1) @ transition
torch.testing.assert_close(stencil.product(u), product, atol=1e-14, rtol=0)
torch.testing.assert_close(
    stencil.recur(u, packed), 2 * product - x.flip(0).flatten(1), atol=2e-14, rtol=0
)
assert torch.equal(stencil.unpack(u, 5), x)

series = _chebyshev_series(stencil, stencil.pack(x), chebyshev_coefficients(8, 0))
expected = x.flatten(1) @ torch.linalg.matrix_power(transition, 8)
torch.testing.assert_close(series, expected, atol=1e-13, rtol=0)
print("done")
"""


def test_kernel_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_THE_INTERPRETER],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


class NoCompiler:
    """Stands for the kernel; counts how often it was asked for."""

    launches = 0

    def __getitem__(self, grid):
        self.launches += 1
        raise RuntimeError("Failed to find C compiler.")


@pytest.mark.parametrize("method", ["chebyshev", "power"])
def test_without_a_compiler_the_walk_takes_pytorch_and_says_so_once(monkeypatch, caplog, method):
    from wsis_d2.layers import triton_stencil

    torch.manual_seed(0)
    kernel = NoCompiler()
    monkeypatch.setattr(triton_stencil, "_stencil_kernel", kernel)
    monkeypatch.setattr(triton_stencil.TritonStencil, "_kernel_failed", False)
    affinity = boundary_affinity(torch.rand(9, 12), 4)
    x = torch.rand(3, 9, 12)
    expected = random_walk(x, affinity, num_steps=20, method=method)
    # The package's function hides the module of its name.
    module = sys.modules["wsis_d2.layers.random_walk"]
    monkeypatch.setattr(module, "_fastest_stencil", triton_stencil.TritonStencil)
    with caplog.at_level("WARNING"):
        results = [random_walk(x, affinity, num_steps=20, method=method) for _ in range(2)]
    for result in results:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    (record,) = caplog.records
    assert "Failed to find C compiler" in record.getMessage()
    assert kernel.launches == 1
