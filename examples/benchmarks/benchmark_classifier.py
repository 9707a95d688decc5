"""How good a trained difficulty classifier is beside TF-IDF with logistic regression, with each loss and seed.

By default on the questions of `clinical_levels.py`, with whole templates held out; `--rows` takes any file with levels
in columns `knowledge`, `reasoning` or `overall`. The baselines see the same training rows and are judged on the same
held-out ones. They need scikit-learn.

    python examples/benchmarks/benchmark_classifier.py --seeds 0 1 2 --losses ordinal cross_entropy
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from clinical_levels import clinical_levels
from datasets import Dataset
from fetch_encoder import DEFAULT_FOLDER, fetch_encoder
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn import functional as F

from diq_hf.difficulty.agreement import prediction_figures
from diq_hf.difficulty.classifier_training import ordinal_loss, read_levels, split, train_classifier


def cross_entropy(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits.float().unflatten(-1, (-1, 5)).transpose(1, 2), labels)


LOSSES = {"ordinal": ordinal_loss, "cross_entropy": cross_entropy}


def baseline(texts: list[str], levels: np.ndarray, train: np.ndarray, held: np.ndarray, words: int) -> dict:
    """Figures of logistic regression on TF-IDF of up to so many words in a row."""
    rows = train[levels[train] > 0]
    features = TfidfVectorizer(ngram_range=(1, words), sublinear_tf=True)
    model = make_pipeline(features, LogisticRegression(C=10.0, max_iter=2000))
    model.fit([texts[i] for i in rows], levels[rows])
    rows = held[levels[held] > 0]
    probabilities = model.predict_proba([texts[i] for i in rows])
    predicted = model.classes_[probabilities.argmax(axis=1)]
    return prediction_figures(levels[rows], predicted, probabilities @ model.classes_)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="JSON lines with `prompt` and levels; by default the clinical questions")
    parser.add_argument("--group_column", help="hold out whole groups; `template` for the clinical questions")
    parser.add_argument("--encoder", help="Hub id or folder; by default all-MiniLM-L6-v2 from PyPI")
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--holdout", type=float, default=0.15)
    parser.add_argument("--num_train_epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--output", type=Path, default=Path("classifier_benchmark.jsonl"))
    options = parser.parse_args(arguments)

    dataset = Dataset.from_json(options.rows) if options.rows else Dataset.from_list(clinical_levels())
    group_column = options.group_column or (None if options.rows else "template")
    encoder = options.encoder or fetch_encoder(DEFAULT_FOLDER)
    texts, levels = dataset["prompt"][:], read_levels(dataset)
    labelled = np.any(list(levels.values()), axis=0)
    for seed in options.seeds:
        parts = split(levels, dataset[group_column][:] if group_column else None, options.holdout, seed)
        train = np.flatnonzero(labelled & ~np.any(list(parts.values()), axis=0))
        found = {}
        for words in (1, 2):
            found[f"tfidf_{words}"] = {
                part: {name: baseline(texts, levels[name], train, np.flatnonzero(rows), words) for name in levels}
                for part, rows in parts.items()
            }
        for loss in options.losses:
            with tempfile.TemporaryDirectory() as folder:
                _, found[loss] = train_classifier(
                    dataset,
                    folder,
                    encoder=encoder,
                    group_column=group_column,
                    holdout=options.holdout,
                    compute_loss_func=LOSSES[loss],
                    num_train_epochs=options.num_train_epochs,
                    learning_rate=options.learning_rate,
                    seed=seed,
                )
        with options.output.open("a") as file:
            for method, by_part in found.items():
                for part, by_name in by_part.items():
                    for name, figures in by_name.items():
                        shown = {key: round(value, 4) for key, value in figures.items() if np.isscalar(value)}
                        line = {"seed": seed, "method": method, "part": part, "perspective": name, **shown}
                        file.write(json.dumps(line) + "\n")
                        print(
                            f"seed {seed}  {method:14} {part:7} {name:10} kappa {shown['kappa']:6.3f}  "
                            f"Spearman {shown['spearman']:6.3f}  MAE {shown['mae']:.3f}  exact {shown['exact']:.3f}",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
