"""Everything that is said of a published configuration, held against everything else: what is wrong becomes a line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from huggingface_hub.errors import HfHubHTTPError

from ..recipe import AuditFacts, Recipe
from ..selection.proof import WHOLE, differences
from ..selection.scores import score_columns
from .contents import CONTENT, RANK, batches_of_files, content_columns, different_contents, digests
from .repository import Repository
from .subset_card import different_numbers


class Verification(NamedTuple):
    """What [`verify_subset`] found in one configuration.

    Args:
        problems (`list[str]`):
            One sentence for each thing that is not as stated.
        proven (`bool`):
            Whether the scores of the whole pool are published, so that the selection itself was derived again.
        contents (`bool`):
            Whether digests of the rows' contents stand beside the scores, so that not only the scores of the rows but
            the rows follow from what is published.
        audit ([`~diq_hf.recipe.AuditFacts`], *optional*):
            Where not every row was scored and those that were not could not be chosen: how much of the exact
            selection was found, as the publisher states.
    """

    problems: list[str]
    proven: bool
    contents: bool
    audit: AuditFacts | None = None


def check_subset(repository: Repository, name: str) -> Verification:
    """Checks a configuration that is there."""
    check = _Checks()
    recipe = check("the recipe", repository.recipe, name)
    if recipe is None:
        return Verification(check.problems, False, False)
    check.problems += changes(repository, name, recipe)
    with_scores = "scores" in repository.stems(name, recipe)
    check.all("the card", lambda: different_numbers(repository.readme or "", name, recipe))

    facts = recipe.selection
    subset = scores = None
    if facts.subset is None:
        check.problems.append("the recipe does not say how many rows were selected")
    else:
        subset = check("the subset", _scores, repository, name, recipe, "train", facts.subset.rows)
    if name == WHOLE:
        scores = subset
    elif with_scores and facts.pool is None:
        check.problems.append("the recipe does not say how many rows the pool has")
    elif with_scores:
        scores = check("the pool's scores", _scores, repository, name, recipe, "scores", facts.pool.rows)
    if subset is None or (with_scores and scores is None):
        return Verification(check.problems, False, False)

    contents = name == WHOLE or (scores is not None and CONTENT in scores.column_names)
    others = ("row", CONTENT)
    bare = scores and scores.remove_columns([column for column in others if column in scores.column_names])
    check.all("the selection", differences, facts, bare, subset)
    if name != WHOLE and scores is not None:
        check.all("the pool's scores", _moved_rows, scores)
        check.all("the audit", _other_audit, scores, recipe)
        if contents:
            check.all("the rows' contents", _contents, repository, name, recipe, scores, subset)
    audit = recipe.audit if facts.thresholds else None
    return Verification(check.problems, scores is not None, contents, audit)


def changes(repository: Repository, name: str, recipe: Recipe) -> list[str]:
    """Where files, or what the README makes of them, are not as published."""
    check = _Checks()
    check.all("files", repository.changed_files, name, recipe)
    check.all("README.md", repository.changed_head, name, recipe)
    return check.problems


class _Checks:
    """Problems so far. A step that fails is one of them, and the others go on."""

    def __init__(self):
        self.problems: list[str] = []

    def __call__(self, what: str, step: Callable, *arguments: Any) -> Any:
        """What a step gives, or `None`."""
        try:
            return step(*arguments)
        except HfHubHTTPError:  # the network's fault, not the publication's
            raise
        except (
            ValueError,  # and `pa.ArrowInvalid`
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            OSError,  # what Parquet says of a torn file
            pa.ArrowException,
        ) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.problems.append(f"{what} cannot be checked: {reason:.300}")
            return None

    def all(self, what: str, step: Callable, *arguments: Any) -> None:
        """Adds the problems that a step finds."""
        self.problems += self(what, step, *arguments) or []


def _scores(repository: Repository, name: str, recipe: Recipe, stem: str, rows: int) -> Dataset:
    files = repository.data_files(name, recipe, stem)
    if not files:
        raise ValueError("its files are missing")
    return repository.scores(files, rows, recipe.selection)


def _moved_rows(scores: Dataset) -> list[str]:
    if "row" in scores.column_names and scores["row"][:] != list(range(len(scores))):
        return ["the pool's scores: `row` is not 0, 1, 2, …"]
    return []


def _other_audit(scores: Dataset, recipe: Recipe) -> list[str]:
    """Where the audit, or its absence, is not about these scores."""
    audit, thresholds = recipe.audit, recipe.selection.thresholds
    if audit is None:
        return ["thresholds are stated as estimates, without an audit"] if thresholds else []
    scored = int(np.isfinite(score_columns(scores, ["influence"])["influence"]).sum())
    if (audit.pool, audit.scored) == (len(scores), scored):
        return []
    return [f"the audit is of {audit.scored} of {audit.pool} rows; the pool has scores of {scored} of {len(scores)}"]


def _contents(repository: Repository, name: str, recipe: Recipe, scores: Dataset, subset: Dataset) -> list[str]:
    files = repository.data_files(name, recipe, "train")
    columns = content_columns(repository.columns(files), scores.column_names)
    return different_contents(scores, subset[RANK][:], digests(batches_of_files(files, columns)))
