"""What the host libraries refuse by themselves: nothing of ours, so a test that needs it says so and is skipped."""

import importlib.metadata
import re
from contextlib import contextmanager

import pytest


@contextmanager
def refused_by_host(name: str, complaint: str):
    """Skips the test if the block raises what `complaint` matches: a library that finds another one too old."""
    try:
        yield
    except (ImportError, ValueError) as error:
        if re.search(complaint, str(error), flags=re.IGNORECASE):
            pytest.skip(f"{name} {importlib.metadata.version(name)} refuses by itself: {error}")
        raise
