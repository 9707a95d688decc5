"""What a [`~diq_hf.DIQScorer`] does with a whole dataset at once: calibrate, score in chunks, select with an audit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset

from ..columns import labels_as_names, labels_as_numbers
from ..files import is_address
from ..selection.settings import settings_for
from .columns import check_difficulty, count_unscored, with_columns
from .mismatch import MismatchNull, calibrate, null_size
from .reliability import report


class WholeDatasets:
    """Methods of [`~diq_hf.DIQScorer`] beside its call."""

    def calibrate(self, dataset: Any, size: int | None = None, seed: int = 0) -> MismatchNull:
        """Measures how much prompts of other rows help answers, which is what `mismatch` holds a row's own against.

        [`~DIQScorer.score`] does so by itself, on the dataset that it scores. `map` sees a batch at a time, so that
        `extra_columns=["mismatch"]` needs this first.

        Args:
            dataset ([`~datasets.Dataset`] or `list[dict]`):
                The rows that will be scored, or others of the same kind; a few hundred of them are looked at.
            size (`int`, *optional*):
                Answers that get the prompt of another row, a forward pass each; by default as [`~DIQScorer.score`] has
                it, a quarter of the rows, but at least 96 and at most 384.
            seed (`int`, *optional*, defaults to `0`):
                Of the draw.

        Returns:
            [`~diq_hf.scoring.mismatch.MismatchNull`]: What was measured. The scorer uses it from now on.

        Example:

        ```python
        diq_score = DIQScorer(model, validation, extra_columns=["mismatch"])
        diq_score.calibrate(ds)
        scored = ds.map(diq_score, batched=True)
        ```
        """
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or isinstance(dataset, Mapping):
            raise TypeError(
                f"A {type(dataset).__name__} has no rows by position. Pass a split, or some rows of a stream: "
                "`diq_score.calibrate(list(stream.shuffle(seed=0).take(3000)))`."
            )
        dataset = self.readable(dataset) if isinstance(dataset, Dataset) else dataset
        self.calibration = calibrate(self, dataset, null_size(len(dataset)) if size is None else size, seed)
        return self.calibration

    def score(
        self,
        dataset: Any,
        chunk_size: int = 512,
        cache_dir: str | Path | None = None,
        accelerator: Any = None,
        output_dir: str | Path | None = None,
    ) -> Any:
        """Scores a dataset chunk by chunk, on all processes of a launcher, and goes on where a killed run stopped.

        Chunks are written to disk as they are done and found again by what decides their scores: the scorer's
        fingerprint, the dataset and `chunk_size`. Under `torchrun` or `accelerate launch` every process calls this and
        returns the same dataset, in the original order. Chunks are shared out by position, so the number of processes
        may change between runs; it changes no score.

        A stream is scored to disk, whatever its length: rows and scores go to Parquet chunk by chunk. It is read from
        its start, by every process; a killed run goes on at the position of its last chunk, or, with a stream that is
        shuffled as it is read, from the start. It must give the same rows in the same order again and is refused where
        it does not; one that begins with other rows is another stream. `mismatch` is calibrated on its first 3,072
        rows, unless [`~DIQScorer.calibrate`] was called, and the ranks' reliability is that of at most 100,000 rows.

        Args:
            dataset ([`~datasets.Dataset`], [`~datasets.DatasetDict`] or [`~datasets.IterableDataset`]):
                Rows to score.
            chunk_size (`int`, *optional*, defaults to `512`):
                Rows in a chunk: what is lost at most, by each process, when a run is killed.
            cache_dir (`str` or `Path`, *optional*):
                Folder for the chunks, seen by every process; by default `diq_hf` in the cache of `datasets`. Or a
                Storage Bucket of the Hub, `"hf://buckets/me/long-job"`, by which another machine goes on: what is in
                it is brought here first, and what is finished is sent there every half a minute and at the end.
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*):
                The processes to share the work with; by default the launcher's.
            output_dir (`str` or `Path`, *optional*):
                New folder for a stream's rows and scores, seen by every process: shards of Parquet, which
                `load_dataset` and `diq select` read, and the recipe.

        Returns:
            The dataset with the new columns; of a stream a stream of what is in `output_dir`.
        """
        from .buckets import chunk_folder

        if is_address(cache_dir):
            with chunk_folder(cache_dir, self.engine.device, accelerator) as folder:
                return self.score(dataset, chunk_size, folder, accelerator, output_dir)
        if isinstance(dataset, IterableDataset):
            from .streams import score_to_folder

            return score_to_folder(self, dataset, output_dir, chunk_size, cache_dir, accelerator)
        if output_dir is not None:
            raise ValueError("`output_dir` is for streams. Score the dataset, then `save_to_disk` it.")
        if isinstance(dataset, DatasetDict):
            parts = {name: self.score(part, chunk_size, cache_dir, accelerator) for name, part in dataset.items()}
            return DatasetDict(parts)
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"A {type(dataset).__name__} has no chunks. Pass a `Dataset`, a `DatasetDict`, or one split of a "
                "dataset that is streamed."
            )
        check_difficulty(self, dataset)
        scored = self.score_part(dataset.with_format(None), chunk_size, cache_dir, accelerator)
        self.audit = self.selection = None
        count_unscored(np.array(scored["influence"][:], dtype=float))
        report(self.reliability)
        return scored

    def score_part(self, dataset: Dataset, chunk_size: int, cache_dir: str | Path | None, accelerator: Any) -> Dataset:
        """As [`~DIQScorer.score`], of rows that are not the whole."""
        from .chunks import score_in_chunks

        self.weights_digest(again=True)
        self._check_columns(dataset.column_names)
        if not len(dataset):
            raise ValueError("The dataset has no rows.")
        columns = score_in_chunks(self, self.readable(dataset), chunk_size, cache_dir, accelerator)
        return with_columns(dataset, columns)

    def select(
        self,
        dataset: Dataset,
        ratio: float | None = None,
        num_rows: int | None = None,
        max_scored: float | None = None,
        max_mismatch: float | str | None = "auto",
        seed: int = 0,
        chunk_size: int = 512,
        cache_dir: str | Path | None = None,
        accelerator: Any = None,
        *,
        num_tokens: int | None = None,
        per: str = "paper",
        balance: str | Mapping[str, Mapping[str, float]] | None = None,
        difficulty_percentile: float = 50,
        max_similarity: float | str | None = "auto",
        text_columns: Sequence[str] | None = None,
        order: str = "auto",
        return_pool: bool = False,
    ) -> tuple:
        """Chooses a subset without scoring every row, and says how much of the exact selection it found.

        By default rows are scored as they are drawn, until enough of them are difficult and influential: about five
        times as many as are chosen. With `order="influence"` the most influential ones are searched for: landmarks
        are scored; a predictor learns from them; the rows it thinks most likely to be chosen are scored, and so on.
        The choice is made from exact scores, by thresholds that are estimates for the whole pool. Rows that are there
        twice are scored and chosen once. Resumed and shared out like [`~DIQScorer.score`].

        Args:
            dataset ([`~datasets.Dataset`]):
                The pool.
            ratio (`float`, *optional*):
                Share of its rows to choose.
            num_rows (`int`, *optional*):
                Number of rows, instead of `ratio`.
            max_scored (`float`, *optional*):
                Share of the pool, copies counted, that may be scored. By default all of it by a draw, which stops by
                itself, and 0.45 by a search: more of a pool so small that a predictor would learn nothing (up to about
                450 rows; then all of it may be scored). Where the dataset has a difficulty, 0.2 will do for 5 %.
            max_mismatch (`float`, *optional*, defaults to `"auto"`):
                See [`select_subset`]: 0.2 with `extra_columns=["mismatch"]`.
            seed (`int`, *optional*, defaults to `0`):
                Of everything that is drawn.
            chunk_size (`int`, *optional*, defaults to `512`):
                As in [`~DIQScorer.score`], like the next two.
            cache_dir (`str` or `Path`, *optional*):
                See [`~DIQScorer.score`].
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*):
                See [`~DIQScorer.score`].
            num_tokens (`int`, *optional*):
                Number of trained tokens, instead of `ratio`. As in [`select_subset`], like all that follow.
            per (`str`, *optional*, defaults to `"paper"`):
                What a row is worth.
            balance (`str` or `dict`, *optional*):
                A fair share by a column.
            difficulty_percentile (`float`, *optional*, defaults to `50`):
                Above which a row is difficult.
            max_similarity (`float`, *optional*, defaults to `"auto"`):
                Of rows this similar the one that comes first is taken.
            text_columns (`Sequence[str]`, *optional*):
                Columns that make up a row's text.
            order (`str`, *optional*, defaults to `"auto"`):
                Who comes first inside a quadrant: `"random"` or `"influence"`. `"auto"` is `"random"`, and with
                `max_scored`, `balance` or `per="row"`, which ask for a search, `"influence"`.
            return_pool (`bool`, *optional*, defaults to `False`):
                Whether to return all rows as well.

        Returns:
            `tuple`: the subset, the first choice first, and the [`~diq_hf.scoring.audit.Audit`]. With `return_pool`
            the pool as well, with null scores for rows that were not scored: [`~diq_hf.push_subset`] takes it as
            `scored`, and the choice among the scored rows can be derived again.

        Raises:
            `ImportError`: A search needs scikit-learn, and it is not there.
            `ValueError`: There is no difficulty, the budget is beyond the rows that are both difficult and
                influential, or so few rows may be scored that nothing can be learned from them.

        Example:

        ```python
        subset, audit, pool = diq_score.select(ds, ratio=0.01, return_pool=True)
        print(audit)
        push_subset(subset, "me/medical-diq", scored=pool, recipe=diq_score.recipe())
        ```
        """
        if not isinstance(dataset, Dataset):
            raise TypeError(f"`select` takes a `Dataset`, not a {type(dataset).__name__}: pass one split of it.")
        from .buckets import chunk_folder
        from .selecting import select_audited

        if self.difficulty is None:
            raise ValueError(
                "`select` goes by difficulty and influence, and the scorer has `difficulty=None`. Name one."
            )
        if max_scored is not None and not 0 < max_scored <= 1:
            raise ValueError(f"`max_scored` must be in (0, 1], got {max_scored!r}.")
        if order == "alignment":
            raise ValueError(
                "`order='alignment'` needs the scores of the whole pool: `diq_score.score(ds)`, then `select_subset`. "
                "Without them use `order='random'`."
            )
        if order == "auto":
            order = "random" if max_scored is None and not balance and per != "row" else "influence"
        settings = settings_for(
            dataset,
            has_mismatch=self.tests_mismatch,
            ratio=ratio,
            num_rows=num_rows,
            num_tokens=num_tokens,
            per=per,
            seed=seed,
            difficulty_percentile=difficulty_percentile,
            max_mismatch=max_mismatch,
            max_similarity=max_similarity,
            text_columns=text_columns,
            balance=balance,
            order=order,
        )
        self.audit = self.selection = None
        check_difficulty(self, dataset)
        with chunk_folder(cache_dir, self.engine.device, accelerator) as folder:
            subset, pool, self.selection, self.audit = select_audited(
                self, dataset.with_format(None), settings, max_scored, chunk_size, folder, accelerator
            )
        return (subset, self.audit, pool) if return_pool else (subset, self.audit)

    def readable(self, dataset: Dataset) -> Dataset:
        """A dataset in which ClassLabel columns hold what scores depend on: the numbers of a difficulty, and the names
        of classes where a template reads them."""
        numbers = self.difficulty.columns if self.difficulty else ()
        return labels_as_names(labels_as_numbers(dataset, numbers), self.encoder.of_template)

    def share_null(self, dataset: Dataset, cache_dir: str | Path | None = None, accelerator: Any = None) -> None:
        """Calibrates `mismatch` on a dataset as [`~DIQScorer.score`] does, for scoring parts of it."""
        from .chunks import null_of

        if self.calibration is None:
            self.calibration = null_of(self, self.readable(dataset), cache_dir, accelerator)
