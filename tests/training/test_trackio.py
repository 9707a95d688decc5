"""What trackio, the real one, holds after a training that chose its rows: needs `pip install trackio`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import SUPPORT
from datasets import load_dataset


TRAIN = """
import sys
import trackio
from datasets import Dataset
from trainings import make_trainer, rows_of_chat
from diq_hf import DIQCallback

callback = DIQCallback(num_rows=6, candidates=None, rescore_every=2)
rows = [Dataset.from_list(rows_of_chat(count, seed)) for count, seed in ((20, 1), (3, 2))]
names = {"report_to": ["trackio"], "project": "chosen", "run_name": "one"}
make_trainer("sft", *rows, sys.argv[1], callback, num_train_epochs=4, logging_steps=1, **names).train()
"""


def test_a_table_and_histograms_at_each_selection(tmp_path):
    pytest.importorskip("trackio")
    env = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
    }
    command = [sys.executable, "-c", TRAIN, tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == 0, result.stderr[-3000:]
    # What trackio's own dashboard reads.
    read = "import json; from trackio.sqlite_storage import SQLiteStorage as storage; "
    read += "print(json.dumps(storage.get_logs('chosen', 'one')))"
    found = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, timeout=60, env=env)
    assert found.returncode == 0, found.stderr[-3000:]
    logged = [line for line in json.loads(found.stdout.splitlines()[-1]) if "train/diq/selection" in line]
    history = load_dataset("parquet", data_files=f"{tmp_path}/out/diq/*.parquet", split="train").to_pandas()
    assert [line["train/global_step"] for line in logged] == sorted(set(history["step"])) and len(logged) > 1
    for line in logged:
        scored = history[history["step"] == line["train/global_step"]]
        chosen = scored[scored["selected"]].set_index("row")
        table = line["train/diq/selection"]["_value"]
        assert sorted(row["row"] for row in table) == sorted(chosen.index)
        for row in table:
            assert row["quadrant"] == f"Q{chosen.loc[row['row'], 'quadrant'] + 1}"
            assert np.isclose(row["influence"], chosen.loc[row["row"], "influence"], rtol=1e-6)
        assert [row["quadrant"] for row in table] == sorted(row["quadrant"] for row in table)
        for name in ("difficulty", "influence"):
            histogram = line[f"train/diq/{name}"]
            expected = np.histogram(scored[name], bins=40)
            assert histogram["values"] == expected[0].tolist() and sum(histogram["values"]) == len(scored)
            assert np.allclose(histogram["bins"], expected[1], rtol=1e-5)
