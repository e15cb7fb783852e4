#!/usr/bin/env bash
# Two nodes: the first serves rollouts with vLLM, the second trains. (Rollouts on the training GPUs do not need this script: add
# --use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization 0.3 --vllm_enable_sleep_mode true to one_node.sh or nodes.sh.)
#
#   sbatch launch/slurm/vllm_server.sh personamem_v2/grpo_32k.yaml MODEL [layout] [overrides ...]
#SBATCH --job-name=rft-vllm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=out/slurm/%j.log
set -uo pipefail
recipe=${1:?"usage: sbatch $0 RECIPE MODEL [LAYOUT] [overrides ...]"}
model=${2:?"usage: sbatch $0 RECIPE MODEL [LAYOUT] [overrides ...]"}
layout=${3:-zero3}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

export OMP_NUM_THREADS=8
trap '' USR1
srun --nodes=1 --nodelist="${nodes[0]}" trl vllm-serve --model "$model" --data_parallel_size 8 --enable_prefix_caching true \
  --port 8000 &
server=$!
srun --nodes=1 --nodelist="${nodes[1]}" --kill-on-bad-exit=1 rft grpo --launch "$layout" --config "$recipe" --use_vllm true \
  --vllm_mode server --vllm_server_host "${nodes[0]}" --vllm_server_port 8000 --vllm_server_timeout 900 \
  --resume_from_checkpoint true "${@:4}"
code=$?
kill "$server"
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
