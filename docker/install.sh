#!/usr/bin/env bash
# The install steps of both images, as one script, so that they can be run without a container engine too:
#
#   docker/install.sh cpu|cuda VENV
#
# constraints.txt decides every version, here as everywhere. torch comes first: the CPU image takes it from PyTorch's CPU index, the
# CUDA image from PyPI, whose Linux wheels are the CUDA build. RFT_TORCH_INDEX names another index ("" for pip's own).
# PyTorch's own kernels are FlashAttention-2: flash-attn, which compiles for hours, would add nothing.
set -euo pipefail
what=${1:?"usage: docker/install.sh cpu|cuda VENV"}
venv=${2:?"usage: docker/install.sh cpu|cuda VENV"}
cd "$(dirname "$0")/.."

python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip)
"${pip[@]}" install --quiet --upgrade pip
case $what in
  cpu)
    index=${RFT_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
    "${pip[@]}" install --quiet --constraint constraints.txt ${index:+--index-url "$index"} torch
    "${pip[@]}" install --quiet --constraint constraints.txt --editable '.[dev,deepspeed]'
    ;;
  cuda)
    "${pip[@]}" install --quiet --constraint constraints.txt torch
    "${pip[@]}" install --quiet --constraint constraints.txt --editable '.[dev,deepspeed]'
    # vLLM 0.28 to 0.30 pin the torch of constraints.txt. mistral-common, which they need, takes no numpy from 2.4 on.
    "${pip[@]}" install --quiet --constraint <(grep -v '^numpy==' constraints.txt) 'vllm>=0.22,<=0.31'
    ;;
  *)
    echo "docker/install.sh: expected cpu or cuda, not $what" >&2
    exit 2
    ;;
esac
"${pip[@]}" check
"$venv/bin/rft" --help >/dev/null
