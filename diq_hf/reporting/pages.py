"""Pages from templates: one HTML file each, which needs no other."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import replacing


def write(path: str | Path, template: str, facts: Mapping[str, Any], package: str = "diq_hf.reporting") -> Path:
    """Writes a page; one that is there is replaced.

    Args:
        path (`str` or `Path`):
            Where the page goes.
        template (`str`):
            Name of the template, which extends `page.html.jinja`.
        facts (`dict`):
            What it is filled with: text that is not marked as safe is shown as text.
        package (`str`, *optional*, defaults to `"diq_hf.reporting"`):
            The package in whose `templates` it lies.

    Returns:
        `Path`: `path`.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    packages = dict.fromkeys((package, "diq_hf.reporting"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=True,  # rows are strangers' text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    environment.filters |= {
        "number": lambda value: "–" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}",
        "integrity": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    page = environment.get_template(template).render(facts)
    with replacing(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Path(path)
