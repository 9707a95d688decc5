"""`DifficultyClassifier`: how much knowledge and reasoning a text needs, in levels, by an ordinary checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from ..digest import digest, model_digest, tokenizer_digest
from ..engine.loading import preferred_device, preferred_dtype
from ..names import refuse_public
from ..rows.batching import TokenBudget
from .heads import PERSPECTIVES, class_heads
from .levels import NUM_LEVELS


logger = logging.get_logger(__name__)

DEFAULT_ENCODER = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
# What a classifier's card consists of; no other file of its folder is published with it.
CARD, PICTURE = "README.md", "confusion.png"


@dataclass(frozen=True)
class LevelPrediction:
    """What a classifier says of some texts from one perspective.

    Args:
        expected (`np.ndarray` of shape `(texts,)`):
            Expected level Σ k·p(k), k = 1..n. Of two classes it is the probability of the harder one, of a regression
            head its value.
        level (`np.ndarray` of shape `(texts,)`, *optional*):
            The most probable level, 1 to n; `None` of a regression head.
        probabilities (`np.ndarray` of shape `(texts, n)`, *optional*):
            Probability of each level, easiest first; `None` of a regression head.
        truncated (`np.ndarray` of shape `(texts,)`):
            Whether the text was longer than the classifier reads, so that its end was cut off.
    """

    expected: np.ndarray
    level: np.ndarray | None
    probabilities: np.ndarray | None
    truncated: np.ndarray


class DifficultyClassifier:
    """An encoder with an ordinal head for each perspective on difficulty.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A sequence-classification model. Where its `id2label` names levels of `"knowledge"`, `"reasoning"` or
            `"overall"`, each is a head of its own; else all classes are one head named `"difficulty"`, ordered by the
            numbers in their names or by `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer; `model_max_length` is how much is read of a text.
        labels (`Sequence[str]`, *optional*):
            Class names of an unnamed head from easiest to hardest.
        max_tokens_per_batch (`int`, *optional*):
            Tokens in a forward pass, padding counted; halved by itself when memory runs out. By default 2048 on a CPU
            and 16384 elsewhere.

    Raises:
        `ValueError`: The order of the classes cannot be read.

    Example:

    ```python
    from diq_hf import DifficultyClassifier

    classifier = DifficultyClassifier.from_pretrained("path/to/classifier")
    found = classifier(["Which enzyme is deficient?", "What is a fever?"])
    found["overall"].expected, found["overall"].level, found["overall"].probabilities
    ```
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        labels: Sequence[str] | None = None,
        max_tokens_per_batch: int | None = None,
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.heads = class_heads(model.config.id2label, labels)
        positions = getattr(model.config, "max_position_embeddings", None) or 512
        self.max_length = min(tokenizer.model_max_length, positions)
        self.budget = TokenBudget.on(model.device, max_tokens_per_batch)
        self.card_files: dict[str, bytes] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        labels: Sequence[str] | None = None,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        max_tokens_per_batch: int | None = None,
        **kwargs,
    ) -> "DifficultyClassifier":
        """Loads a sequence-classification checkpoint.

        Args:
            name (`str` or `Path`):
                Hub id or folder.
            labels (`Sequence[str]`, *optional*):
                Class names from easiest to hardest, where they hold no numbers.
            device (`str` or `torch.device`, *optional*):
                Device; by default the accelerator if there is one.
            dtype (`torch.dtype`, *optional*):
                By default bf16 where the hardware computes in it, else fp32.
            max_tokens_per_batch (`int`, *optional*):
                Tokens in a forward pass.
            kwargs (`dict`, *optional*):
                `revision`, `token` and the like, for `from_pretrained` of model and tokenizer.

        Raises:
            `ValueError`: The checkpoint has no trained classification head.
        """
        dtype = preferred_dtype() if dtype is None else dtype
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, output_loading_info=True, **kwargs
        )
        if loaded["missing_keys"]:
            raise ValueError(
                f"{name} has no trained classification head: {sorted(loaded['missing_keys'])[0]} is missing. Train "
                "one on it with `diq train-difficulty --encoder`, or name a classifier."
            )
        tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
        model.to(preferred_device() if device is None else device)
        classifier = cls(model, tokenizer, labels, max_tokens_per_batch)
        if Path(name).is_dir():
            files = (Path(name) / file for file in (CARD, PICTURE))
            classifier.card_files = {path.name: path.read_bytes() for path in files if path.is_file()}
        return classifier

    @classmethod
    def from_encoder(
        cls, name: str | Path, perspectives: Sequence[str] = PERSPECTIVES, max_length: int | None = None, **kwargs
    ) -> "DifficultyClassifier":
        """Puts untrained heads on an encoder, in fp32, to be trained.

        Args:
            name (`str` or `Path`):
                Hub id or folder of an encoder.
            perspectives (`Sequence[str]`, *optional*, defaults to all three):
                Heads to make.
            max_length (`int`, *optional*):
                Tokens that are read of a text; by default what the encoder takes.
            kwargs (`dict`, *optional*):
                `revision`, `token` and the like, for `from_pretrained` of model and tokenizer.
        """
        if not perspectives or (unknown := [name for name in perspectives if name not in PERSPECTIVES]):
            raise ValueError(f"Perspectives are some of {list(PERSPECTIVES)}, not {unknown if perspectives else []}.")
        names = [f"{perspective} {level}" for perspective in perspectives for level in range(1, NUM_LEVELS + 1)]
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={label: i for i, label in enumerate(names)},
            ignore_mismatched_sizes=True,  # of an encoder that classified something else
            dtype=torch.float32,
            **kwargs,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **kwargs)
        tokenizer.truncation_side = "right"
        classifier = cls(model, tokenizer)
        if max_length is not None:
            classifier.max_length = min(classifier.max_length, max_length)
        tokenizer.model_max_length = classifier.max_length  # is saved, so that what was trained is what is read
        return classifier

    @property
    def fingerprint(self) -> str:
        """Names everything that decides its scores."""
        digests = model_digest(self.model), tokenizer_digest(self.tokenizer)
        return digest(["classifier-2", *digests, self.heads, self.max_length])

    @property
    def main_perspective(self) -> str | None:
        """The head that is meant where none is named: `"overall"`, or the only one; `None` if neither."""
        return "overall" if "overall" in self.heads else next(iter(self.heads)) if len(self.heads) == 1 else None

    def __call__(self, texts: Sequence[str]) -> dict[str, LevelPrediction]:
        """Levels of texts, from each perspective. Ends of texts that are too long are cut off, counted and logged."""
        ids, truncated = self.encode(texts)
        logits = np.zeros((len(ids), self.model.config.num_labels))
        with torch.inference_mode():
            for batch, values in self.budget.run(ids, lambda batch: self._logits([ids[i] for i in batch])):
                logits[batch] = values
        if truncated.any():
            logger.warning(
                f"{truncated.sum()} of {len(ids)} texts are longer than the {self.max_length} tokens that the "
                "classifier reads; their ends were cut off."
            )
        return {name: _prediction(logits, order, truncated) for name, order in self.heads.items()}

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of each text, and whether its end was cut off."""
        ids = self.tokenizer(list(texts), verbose=False)["input_ids"] if len(texts) else []
        truncated = np.array([len(row) > self.max_length for row in ids], dtype=bool)
        for i in np.flatnonzero(truncated):
            ids[i] = self.tokenizer(texts[i], truncation=True, max_length=self.max_length)["input_ids"]
        return ids, truncated

    def _logits(self, ids: list[list[int]]) -> np.ndarray:
        inputs = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.model.device)
        return self.model(**inputs).logits.double().cpu().numpy()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a checkpoint that `AutoModelForSequenceClassification` loads, with its card if it has one."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        for name, content in self.card_files.items():
            (Path(folder) / name).write_bytes(content)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload difficulty classifier",
    ) -> str:
        """Publishes checkpoint and card in one commit.

        Args:
            repo_id (`str`):
                Repository on the Hub; made if it is not there.
            private (`bool`, *optional*):
                Whether a new repository is private.
            token (`str` or `bool`, *optional*):
                Token; by default the one of `hf auth login`.
            revision (`str`, *optional*):
                Branch.
            commit_message (`str`, *optional*, defaults to `"Upload difficulty classifier"`):
                Message of the commit.

        Returns:
            `str`: Address of the commit.

        Raises:
            `ValueError`: The repository was to be private, and is there and public.
        """
        api = HfApi(token=token)
        refuse_public(api, repo_id, private, "model")
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
        return commit.commit_url


def _prediction(logits: np.ndarray, order: list[int] | None, truncated: np.ndarray) -> LevelPrediction:
    if order is None:
        return LevelPrediction(logits[:, 0], None, None, truncated)
    chosen = logits[:, order]
    probabilities = np.exp(chosen - chosen.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    binary = len(order) == 2
    expected = probabilities[:, 1] if binary else probabilities @ np.arange(1, len(order) + 1)
    return LevelPrediction(expected, probabilities.argmax(axis=1) + 1, probabilities, truncated)
