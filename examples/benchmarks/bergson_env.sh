#!/usr/bin/env bash
# Makes the environment that benchmark.py runs bergson in: its dependencies are its own, not diq_hf's.
#
#     examples/benchmarks/bergson_env.sh bergson_env
#     python examples/benchmarks/benchmark.py --bergson_python bergson_env/bin/python
#
# TORCH and PIP_FLAGS as in the Makefile; take the torch that diq_hf runs with, or the comparison is between two torches.
set -euo pipefail

folder=${1:?Usage: $0 FOLDER}
"${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip)
# In one command, so that torchvision and torchaudio are chosen to suit this torch and do not replace it.
# shellcheck disable=SC2086
"${pip[@]}" install -q --disable-pip-version-check ${PIP_FLAGS:-} "${TORCH:-torch==2.13.0}" bergson==2.5.1
# Of another build than torch (CUDA beside CPU) they stop transformers from being imported. bergson asks for them but
# imports neither.
for package in torchvision torchaudio; do
    "$folder/bin/python" -c "import $package" 2>/dev/null || "${pip[@]}" uninstall -q -y "$package"
done
"$folder/bin/python" -c "import bergson, torch; print('bergson', bergson.__version__, 'torch', torch.__version__)"
