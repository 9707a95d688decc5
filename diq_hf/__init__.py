"""Difficulty and exact gradient influence of fine-tuning rows, as Hugging Face dataset columns.

The method is DIQ, the Difficulty-Influence Quadrant: https://huggingface.co/papers/2508.01450.
Names are imported when they are first used, so `import diq_hf` stays free of torch.
"""

from importlib import import_module


__version__ = "0.1.0"

_ROOMS = {
    "DIQScorer": "scoring.scorer",
    "ColumnTemplate": "rows.templates",
    "QuadrantRule": "selection.quadrants",
    "select_subset": "selection.select",
    "DifficultyClassifier": "difficulty.classifier",
    "ColumnDifficulty": "difficulty.sources",
    "ClassifierDifficulty": "difficulty.sources",
    "IFDDifficulty": "difficulty.sources",
    "projected_influence": "engine.projections",
    "DIQCallback": "training.callback",
    "annotate": "annotation.annotate",
    "compare": "comparison.compare",
    "push_subset": "publishing.hub",
    "load_subset": "publishing.hub",
    "verify_subset": "publishing.hub",
    "write_report": "reporting.report",
    "push_report": "publishing.space",
}

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str):
    if name in _ROOMS:
        return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
