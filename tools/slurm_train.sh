#!/usr/bin/env bash
# Trains under slurm:
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK and SRUN_ARGS describe the job.
set -eu

# Threads that wait must not spin: see kdvit_mm/__init__.py.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

PARTITION=$1
JOB_NAME=$2
shift 2
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}

# For a parent on this machine alone: see kdvit_mm/processes.py.
unset KDVIT_MM_PARENT
# SRUN_ARGS is a list of options and must be split.
# shellcheck disable=SC2086
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$@" --launcher slurm
