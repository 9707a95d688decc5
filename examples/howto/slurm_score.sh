#!/bin/bash
# Scores a pool on all GPUs of a Slurm job; the arguments are those of `diq score`:
#
#     sbatch examples/howto/slurm_score.sh pool.jsonl --model ./model --validation validation.jsonl \
#         --output scored --cache-dir /shared/chunks
#
# A job that was preempted, ran out of time or lost a node is submitted again with the same words, and goes on from the
# chunks in --cache-dir. That folder, the model and the files are on a disk that all nodes see.

#SBATCH --job-name=diq-score
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

case " $* " in
    *" --cache-dir"* | *" --config"*) ;;
    *) echo "Name a folder that all nodes see: --cache-dir /shared/chunks" >&2; exit 2 ;;
esac

# srun takes this from the environment alone.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$head:29500" \
    --max-restarts 3 \
    -m diq_hf.cli score "$@"
