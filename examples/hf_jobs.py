# /// script
# requires-python = ">=3.11"
# dependencies = ["diq-hf"]
#
# [tool.hf-jobs]
# flavor = "a10g-small"
# timeout = "4h"
# secrets = ["HF_TOKEN"]
# labels = { task = "data-selection" }
# ///
"""Scores a dataset of the Hub on Hugging Face Jobs, picks its best rows and publishes them with their proof.

    hf jobs uv run examples/hf_jobs.py FreedomIntelligence/medical-o1-reasoning-SFT me/medical-o1-diq \\
        --name en --columns medical-o1 --model Qwen/Qwen2.5-1.5B-Instruct --validation me/medical-validation

The head of this file says which machine, for how long and with which token; options of `hf jobs uv run` win over it.
Until `diq-hf` is on PyPI, put the address of a wheel or `diq-hf @ git+https://…` in the place of its name.
"""

import argparse
import shlex
import sys
import tempfile
from pathlib import Path


def commands(options: argparse.Namespace, folder: Path) -> list[list[str]]:
    """The commands of `diq`, one after the other."""
    scored, subset = str(folder / "scored"), str(folder / "subset")
    given = {"--name": options.name, "--columns": options.columns, "--split": options.split}
    reading = [word for option, value in given.items() if value for word in (option, value)]
    return [
        [
            *("score", options.dataset, "--model", options.model, "--validation", options.validation),
            *("--output", scored, "--max-length", str(options.max_length), "--on-bad-row", "skip", *reading),
        ],
        ["select", scored, "--ratio", str(options.ratio), "--output", subset],
        ["push", subset, options.repo_id, "--scored", scored, "--source-datasets", options.dataset],
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="Hub id of the pool")
    parser.add_argument("repo_id", help="dataset repository for the subset; made if it is not there")
    parser.add_argument("--model", required=True, help="the model that will be trained")
    parser.add_argument("--validation", required=True, help="Hub id of the validation rows, of `diq validation` say")
    parser.add_argument("--name", help="configuration of the pool")
    parser.add_argument("--split", help="its split; 'train' by default")
    parser.add_argument("--columns", help="what its columns are: alpaca, medical-o1, …; see `diq score --help`")
    parser.add_argument("--ratio", type=float, default=0.01, help="share of the rows to publish")
    parser.add_argument("--max-length", type=int, default=4096, help="tokens that are read of a row")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run none")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for words in commands(options, Path(folder)):
            print(f"diq {shlex.join(words)}", flush=True)
            if not options.dry_run:
                from diq_hf.cli.__main__ import app

                app(words, standalone_mode=False)


if __name__ == "__main__":
    sys.exit(main())
