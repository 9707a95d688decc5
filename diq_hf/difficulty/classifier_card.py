"""The card of a difficulty classifier: what it is, how good it is, and its confusions as a picture."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .. import __version__
from .classifier import CARD, NUM_LEVELS, PICTURE


FIGURES = {
    "kappa": "Quadratic weighted kappa",
    "spearman": "Spearman",
    "mae": "MAE, levels",
    "mae_constant": "MAE of the best constant level",
    "exact": "Exact",
    "within_one": "Within one",
    "calibration_error": "Calibration error, levels",
}
PARTS = {"groups": "held-out groups", "rows": "held-out rows"}


def write_card(folder: Path, encoder: str | Path, figures: Mapping[str, Mapping], facts: Mapping) -> None:
    """Writes `README.md` and the picture of confusions beside a checkpoint.

    Args:
        folder (`Path`):
            Folder of the checkpoint; its name is the model's.
        encoder (`str` or `Path`):
            What was fine-tuned. A folder's path stays out of the card.
        figures (`Mapping[str, Mapping]`):
            By part (`"groups"`, `"rows"`) and perspective, from
            [`~diq_hf.difficulty.classifier_training.train_classifier`].
        facts (`Mapping`):
            What the template shows beside: counts and settings.
    """
    local, name = Path(encoder).is_dir(), folder.resolve().name
    perspectives = list(next(iter(figures.values())))
    results = [
        EvalResult(
            task_type="text-classification",
            task_name=f"Difficulty ({perspective})",
            dataset_type="private",
            dataset_name=PARTS[part],
            dataset_config=perspective,
            dataset_split=part,
            metric_type=metric,
            metric_name=FIGURES[metric],
            metric_value=round(found[metric], 4),
        )
        for part, by_perspective in figures.items()
        for perspective, found in by_perspective.items()
        for metric in ("kappa", "mae")
    ]
    data = ModelCardData(
        base_model=None if local else str(encoder),
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["diq", "difficulty", "ordinal"],
        model_name=name,
        eval_results=results,
    )
    plot_confusion(figures, folder / PICTURE)
    card = ModelCard.from_template(
        data,
        template_str=files("diq_hf.hub_cards").joinpath("difficulty_classifier.md.jinja").read_text(encoding="utf-8"),
        encoder=Path(encoder).name if local else str(encoder),
        name=name,
        perspectives=perspectives,
        figures=figures,
        metrics=FIGURES,
        parts=PARTS,
        picture=PICTURE,
        num_levels=NUM_LEVELS,
        version=__version__,
        **facts,
    )
    card.save(folder / CARD)


def summary(figures: Mapping[str, Mapping]) -> str:
    """The main figures as plain lines."""
    return "\n".join(
        f"{PARTS[part]}, {perspective}: kappa {found['kappa']:.3f}, Spearman {found['spearman']:.3f}, MAE "
        f"{found['mae']:.2f} (best constant {found['mae_constant']:.2f}), exact {found['exact']:.0%}, within one "
        f"{found['within_one']:.0%}, of {found['rows']} rows"
        for part, by_perspective in figures.items()
        for perspective, found in by_perspective.items()
    )


def plot_confusion(figures: Mapping[str, Mapping], path: Path) -> None:
    """Draws observed against predicted levels: a row of squares for each part, a column for each perspective."""
    from matplotlib.figure import Figure  # the plain figure: no window system is touched

    perspectives = list(next(iter(figures.values())))
    figure = Figure(figsize=(3.2 * len(perspectives), 3.4 * len(figures)), layout="constrained")
    axes = figure.subplots(len(figures), len(perspectives), squeeze=False)
    ticks = range(NUM_LEVELS)
    for row, (part, found) in zip(axes, figures.items(), strict=True):
        for square, name in zip(row, perspectives, strict=True):
            counts = found[name]["confusion"]
            square.imshow(counts, cmap="Greys")
            for observed in ticks:
                for predicted in ticks:
                    number = counts[observed, predicted]
                    color = "white" if number > counts.max() / 2 else "black"
                    square.text(predicted, observed, str(number), ha="center", va="center", color=color, fontsize=8)
            square.set_title(f"{name}, {PARTS[part]}", fontsize=9)
            square.set_xticks(ticks, [level + 1 for level in ticks])
            square.set_yticks(ticks, [level + 1 for level in ticks])
            square.set_xlabel("predicted level")
            square.set_ylabel("observed level")
    figure.savefig(path, dpi=120)
