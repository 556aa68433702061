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
from wsis_d2.layers import boundary_affinity
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_walks_like_a_cpu():
    boundaries = [torch.rand(20, 31) ** 3, torch.rand(17, 40) ** 3]
    xs = [torch.rand(3, 20, 31), torch.rand(6, 17, 40)]
    affinities = [boundary_affinity(b, 5) for b in boundaries]
    expected = random_walk(xs, affinities)
    results = random_walk([x.cuda() for x in xs], [a.to("cuda") for a in affinities])
    for result, wanted in zip(results, expected):
        assert result.is_cuda
        torch.testing.assert_close(result.cpu(), wanted, atol=1e-4, rtol=0)
