"""A model's tokenizer by the model's name."""

import json
from pathlib import Path
from typing import Any


def load_tokenizer(model: str, revision: str | None = None, chat_template: Path | None = None) -> Any:
    """The tokenizer of a model or an adapter, with a chat template from a file."""
    from transformers import AutoTokenizer
    from transformers.utils import find_adapter_config_file

    template = None if chat_template is None else chat_template.read_text(encoding="utf-8")
    adapter = find_adapter_config_file(model, revision=revision)
    if adapter is not None and not (Path(adapter).parent / "tokenizer_config.json").is_file():
        # An adapter saved without a tokenizer has its base model's.
        model, revision = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"], None
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer
