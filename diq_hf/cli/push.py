"""`diq push`: a subset in, a configuration of a dataset repository out."""

from typing import Annotated

import typer

from .inputs import load_rows
from .options import HubToken, Private, token_of
from .outputs import load_recipe


def push(
    subset: Annotated[str, typer.Argument(help="A subset, as `diq select` writes it.")],
    repo_id: Annotated[str, typer.Argument(help="Dataset repository; made if it is not there.")],
    config_name: Annotated[
        str | None, typer.Option(help="Name of the configuration; 'scored' for the whole pool.")
    ] = None,
    scored: Annotated[
        str | None, typer.Option(help="The scored pool, to publish its scores (no texts) as the subset's proof.")
    ] = None,
    source_datasets: Annotated[
        list[str] | None, typer.Option(help="Hub id of a dataset the rows are from (repeatable).")
    ] = None,
    license: Annotated[str | None, typer.Option(help="License of the rows, if the source's card names none.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language of the rows (repeatable).")] = None,
    private: Private = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    token_env: HubToken = None,
) -> None:
    """Publish a subset on the Hub with a card and what proves it: all in one commit, or nothing."""
    token = token_of(token_env)
    from ..publishing.hub import push_subset

    commit = push_subset(
        load_rows(subset),
        repo_id,
        config_name,
        scored=None if scored is None else load_rows(scored),
        recipe=load_recipe(subset),
        source_datasets=source_datasets,
        license=license,
        language=language,
        private=private or None,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )
    typer.echo(commit.pr_url or commit.commit_url)
