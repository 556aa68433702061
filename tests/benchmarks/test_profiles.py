"""What stands at the top of a profile."""

import torch

from wsis_d2.benchmarks.profiles import top_operations


def test_products_are_what_a_network_of_products_does():
    def run(x):
        for _ in range(20):
            x = torch.mm(x, x).div_(300)
        return x

    top = top_operations(run, torch.rand(300, 300), number=2)
    assert len(top) == 2
    assert top[0]["operation"] == "aten::mm"
    assert 0 < top[1]["share"] <= top[0]["share"] <= 1
    assert top[0]["seconds"] > 0


def _count(n: int) -> int:
    return sum(i % 7 for i in range(n))


def test_python_functions_are_named_where_pytorch_does_little():
    top = top_operations(lambda n: _count(n) + torch.zeros(1), 2_000_000)
    assert "test_profiles.py" in top[0]["operation"]
    assert "_count" in top[0]["operation"] or "genexpr" in top[0]["operation"]
    assert top[0]["share"] > 0.2
