"""A comparison beside the subset that it is about: files in a dataset repository."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from ..files import read_json
from ..names import full_repo_id, is_repo_id, refuse_public
from ..publishing.commits import make_ready, saying_what_to_do
from .results import Comparison


FILES = ("index.html", "comparison.json", "table.md")


def push_comparison(folder: str | Path, repo_id: str, token: str | None = None, *, private: bool | None = None) -> str:
    """Puts a comparison's page, table and numbers into a dataset repository, in one commit.

    Args:
        folder (`str` or `Path`):
            What [`compare`] wrote.
        repo_id (`str`):
            The repository, `"name"` or `"namespace/name"`, of a subset that [`push_subset`] published as a rule; it is
            made if there is none.
        token (`str`, *optional*):
            Access token, by default that of `hf auth login`.
        private (`bool`, *optional*):
            Whether a new repository is private; by default as the namespace has it.

    Returns:
        `str`: Address of the folder there, `comparison/<digest>`. Nothing else in the repository is touched.

    Raises:
        `FileNotFoundError`: The folder holds no finished comparison.
        `ValueError`: The repository was to be private, and is there and public.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} has no {missing[0]}: let `compare` finish there first.")
    comparison = Comparison.from_json(read_json(folder / "comparison.json"), str(folder / "comparison.json"))
    repo_id = check_repository(repo_id, token, private=private)
    api, place = HfApi(token=token), f"comparison/{comparison.digest[:8]}"
    with saying_what_to_do(repo_id):
        make_ready(api, repo_id, private)
        api.create_commit(
            repo_id,
            [CommitOperationAdd(f"{place}/{name}", str(folder / name)) for name in FILES],
            repo_type="dataset",
            commit_message="Add a comparison of selections",
        )
    return f"{api.endpoint}/datasets/{repo_id}/tree/main/{place}"


def check_repository(repo_id: str, token: str | None = None, *, private: bool | None = None) -> str:
    """Looks whether a comparison can go there, before it is made, and gives the repository's whole name.

    Raises:
        `ValueError`: No repository can be called so, or it was to be private, and is there and public.
    """
    if not is_repo_id(repo_id):
        raise ValueError(f"{repo_id!r} can be no repository on the Hub. Name it as in 'me/medical-diq'.")
    api = HfApi(token=token)
    with saying_what_to_do(repo_id):
        repo_id = full_repo_id(api, repo_id)
        refuse_public(api, repo_id, private)
    return repo_id
