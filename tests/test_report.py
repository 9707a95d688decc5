"""Figures are drawn from the columns, unscored rows included."""

from datasets import Dataset

from diq_hf import QuadrantRule
from diq_hf.figures import plot_quadrants


def test_plot_quadrants(tmp_path):
    scored = Dataset.from_dict({"difficulty": [1.0, 2.0, 3.0, None], "influence": [0.1, -0.4, 0.3, 1.0]})
    path = plot_quadrants(scored, QuadrantRule.fit(scored), tmp_path / "quadrants.png", selected=[2])
    assert path.read_bytes().startswith(b"\x89PNG")
