#!/bin/sh
# What a container of evomerge does.
#
#     head [OPTIONS]                     a Ray head, until it is stopped (options of `ray start`)
#     worker HEAD[:PORT] [OPTIONS]       a Ray worker, until the head is gone or it is stopped
#     search RUN.yaml [--dir DIR] [...]  start the run, or continue it if it was begun
#     anything else                      `evomerge` with these arguments
#
# EVOMERGE_HEAD=PORT makes `search` start a Ray head of its own first, which workers can join at that
# port. DIR is /runs/NAME unless it is said (EVOMERGE_RUNS: another place than /runs).
# Everything ends in `exec`, so a signal to the container is one to evomerge: `docker stop` is Ctrl-C.
set -eu

port=6379

start_head() {
  # No evaluators beside the driver: it needs milliseconds per candidate, they need GPUs or cores.
  # Ray's dashboard is told to listen to the container's network; publish it on loopback only.
  ray start --head --port="$1" --num-cpus="${EVOMERGE_HEAD_CPUS:-0}" --dashboard-host="${EVOMERGE_DASHBOARD_HOST:-127.0.0.1}" >&2
}

start_or_continue() {
  run_file=$1
  shift
  folder=
  left=$#
  while [ "$left" -gt 0 ]; do # take --dir out of the options, keep the others in their order
    option=$1
    shift
    left=$((left - 1))
    case $option in
      --dir)
        [ "$left" -gt 0 ] || { echo "error: --dir: a folder is missing" >&2; exit 2; }
        folder=$1
        shift
        left=$((left - 1))
        ;;
      --dir=*) folder=${option#--dir=} ;;
      *) set -- "$@" "$option" ;;
    esac
  done
  if [ -z "$folder" ]; then
    name=$(basename "$run_file")
    folder=${EVOMERGE_RUNS:-/runs}/${name%.y*ml}
  fi
  if [ -n "${EVOMERGE_HEAD:-}" ]; then
    start_head "$EVOMERGE_HEAD"
  fi
  if [ -e "$folder/run.db" ]; then
    # --moved: the run file's folder may be mounted elsewhere than when the run began
    exec evomerge resume "$folder" --moved "$(dirname "$run_file")" "$@"
  fi
  exec evomerge search "$run_file" --dir "$folder" "$@"
}

case ${1:-} in
  head)
    shift
    exec ray start --head --block --port="$port" --num-cpus="${EVOMERGE_HEAD_CPUS:-0}" \
      --dashboard-host="${EVOMERGE_DASHBOARD_HOST:-127.0.0.1}" "$@"
    ;;
  worker)
    [ $# -gt 1 ] || { echo "error: worker: name the head, HEAD[:PORT]" >&2; exit 2; }
    address=$2
    shift 2
    case $address in
      *:*) ;;
      *) address=$address:$port ;;
    esac
    exec ray start --block --address="$address" "$@"
    ;;
  search)
    case ${2:-} in
      '' | -*) exec evomerge "$@" ;; # --help, or the message that a run file is missing
    esac
    shift
    start_or_continue "$@"
    ;;
  *) exec evomerge "$@" ;;
esac
