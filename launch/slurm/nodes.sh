#!/usr/bin/env bash
# Several nodes with 8 GPUs each: one launcher per node; all connect to the first node. The output folder and the dataset must be on a
# disk that all nodes share. Saves a checkpoint and requeues the job in the same way as one_node.sh.
#
#   sbatch --nodes=4 launch/slurm/nodes.sh personamem_v2/grpo_32k.yaml [layout] [overrides ...]
#
# With sequence_parallel 8, each node is one group: neighbouring ranks are a group, and its all-to-alls stay on the node. Batch sizes count
# rows per group, so on two nodes a generation of grpo_128k.yaml keeps its size with half the steps:
#
#   sbatch --nodes=2 launch/slurm/nodes.sh personamem_v2/grpo_128k.yaml zero3 --sequence_parallel 8 --steps_per_generation 4 \
#     --gradient_accumulation_steps 2
#SBATCH --job-name=rft
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
recipe=${1:?"usage: sbatch --nodes=N $0 RECIPE [LAYOUT] [overrides ...]"}
layout=${2:-zero3}
command=${RFT_COMMAND:-grpo}
gpus_per_node=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # different ports for two jobs on one node

export OMP_NUM_THREADS=8 NCCL_ASYNC_ERROR_HANDLING=1 TORCH_NCCL_TRACE_BUFFER_SIZE=2000
# A collective that waits for a rank longer than ddp_timeout (recipe field, seconds; default 1800) ends the run. stall_minutes (recipe
# field) makes a stalled rank print its rank and stack traces.

trap '' USR1
# shellcheck disable=SC2016  # SLURM_NODEID differs between tasks
srun --kill-on-bad-exit=1 bash -c '
  layout=$1 command=$2; shift 2
  exec rft "$command" --launch "$layout" --machine_rank "$SLURM_NODEID" "$@"
' rft "$layout" "$command" --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * gpus_per_node))" \
  --main_process_ip "$first" --main_process_port "$port" --config "$recipe" --resume_from_checkpoint true "${@:3}"
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
