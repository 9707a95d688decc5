#!/usr/bin/env bash
# Makes the environment that benchmark.py runs a peer in: its dependencies are its own, not diq_hf's.
#
#     examples/benchmarks/peer_env.sh bergson peers/bergson
#     python examples/benchmarks/benchmark.py --peers peers
#
# NAME is bergson, dattri or kronfluence. TORCH and PIP_FLAGS as in the Makefile; take the torch that diq_hf runs with,
# or the comparison is between two torches.
set -euo pipefail

name=${1:?Usage: $0 NAME FOLDER}
folder=${2:?Usage: $0 NAME FOLDER}
case $name in
    bergson) packages=(bergson==2.5.1) ;;
    dattri) packages=("dattri-llm[transformers]==0.1.0") ;;
    kronfluence) packages=(kronfluence==1.0.1 transformers) ;;
    *) echo "No peer is called $name: bergson, dattri or kronfluence." >&2 && exit 2 ;;
esac
"${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip)
# In one command, so that torchvision and torchaudio are chosen to suit this torch and do not replace it. psutil is what
# the benchmark itself needs.
# shellcheck disable=SC2086
"${pip[@]}" install -q --disable-pip-version-check ${PIP_FLAGS:-} "${TORCH:-torch==2.13.0}" "${packages[@]}" psutil
# Of another build than torch (CUDA beside CPU) they stop transformers from being imported. The peers ask for them but
# need neither.
for package in torchvision torchaudio; do
    "$folder/bin/python" -c "import $package" 2>/dev/null || "${pip[@]}" uninstall -q -y "$package"
done
module=$name && [ "$name" != dattri ] || module=dattri_llm
"$folder/bin/python" -c "import $module, torch; print('$module', 'torch', torch.__version__)"
