"""Names of models, datasets, files and repositories as others may read them, and whether everyone may."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


# How rows were scored and selected: in a folder of `diq score` or `diq select`, and in a published configuration.
RECIPE = "diq_recipe.json"


def public_name(name: str | Path | None) -> dict[str, Any]:
    """A Hub id as it is; of a local path, or an address, the last part only, for the rest is private.

    Example:

    ```python
    >>> public_name("HuggingFaceTB/SmolLM2-135M-Instruct")
    {'name': 'HuggingFaceTB/SmolLM2-135M-Instruct', 'on_hub': True}
    >>> public_name("/home/me/models/tuned")
    {'name': 'tuned', 'on_hub': False}
    >>> public_name("https://example.com/private/pool.jsonl?key=secret")
    {'name': 'pool.jsonl', 'on_hub': False}

    ```
    """
    if not name:
        return {"name": None, "on_hub": False}
    on_hub = is_repo_id(str(name)) and not Path(name).exists()
    if on_hub:
        return {"name": str(name), "on_hub": True}
    if "://" in str(name):  # what follows a question mark may be a key
        name = str(name).split("?")[0].split("#")[0]
    return {"name": Path(name).resolve().name, "on_hub": False}


def is_repo_id(name: str) -> bool:
    """Whether a repository on the Hub may be called so."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def full_repo_id(api: Any, repo_id: str) -> str:
    """A repository by its whole name: a bare one is in the user's own namespace, which alone its making knows."""
    return repo_id if "/" in repo_id else api.get_full_repo_name(repo_id)


def refuse_public(api: Any, repo_id: str, private: bool | None, repo_type: str = "dataset") -> None:
    """Looks at a repository that is to be private, before anything is made for it.

    Args:
        api (`HfApi`):
            The client.
        repo_id (`str`):
            The repository; it need not be there.
        private (`bool`, *optional*):
            Whether it is to be private.
        repo_type (`str`, *optional*, defaults to `"dataset"`):
            As in `HfApi`.

    Raises:
        `ValueError`: It is there, and everyone may read it.
    """
    if not private or not api.repo_exists(repo_id := full_repo_id(api, repo_id), repo_type=repo_type):
        return
    if not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(f"{repo_id} is there and public. Make it private in its settings, or leave `private` out.")
