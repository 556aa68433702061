"""WISE with other parts, whole recipes on a tiny Shapes: other localisers, a draw per epoch."""

import json

import pytest
from conftest import QUICK

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("recipe", "generator", "columns"),
    [
        ("wise_cam/recipe.yaml", "WISE · CAMMaxima · BestObjectness", ("Maxima", "Basins")),
        (
            "wise_irnet/recipe.yaml",
            "WISE · IRNetCentroids · BestObjectness",
            ("Centroids", "Random walk"),
        ),
        (
            "wise_counts/recipe.yaml",
            "WISE · DensityPeaks · DensityObjectness",
            ("Density", "Peaks"),
        ),
        ("wise/recipe_sampled.yaml", "WISE · PRMPeaks · BestObjectness", ("Peaks",)),
    ],
)
def test_recipe(recipe, generator, columns, run_tool, tmp_path):
    completed = run_tool(
        "run_pipeline.py",
        *("--recipe", f"configs/shapes/{recipe}", "--output", tmp_path, *QUICK),
        *("PSEUDO_LABELS.IRNET.BG_THRESHOLD", "0.01", "PSEUDO_LABELS.MAX_PEAKS", "3"),
        timeout=900,
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 <= results["pseudo_labels"]["metrics"]["pseudo_labels"]["AP50"] <= 100
    assert "AP50" in results["mask_rcnn"]["metrics"]["instance_masks"]
    labels = json.loads((tmp_path / "pseudo_labels" / "pseudo_labels.json").read_text())
    assert labels["annotations"]
    for annotation in labels["annotations"]:
        candidates = annotation.get("candidates", [])
        assert (len(candidates) > 0) == ("sampled" in recipe)
        if candidates:
            assert len(candidates) <= 20
            assert sum(c["weight"] for c in candidates) == pytest.approx(1, abs=1e-4)
            # The label itself is the most likely candidate.
            assert candidates[0]["segmentation"] == annotation["segmentation"]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert generator in html
    for title in columns:
        assert f'<p class="step">{title}</p>' in html
