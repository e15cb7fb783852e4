#!/usr/bin/env bash
# The install steps of the images. They are a script so that they can also run without a container engine:
#
#   docker/install.sh cpu|cuda|vllm VENV
#
# vllm is cuda with vLLM, which has pins of its own. constraints.txt pins every version. torch is installed first: the CPU image
# takes it from PyTorch's CPU index, the CUDA images from PyPI, whose Linux wheels are the CUDA build. RFT_TORCH_INDEX names another index ("" for pip's default index).
# flash-attn is not installed: it takes hours to compile, and PyTorch's own kernels already are FlashAttention-2.
set -euo pipefail
what=${1:?"usage: docker/install.sh cpu|cuda|vllm VENV"}
venv=${2:?"usage: docker/install.sh cpu|cuda|vllm VENV"}
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
    ;;
  vllm)
    # vLLM 0.28 to 0.30 pin the torch version of constraints.txt. They need mistral-common, which does not support numpy 2.4 or newer.
    "${pip[@]}" install --quiet --constraint <(grep -v '^numpy==' constraints.txt) torch
    "${pip[@]}" install --quiet --constraint <(grep -v '^numpy==' constraints.txt) --editable '.[dev,deepspeed,vllm]'
    ;;
  *)
    echo "docker/install.sh: expected cpu, cuda or vllm, not $what" >&2
    exit 2
    ;;
esac
"${pip[@]}" check
"$venv/bin/rft" --help >/dev/null
