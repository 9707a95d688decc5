"""The package as it is installed: built, unpacked elsewhere, and used from there."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SOURCES = ("diq_hf", "hub_cards", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def setuptools_is_new_enough() -> bool:
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not setuptools_is_new_enough(), reason="building a wheel offline needs setuptools 77 or newer in this environment"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what the wheel holds, and nothing else."""
    source, wheels, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in SOURCES:  # a copy, for a build leaves its own folders behind
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", build, wheels], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(installed: Path, code: str, *arguments: str) -> str:
    """Runs code with the unpacked wheel and the environment's packages alone."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *packages]), "COLUMNS": "200"}
    # Without `site`, which would follow the link of an editable installation back to the sources.
    command = [sys.executable, "-S", "-c", code, *arguments]
    result = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_nothing_is_left_out(installed):
    """`setup.cfg` names the packages by hand; a wing that it forgets would be missing."""
    wanted = {path.relative_to(ROOT) for path in (ROOT / "diq_hf").rglob("*") if path.suffix in (".py", ".jinja")}
    wanted |= {Path("diq_hf", path.relative_to(ROOT)) for path in (ROOT / "hub_cards").glob("*.jinja")}
    found = {path.relative_to(installed) for path in (installed / "diq_hf").rglob("*")}
    assert not wanted - found and len(wanted) > 50
    assert not [path for path in found if path.name.startswith(("test_", "example_"))]


def test_command(installed):
    code = """
import sys
from importlib.metadata import entry_points
import diq_hf
assert diq_hf.__file__.startswith(sys.argv[1]), diq_hf.__file__
(command,) = entry_points(group="console_scripts", name="diq")
sys.argv = ["diq", "--help"]
command.load()()
"""
    shown = run(installed, code, str(installed))
    for command in ("score", "select", "annotate", "train-difficulty", "push", "verify", "report"):
        assert f" {command} " in shown


def test_card(installed):
    """The template is found and makes of the example's recipe the example."""
    code = """
import json, sys
from huggingface_hub import DatasetCardData
import diq_hf
assert diq_hf.__file__.startswith(sys.argv[2]), diq_hf.__file__
from diq_hf.publishing.subset_card import FIGURES, TAGS, render_card
from diq_hf.recipe import Recipe
configs = [{"config_name": name, "data_files": []} for name in ("diq_10pct", "diq_10pct_scores")]
card = render_card("me/x", "diq_10pct", Recipe.load(sys.argv[1]), DatasetCardData(configs=configs), list(FIGURES))
from importlib.resources import files
templates = {
    name: len((files(room) / name).read_text(encoding="utf-8"))
    for room, name in (
        ("diq_hf.hub_cards", "difficulty_classifier.md.jinja"),
        ("diq_hf.comparison", "templates/comparison.html.jinja"),
        ("diq_hf.reporting", "templates/page.html.jinja"),
        ("diq_hf.reporting", "templates/report.html.jinja"),
    )
}
print(json.dumps([card.text, templates]))
"""
    text, templates = json.loads(run(installed, code, str(ROOT / "hub_cards" / "example_recipe.json"), str(installed)))
    example = (ROOT / "hub_cards" / "example_subset_card.md").read_text(encoding="utf-8")
    begins, ends = "<!-- diq:diq_10pct -->", "<!-- /diq:diq_10pct -->"
    section = example[example.index(begins) : example.index(ends)].replace("me/clinical-diq", "me/x")
    assert section in text
    assert all(size > 500 for size in templates.values())
