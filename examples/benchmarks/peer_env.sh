#!/usr/bin/env bash
# Makes the environment that benchmark.py runs a peer in: its dependencies are its own, not diq_hf's.
#
#     examples/benchmarks/peer_env.sh NAME FOLDER [BASE]
#     examples/benchmarks/peer_env.sh bergson peers/bergson && python examples/benchmarks/benchmark.py --peers peers
#
# NAME is bergson, dattri or kronfluence. With BASE, an environment such as diq_hf's, only what that lacks or has in
# another version is installed, in seconds, and the comparison is with the same torch. Without, TORCH is installed, and
# PIP_FLAGS is as in the Makefile.
set -euo pipefail

usage="Usage: $0 bergson|dattri|kronfluence FOLDER [BASE]"
name=${1:?$usage}
folder=${2:?$usage}
base=${3:-}
module=$name
case $name in
    bergson) packages=(bergson==2.5.1) ;;
    dattri) packages=("dattri-llm[transformers]==0.1.0") module=dattri_llm ;;
    kronfluence) packages=(kronfluence==1.0.1 transformers) ;;
    *) echo "$usage" >&2 && exit 2 ;;
esac
packages+=(psutil) # the benchmark's own need
"${PYTHON:-python3}" -m venv "$folder"
if [ -n "$base" ]; then
    site=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    "$base/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$site/base.pth"
    torch=$("$folder/bin/python" -c "from importlib.metadata import version; print(version('torch').split('+')[0])")
    packages+=("torch==$torch")
else
    packages+=("${TORCH:-torch==2.13.0}")
fi
pip=("$folder/bin/python" -m pip)
# In one command, so that torchvision and torchaudio are chosen to suit this torch and do not replace it.
# shellcheck disable=SC2086
"${pip[@]}" install -q --disable-pip-version-check ${PIP_FLAGS:-} "${packages[@]}"
# Of another build than torch (CUDA beside CPU) they stop transformers from being imported. The peers ask for them but
# import neither.
for package in torchvision torchaudio; do
    "$folder/bin/python" -c "import $package" 2>/dev/null || "${pip[@]}" uninstall -q -y "$package"
done
"$folder/bin/python" -c "import $module, torch; print('$name', 'torch', torch.__version__)"
