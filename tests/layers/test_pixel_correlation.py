"""Pixel correlation against plain loops over all pairs of pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import cosine_similarity

from wsis_d2.layers import correlate_pixels, pixel_correlation


def _by_hand(maps, features, power):
    """One image: maps (K, h, w), features (C, h, w) each."""
    k, h, w = maps.shape
    pixels = [(y, x) for y in range(h) for x in range(w)]
    out = torch.zeros_like(maps)
    for y, x in pixels:
        total = 0.0
        for v, u in pixels:
            alike = sum(
                cosine_similarity(f[:, y, x], f[:, v, u], dim=0, eps=1e-12) for f in features
            ) / len(features)
            weight = max(float(alike), 0.0) ** power
            out[:, y, x] += weight * maps[:, v, u]
            total += weight
        out[:, y, x] /= total
    return out


def _example(seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    features = [torch.randn(2, c, 4, 5, generator=generator, dtype=torch.float64) for c in (6, 3)]
    return maps, features


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_against_loops(power):
    maps, features = _example()
    expected = [_by_hand(m, [f[i] for f in features], power) for i, m in enumerate(maps)]
    assert torch.allclose(correlate_pixels(maps, features, power), torch.stack(expected))


def test_in_blocks_as_at_once(monkeypatch):
    maps, features = _example()
    at_once = correlate_pixels(maps, features)
    monkeypatch.setattr(pixel_correlation, "_CORRELATIONS_AT_ONCE", 60)
    assert torch.allclose(correlate_pixels(maps, features), at_once)


def test_features_of_other_sizes_are_resized():
    maps, _ = _example()
    fine, coarse = torch.randn(2, 4, 8, 10).double(), torch.randn(2, 4, 2, 3).double()
    resized = [
        F.avg_pool2d(fine, 2),
        F.interpolate(coarse, (4, 5), mode="bilinear", align_corners=False),
    ]
    assert torch.allclose(correlate_pixels(maps, [fine, coarse]), correlate_pixels(maps, resized))


def test_two_kinds_of_pixels_do_not_mix():
    left = (torch.arange(5) < 2).double().expand(1, 1, 4, 5)
    maps, _ = _example()
    average = correlate_pixels(maps[:1], [torch.cat([left, 1 - left], dim=1)])
    for kind in (left[0, 0] > 0, left[0, 0] == 0):
        expected = maps[0][:, kind].mean(1, keepdim=True).expand(-1, int(kind.sum()))
        assert torch.allclose(average[0][:, kind], expected)


def test_a_pixel_without_features_keeps_its_value():
    maps, (feature, _) = _example()
    feature[:, :, 1, 2] = 0
    assert torch.equal(correlate_pixels(maps, [feature])[..., 1, 2], maps[..., 1, 2])


@pytest.mark.parametrize(
    ("features", "power"),
    [([], 1.0), ([torch.ones(3, 2, 4, 5)], 1.0), ([torch.ones(2, 2, 4, 5)], 0.0)],
)
def test_bad_arguments(features, power):
    with pytest.raises(ValueError, match="correlat"):
        correlate_pixels(_example()[0].float(), features, power)
