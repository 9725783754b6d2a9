#!/usr/bin/env bash
# Trains with one process a GPU, or with gloo on a machine without one:
#   tools/dist_train.sh CONFIG GPUS [options of train.py]
# NNODES, NODE_RANK, MASTER_ADDR and PORT describe several machines.
set -eu

# Threads that wait must not spin: see kdvit_mm/__init__.py.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

CONFIG=$1
GPUS=$2

exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "${@:3}"
