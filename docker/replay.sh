#!/usr/bin/env bash
# Runs the install steps of the CPU image without a container engine. Copies the files that its Dockerfile copies into an empty folder,
# installs them with an empty environment, then runs `rft --help` and a quick test there.
#
#   docker/replay.sh [cpu]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
what=${1:-cpu}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -E '^COPY' "$root/docker/$what.Dockerfile" | while read -r _ _ words; do # COPY --chown=rft FROM... TO
  read -ra paths <<<"$words"
  to=${paths[-1]}
  for from in "${paths[@]::${#paths[@]}-1}"; do
    mkdir -p "$folder/$(dirname "$to")"
    cp -r "$root/$from" "$folder/$to"
  done
done
cd "$folder"
clean=(env -i HOME="$folder" PATH="$PATH" LANG=C.UTF-8 ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"}
  ${PIP_CONFIG_FILE:+PIP_CONFIG_FILE="$PIP_CONFIG_FILE"} RFT_TORCH_INDEX="${RFT_TORCH_INDEX-https://download.pytorch.org/whl/cpu}")
"${clean[@]}" docker/install.sh "$what" "$folder/venv"
"${clean[@]}" "$folder/venv/bin/rft" --help | head -n 3
"${clean[@]}" "$folder/venv/bin/python" -m pytest -q tests/unit/test_sampler.py tests/unit/test_reward_mcq.py tests/unit/test_prefix_tree_layout.py
echo "replay of docker/$what.Dockerfile: installed; rft --help and the tests pass"
