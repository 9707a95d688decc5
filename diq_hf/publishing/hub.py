"""Subsets on the Hub: published with what proves them, pulled with their digests checked, verified from their scores.

A push is one commit. Data, card, pictures and recipe become visible together or not at all, by the Hub's own doing:
what a killed push has uploaded belongs to no commit, and is found again by the next.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from datasets import Dataset
from datasets.utils.logging import get_logger
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from .. import __version__
from ..names import full_repo_id, is_repo_id, refuse_public
from ..recipe import Recipe, SelectionFacts
from ..selection.proof import WHOLE, derive_selection, describe_subset, differences, possible_settings, scores_alone
from .checks import Verification, changes, check_subset
from .commits import commit_on_top, make_ready, saying_what_to_do
from .contents import CONTENT, RANK, add_contents, batches, content_columns, different_contents, digests
from .privacy import refuse_private
from .publication import Publication
from .repository import Repository, check_size
from .subset_card import TAGS, size_category


logger = get_logger(__name__)


def push_subset(
    subset: Dataset,
    repo_id: str,
    config_name: str | None = None,
    *,
    scored: Dataset | None = None,
    recipe: Recipe | Mapping | None = None,
    source_datasets: str | list[str] | None = None,
    license: str | list[str] | None = None,
    language: str | list[str] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> CommitInfo:
    """Publishes a subset as one configuration of a dataset repository, with a card that states how it was made.

    Data, card, pictures and recipe go up in one commit: a push that fails or is killed changes nothing and is simply
    run again. Of a card that is there already, the text outside of this configuration's section, the YAML keys and
    the other configurations stay.

    Args:
        subset ([`~datasets.Dataset`]):
            What [`select_subset`] returns; with `config_name="scored"` the whole scored pool.
        repo_id (`str`):
            Dataset repository, `"name"` or `"namespace/name"`; made if it is not there.
        config_name (`str`, *optional*):
            Name of the configuration; by default after strategy and budget, such as `"diq_1pct"` or `"diq_500"`.
        scored ([`~datasets.Dataset`], *optional*):
            The whole pool the subset was selected from. Its scores are published beside the subset as configuration
            `<config_name>_scores`, from which anyone can derive the selection again. It holds no text, but of each
            row a digest of its content, by which whoever has a row can tell that it was in the pool.
        recipe ([`~diq_hf.recipe.Recipe`] or `dict`, *optional*):
            What [`DIQScorer.recipe`] returned, or the same as a `dict`, as `diq_recipe.json` holds it. Its
            `selection`, as `diq select` writes it, says how the rows were selected. By default they are the first rows
            by DIQ at the paper's thresholds, in the paper's order or in that of [`select_subset`].
        source_datasets (`str` or `list[str]`, *optional*):
            Hub ids of the datasets the rows are from; by default the recipe's.
        license (`str` or `list[str]`, *optional*):
            License of the rows; by default that of the source datasets' cards.
        language (`str` or `list[str]`, *optional*):
            Language of the rows; by default that of the source datasets' cards.
        private (`bool`, *optional*):
            As in [`~datasets.Dataset.push_to_hub`], like the next four.
        token (`str` or `bool`, *optional*):
            See [`~datasets.Dataset.push_to_hub`].
        revision (`str`, *optional*):
            See [`~datasets.Dataset.push_to_hub`].
        create_pr (`bool`, *optional*, defaults to `False`):
            See [`~datasets.Dataset.push_to_hub`].
        commit_message (`str`, *optional*):
            See [`~datasets.Dataset.push_to_hub`].

    Returns:
        [`~huggingface_hub.CommitInfo`]: The commit, or pull request.

    Raises:
        `ValueError`: The subset does not follow from `scored`, the recipe lacks a key or holds a local path or the
            token, or the repository has something that the push would hide or replace.
        [`~huggingface_hub.errors.HfHubHTTPError`]: The Hub refused, and nothing was published.

    Example:

    ```python
    scored = diq_score.score(ds)
    subset = select_subset(scored, ratio=0.01)
    push_subset(subset, "me/medical-diq", "diq_1pct", scored=scored, recipe=diq_score.recipe())
    ```
    """
    api = _api(token)
    with saying_what_to_do(repo_id):
        repo_id = full_repo_id(api, repo_id)
        refuse_public(api, repo_id, private)
    if recipe is None:
        logger.warning("No `recipe` is given, so the card cannot say how the scores were made.")
    recipe = Recipe.from_json({} if recipe is None else recipe)
    subset, pool, scores, selection = _checked(subset, scored, recipe.selection, config_name == WHOLE)
    recipe = replace(recipe, selection=selection)
    config_name = _config_name(selection) if config_name is None else config_name
    taken = config_name in ("data", "README.md") or config_name.endswith("_scores")
    if not re.fullmatch(r"\w[\w.-]*", config_name) or taken:
        raise ValueError(
            f"`config_name` is {config_name!r}. Use letters, digits, '_', and after the first of them '.' and '-'; "
            "'data', 'README.md' and names that end in '_scores' are taken."
        )
    refuse_private(recipe.to_json(), token if isinstance(token, str) else None)
    metadata = _metadata(repo_id, recipe, len(subset), source_datasets, license, language, token)
    with tempfile.TemporaryDirectory(prefix="diq_hf_") as folder:
        publication = Publication(Path(folder), config_name, subset, pool, scores, recipe)

        def prepare() -> tuple[str, list[CommitOperationAdd | CommitOperationDelete]]:
            present = Repository(api, repo_id, revision)
            readme = publication.readme(repo_id, present.readme, present.files, metadata)
            return present.sha, [
                CommitOperationAdd("README.md", readme.encode()),
                *(CommitOperationAdd(path, file) for path, file in publication.paths.items()),
                *(CommitOperationDelete(path) for path in publication.outdated(present.files)),
            ]

        with saying_what_to_do(repo_id):
            make_ready(api, repo_id, private)
            if revision is not None and not revision.startswith("refs/") and not create_pr:
                api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
            message = commit_message or f"{config_name}: {len(subset)} rows, their card and recipe"
            place = {"repo_type": "dataset", "revision": revision, "create_pr": create_pr}
            return commit_on_top(api, repo_id, prepare, message, **place)


def load_subset(
    repo_id: str, config_name: str | None = None, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[Dataset, Recipe]:
    """Pulls a published subset and checks every file against the digests of its recipe.

    `load_dataset(repo_id, config_name, split="train")` loads the same rows unchecked.

    Args:
        repo_id (`str`):
            Dataset repository.
        config_name (`str`, *optional*):
            Configuration; may be left out if there is one.
        revision (`str`, *optional*):
            As in [`~datasets.load_dataset`], like the next.
        token (`str` or `bool`, *optional*):
            See [`~datasets.load_dataset`].

    Returns:
        The rows, and the recipe they were published with.

    Raises:
        `ValueError`: There is no such subset, or it is not what was published.

    Example:

    ```python
    subset, recipe = load_subset("me/medical-diq", "diq_1pct")
    trainer = SFTTrainer(recipe.model.name, train_dataset=subset)
    ```
    """
    repository = Repository(_api(token), repo_id, revision)
    if config_name is None:
        if len(repository.subsets) != 1:
            raise ValueError(f"{repo_id} has the subsets {repository.subsets}. Pass one as `config_name`.")
        config_name = repository.subsets[0]
    recipe = repository.recipe(config_name)
    if problems := changes(repository, config_name, recipe):
        raise ValueError(f"{repo_id}, {config_name}: {'; '.join(problems)}.")
    # The very files that were checked: what the README says, or is made to say, plays no part.
    files = repository.data_files(config_name, recipe, "train")
    check_size(files, recipe.selection.subset.rows if recipe.selection.subset else 0)
    return Dataset.from_parquet([str(file) for file in files], split="train"), recipe


def verify_subset(
    repo_id: str, config_name: str | None = None, *, revision: str | None = None, token: str | bool | None = None
) -> dict[str, Verification]:
    """Derives a published selection again, from the published scores alone, and compares it with all that is stated.

    Files are held against their digests; thresholds, quadrants, ranks, counts and the chosen rows against what the
    scores give; the content of each row against the digest that stands beside its scores; the README's head against
    the files, and the card's tables against these numbers. Whatever is wrong with a subset is a line, and raises
    nothing.

    Args:
        repo_id (`str`):
            Dataset repository.
        config_name (`str`, *optional*):
            Configuration; by default every published subset.
        revision (`str`, *optional*):
            As in [`~datasets.load_dataset`], like the next.
        token (`str` or `bool`, *optional*):
            See [`~datasets.load_dataset`].

    Returns:
        `dict[str, Verification]`: By configuration, what was found.

    Raises:
        `ValueError`: The repository has no such subset.

    Example:

    ```python
    assert not verify_subset("me/medical-diq")["diq_1pct"].problems
    ```
    """
    repository = Repository(_api(token), repo_id, revision)
    if not repository.subsets:
        raise ValueError(f"{repo_id} has no subset that was published by `push_subset`.")
    names = repository.subsets if config_name is None else [config_name]
    if config_name is not None and config_name not in repository.subsets:
        raise ValueError(f"{repo_id} has no subset {config_name!r} that was published; it has {repository.subsets}.")
    return {name: check_subset(repository, name) for name in names}


def _api(token: str | bool | None) -> HfApi:
    return HfApi(token=token, library_name="diq_hf", library_version=__version__)


def _checked(
    subset: Dataset, scored: Dataset | None, recorded: SelectionFacts | None, whole: bool
) -> tuple[Dataset, Dataset | None, Dataset | None, SelectionFacts]:
    """The rows to publish, their pool, its scores and the selection, which follow from each other."""
    if whole:
        settings = replace(recorded or SelectionFacts(), strategy=None, ratio=None, num_rows=None)
        pool, subset, selection = derive_selection(subset, settings)
        return subset, pool, None, selection
    described = describe_subset(subset, recorded)
    pool = scores = None
    if scored is None:
        selection = described
        problems = differences(described, None, subset)
    for settings in possible_settings(scored, described) if scored is not None else ():
        pool, _, selection = derive_selection(scored, settings)
        scores = scores_alone(pool, selection)
        stated = _stated(replace(recorded or SelectionFacts(), **_passed_over(settings)), selection)
        problems = differences(stated, scores.remove_columns("row"), subset)
        if not problems:
            break
    if scores is not None and not problems:
        scores = add_contents(scores, pool, subset)
        if CONTENT in scores.column_names:
            columns = content_columns(subset.column_names, scores.column_names)
            problems = different_contents(scores, subset[RANK][:], digests(batches(subset, columns)))
    if problems:
        raise ValueError(
            f"The subset does not follow from its scores: {'; '.join(problems)}. Pass the pool it was selected from "
            "as `scored`, and the settings it was selected with as the recipe's `selection`, such as "
            "`{'ratio': 0.1, 'order': 'random', 'seed': 3}`."
        )
    return subset, pool, scores, selection


def _stated(recorded: SelectionFacts, derived: SelectionFacts) -> SelectionFacts:
    """The facts that were recorded, and for the others what the scores give."""
    known = {fact.name: getattr(recorded, fact.name) for fact in fields(recorded)}
    return replace(derived, **{name: fact for name, fact in known.items() if fact is not None})


def _passed_over(settings: SelectionFacts) -> dict:
    return {"max_mismatch": settings.max_mismatch, "max_similarity": settings.max_similarity}


def _config_name(selection: SelectionFacts) -> str:
    budget = f"{100 * selection.ratio:g}pct" if selection.ratio else str(selection.subset.rows)
    budget = f"{selection.num_tokens}tok" if selection.num_tokens else budget
    return f"{selection.strategy.replace(':', '_')}_{budget}"


def _metadata(
    repo_id: str,
    recipe: Recipe,
    num_rows: int,
    sources: str | list[str] | None,
    license: str | list[str] | None,
    language: str | list[str] | None,
    token: str | bool | None,
) -> dict:
    """The YAML head, but for the configurations. License and language are inherited from the source datasets."""
    sources = [sources] if isinstance(sources, str) else list(sources or [])
    if not sources and recipe.pool and recipe.pool.on_hub and is_repo_id(recipe.pool.name or ""):
        sources = [recipe.pool.name]
    for source in sources:
        try:
            card = DatasetCard.load(source, token=token).data
        except (EntryNotFoundError, RepositoryNotFoundError):  # no card, or not one that this token may read
            continue
        license, language = license or card.license, language or card.language
    if not license:
        logger.warning(
            "The license of the rows is unknown, so the card has none. Pass `license`, or `source_datasets` whose "
            "cards name one."
        )
    return {
        "pretty_name": f"{repo_id.split('/')[-1]}: rows picked by difficulty and influence",
        "annotations_creators": ["machine-generated"],
        "task_categories": ["text-generation"],
        "language": [language] if isinstance(language, str) else language,
        "license": license,
        "size_categories": [size_category(num_rows)],
        "source_datasets": sources or None,
        "base_model": _base_model(recipe),
        "tags": TAGS,
    }


def _base_model(recipe: Recipe) -> list[str] | None:
    model = recipe.model
    return [model.name] if model and model.on_hub and model.name and is_repo_id(model.name) else None
