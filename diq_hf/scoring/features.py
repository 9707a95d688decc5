"""What can be known of a row without the model: its words, its lengths, and how far prompt and answer share words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


# Dimensions that the words of prompts, and those of answers, are reduced to for trees.
COMPONENTS = 30
# A word, or one character of the scripts that write no spaces between words.
TOKEN = r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|\^"
# Rows that the vocabulary and its weights are learned from.
LEARNED_FROM = 50_000


@dataclass(frozen=True)
class Features:
    """Features of rows.

    Args:
        words (`scipy.sparse.csr_matrix`):
            TF-IDF of prompt and answer, and the numbers of `dense` at a small scale: for linear models.
        dense (`np.ndarray`):
            Lengths, shared words, and components of the words: for trees.
    """

    words: Any
    dense: np.ndarray

    def __len__(self) -> int:
        return len(self.dense)


def text_features(
    prompts: Sequence[str], answers: Sequence[str], num_tokens: np.ndarray, num_trained: np.ndarray, seed: int = 0
) -> Features:
    """Features of rows, learned from the rows alone.

    Args:
        prompts (`Sequence[str]`):
            Their prompts.
        answers (`Sequence[str]`):
            Their answers.
        num_tokens (`np.ndarray`):
            Their tokens, as they are trained on.
        num_trained (`np.ndarray`):
            Those of them that are trained.
        seed (`int`, *optional*, defaults to 0):
            Of what is drawn.

    Raises:
        `ImportError`: scikit-learn is not there.
    """
    try:
        from scipy import sparse
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError(
            "Choosing rows without scoring all of them takes scikit-learn: `pip install diq-hf[select]`. Or score "
            "every row: `select_subset(diq_score.score(ds), ...)`."
        ) from error

    shown = np.random.default_rng(seed).permutation(len(prompts))[:LEARNED_FROM]

    def learn(texts: Sequence[str], least: int) -> Any:
        # A term that every row has stays in any case, so that there is a vocabulary where no words recur.
        vectorizer = TfidfVectorizer(
            sublinear_tf=True, min_df=least, max_features=200_000, token_pattern=TOKEN, preprocessor=_with_mark
        )
        return vectorizer.fit(texts[i] for i in shown)

    both = [f"{prompt}\n{answer}" for prompt, answer in zip(prompts, answers, strict=True)]
    shared = learn(both, 1)
    of_prompts, of_answers = shared.transform(prompts), shared.transform(answers)
    numbers = np.hstack(
        [_lengths(prompts, answers, num_tokens, num_trained), _overlap(of_prompts, of_answers, shared.idf_)]
    )
    numbers = (numbers - numbers.mean(axis=0)) / (numbers.std(axis=0) + 1e-9)
    parts, components = [], []
    for texts in (prompts, answers):
        matrix = learn(texts, min(2, len(texts))).transform(texts).tocsr()
        parts.append(matrix)
        size = min(COMPONENTS, matrix.shape[1] - 1)
        if size > 0:
            reduced = TruncatedSVD(size, random_state=seed).fit(matrix[shown])
            components.append(reduced.transform(matrix))
    words = sparse.hstack([*parts, sparse.csr_matrix(0.3 * numbers)]).tocsr()
    return Features(words, np.hstack([numbers, *components]).astype(np.float32))


def _with_mark(text: str) -> str:
    return f"^ {text.lower()}"


def _lengths(
    prompts: Sequence[str], answers: Sequence[str], num_tokens: np.ndarray, num_trained: np.ndarray
) -> np.ndarray:
    trained = np.maximum(num_trained, 1.0)
    texts = [np.log1p([len(text) for text in side]) for side in (prompts, answers)]
    return np.stack([np.log(trained), np.log(trained) ** 2, trained**-0.5, np.log1p(num_tokens), *texts], axis=1)


def _overlap(prompts: Any, answers: Any, weights: np.ndarray) -> np.ndarray:
    """How much of the prompt the answer takes up, and of the answer the prompt holds, by words' weights."""
    in_prompt, in_answer = prompts.astype(bool).astype(float), answers.astype(bool).astype(float)
    both = in_prompt.multiply(in_answer)
    shared = both @ weights
    least = np.full(len(shared), 1e-9)
    missing = (in_prompt - both).multiply(weights[None]).tocsr().max(axis=1).toarray()[:, 0]
    return np.stack(
        [
            shared / np.maximum(in_prompt @ weights, least),
            shared / np.maximum(in_answer @ weights, least),
            np.asarray(prompts.multiply(answers).sum(axis=1))[:, 0],
            missing,
            np.asarray(both.sum(axis=1))[:, 0],
        ],
        axis=1,
    )
