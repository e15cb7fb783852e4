#!/usr/bin/env bash
# One node with 8 GPUs. Ten minutes before its time limit, or when it is preempted, the run saves a checkpoint and the job is requeued.
#
#   sbatch launch/slurm/one_node.sh personamem_v2/grpo_32k.yaml [layout] [overrides ...]
#SBATCH --job-name=rft
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=out/slurm/%j.log
set -uo pipefail
recipe=${1:?"usage: sbatch $0 RECIPE [LAYOUT] [overrides ...]"}
layout=${2:-zero3}
command=${RFT_COMMAND:-grpo}

export OMP_NUM_THREADS=8 NCCL_ASYNC_ERROR_HANDLING=1 TORCH_NCCL_TRACE_BUFFER_SIZE=2000

# SIGUSR1 reaches every process of the job step. `rft --launch` forwards it to the training; this shell ignores it and waits.
trap '' USR1
srun --kill-on-bad-exit=1 rft "$command" --launch "$layout" --config "$recipe" --resume_from_checkpoint true "${@:3}"
code=$?
if [ "$code" -eq 75 ]; then # a checkpoint was saved: continue when resources are free again
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
