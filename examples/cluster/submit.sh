#!/bin/sh
# Start a run as a job of a Ray cluster, or continue it if it was begun: the same command for both.
#
#     export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265   # the head's dashboard, or a tunnel to it
#     examples/cluster/submit.sh path/to/run.yaml /shared/runs/night [options of ray job submit]
#
# The run file's folder is uploaded with what is in it (tasks, objectives; keep models out of it, Ray takes
# 500 MiB at most). The run's folder is a path on the head node, on a disk that outlives the cluster.
# `cluster.address` in the run file is `auto`. EVOMERGE says how the nodes call evomerge.
set -eu
run_file=$1
folder=$2
shift 2
evomerge=${EVOMERGE:-evomerge}
name=$(basename "$run_file")
# --moved .: every upload is unpacked in a folder of its own, which is where the run file is now
exec ray job submit --working-dir "$(dirname "$run_file")" "$@" -- sh -c "
if test -e '$folder/run.db'
then exec $evomerge resume '$folder' --moved .
else exec $evomerge search '$name' --dir '$folder'
fi"
