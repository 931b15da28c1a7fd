#!/bin/bash
#SBATCH --job-name=evomerge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600
#
# A search over the nodes of a Slurm job: a Ray head and workers by srun, the driver on the first node.
#
#     sbatch docker/slurm.sh docker/run.yaml /shared/runs/night [options of evomerge search]
#
# Preempted, requeued, or ten minutes before its time is over, it finishes what is under way, is recorded
# and continues when the job starts again: the same command begins a run and goes on with it. DIR is on a
# disk that all nodes see and that only this job writes to. `cluster.address` in the run file is `auto`.
# EVOMERGE_START: what evomerge and ray are called by, such as `apptainer exec --nv evomerge.sif`.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: sbatch docker/slurm.sh RUN.yaml DIR [options of evomerge search]" >&2
  exit 2
fi
run_file=$1
folder=$2
shift 2
read -r -a start <<< "${EVOMERGE_START:-}"
# by job, so that two jobs that share a node do not meet
port=$((20000 + SLURM_JOB_ID % 20000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
export RAY_ADDRESS=$head:$port RAY_USAGE_STATS_ENABLED=0

on() { # on NODES OPTIONS... -- COMMAND...: one task on each of so many nodes
  local count=$1
  shift
  srun --overlap --nodes="$count" --ntasks="$count" "$@" &
}

on 1 --nodelist="$head" "${start[@]}" ray start --head --block \
  --node-ip-address="$head" --port="$port" --include-dashboard=false
for _ in $(seq 60); do
  "${start[@]}" ray health-check --address="$RAY_ADDRESS" 2> /dev/null && break
  sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
  on $((${#nodes[@]} - 1)) --exclude="$head" "${start[@]}" ray start --block --address="$RAY_ADDRESS"
fi

requeue=
# in the background, because bash hears signals only while it waits; Ctrl-C is heard nevertheless
set -m
if [ -e "$folder/run.db" ]; then
  "${start[@]}" evomerge resume "$folder" --moved "$(dirname "$run_file")" "$@" &
else
  "${start[@]}" evomerge search "$run_file" --dir "$folder" "$@" &
fi
driver=$!
set +m
heard=
trap 'heard=yes; requeue=yes; kill -INT "$driver"' USR1 # the time is nearly over
trap 'heard=yes; kill -INT "$driver"' TERM INT # preempted or cancelled: Slurm says which, and requeues

code=0
while :; do # a signal ends the wait, not the driver
  code=0
  wait "$driver" || code=$?
  [ -n "$heard" ] || break
  heard=
done
if [ -n "$requeue" ] && [ "$code" = 3 ]; then # 3: interrupted, and can be continued
  scontrol requeue "$SLURM_JOB_ID"
fi
jobs -p | xargs -r kill 2> /dev/null || true # Ray's head and workers
exit "$code"
