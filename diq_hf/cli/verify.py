"""`diq verify`: a published subset in, what is not as stated out."""

from typing import Annotated

import typer

from .options import HubToken, token_of


def verify(
    repo_id: Annotated[str, typer.Argument(help="Dataset repository.")],
    config_name: Annotated[str | None, typer.Option(help="Configuration; by default every published subset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    token_env: HubToken = None,
) -> None:
    """Derive a published selection again from its scores and compare; exit code 1 if anything is not as stated."""
    token = token_of(token_env)
    from ..publishing.hub import verify_subset

    found = verify_subset(repo_id, config_name, revision=revision, token=token)
    for name, (problems, proven, contents, audit) in found.items():
        for problem in problems:
            typer.echo(f"{name}: {problem}")
        if not problems and proven:
            rows = "rows" if contents else "scores of the rows"  # the first publications had no digests of contents
            what = "quadrants" if audit else "thresholds, quadrants"
            typer.echo(f"{name}: {what}, ranks and {rows} follow from the published scores")
            if audit:
                typer.echo(
                    f"{name}: only {audit.scored} of {audit.pool} rows were scored, and the others could not be "
                    f"chosen. The thresholds are estimates, and about {audit.found:.0%} of the exact selection was "
                    f"found (95 % confidence: {audit.low:.0%} to {audit.high:.0%}), as the publisher states"
                )
        elif not problems:
            typer.echo(f"{name}: files are as published; the pool's scores are not, so the selection is not proven")
    if any(result.problems for result in found.values()):
        raise typer.Exit(1)
