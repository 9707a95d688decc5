"""Run by test_hub.py in a process of its own, in which a Hub of our own stands in for the real one.

The clients read `HF_ENDPOINT` when they are imported, so it is set beforehand and names a free port; all cases share
this process. Prints, as JSON, each case's traceback, or null.
"""

import json
import sys
import traceback
from pathlib import Path
from unittest import SkipTest

import hub_commands
import hub_faults
import hub_jobs
import hub_privacy
import hub_pushes
import hub_readers
import hub_spaces
import hub_tampering
from datasets import disable_progress_bars
from hub_kit import HUB, check_card
from huggingface_hub.utils import disable_progress_bars as disable_upload_bars

from diq_hf.publishing import publication


# The last one looks at what all have published.
ROOMS = (hub_pushes, hub_faults, hub_tampering, hub_spaces, hub_privacy, hub_jobs, hub_readers, hub_commands)


def no_figures(*_) -> list[Path]:
    return []


if __name__ == "__main__":
    drawn = publication.draw_selection
    disable_progress_bars()
    disable_upload_bars()
    HUB.start(check_card)
    outcomes = {}
    chosen = sys.argv[1:]
    cases = {name: case for room in ROOMS for name, case in vars(room).items()}
    for name, case in cases.items():
        if name.startswith("case_") and (not chosen or name in chosen):
            # Figures are half of what a push costs.
            publication.draw_selection = drawn if name in ("case_card", "case_from_score_to_verify") else no_figures
            try:
                case()
            except SkipTest as reason:
                outcomes[name] = f"skipped: {reason}"
            except Exception:
                outcomes[name] = traceback.format_exc()
            else:
                outcomes[name] = None
            HUB.faults.clear()
    print(json.dumps(outcomes))
