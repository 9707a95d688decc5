"""Commits on top of whatever others have committed meanwhile."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from datasets.utils.logging import get_logger
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..names import refuse_public


logger = get_logger(__name__)

# A commit that another one overtook (409, 412) is made again on top of that one, so many times in all, and at first
# after so many seconds. `huggingface_hub` leaves this to its callers.
ATTEMPTS, WAIT = 5, 0.5
Operations = Iterable[CommitOperationAdd | CommitOperationDelete]


def commit_on_top(
    api: HfApi, repo_id: str, prepare: Callable[[], tuple[str, Operations]], message: str, **options: Any
) -> CommitInfo:
    """Commits to a repository.

    Args:
        api (`HfApi`):
            The client.
        repo_id (`str`):
            The repository.
        prepare (`Callable`):
            Looks at what is there and gives the commit that it saw with what is to be changed; called again where
            another commit came first.
        message (`str`):
            The commit's message.
        options:
            Further arguments of `create_commit`.

    Raises:
        [`~huggingface_hub.errors.HfHubHTTPError`]: The Hub refused, and nothing was changed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        parent, operations = prepare()
        try:
            return api.create_commit(repo_id, operations, commit_message=message, parent_commit=parent, **options)
        except HfHubHTTPError as error:
            if error.response.status_code not in (409, 412) or attempt == ATTEMPTS:
                raise
            logger.info(f"Another commit came first ({error.response.status_code}); trying again.")
            time.sleep(WAIT * 2 ** (attempt - 1))


def make_ready(api: HfApi, repo_id: str, private: bool | None, repo_type: str = "dataset", **options: Any) -> None:
    """The repository, if it is not there.

    Raises:
        `ValueError`: It is there, and not as private as it was to be.
    """
    refuse_public(api, repo_id, private, repo_type)
    if not api.repo_exists(repo_id, repo_type=repo_type):
        api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **options)


@contextmanager
def saying_what_to_do(repo_id: str, done: str = "Nothing was published.") -> Iterator[None]:
    """Errors of the Hub that ask for another token also say so, and what was done before."""
    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            remedy = f"Log in with `hf auth login`, or pass a `token` that may write to {repo_id}."
            error.append_to_message(f"\n{done} {remedy}")
        raise
