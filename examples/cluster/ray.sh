#!/bin/sh
# ray job submit --working-dir . -- sh examples/cluster/ray.sh CONFIG DIR       a run on a cluster of Ray that is there already
# Trainings without each group and scorings are spread over the cluster, and give the same receipt as on one machine. DIR and
# the cache ($RLHF_GAME_CACHE) are on a file system that all machines share; the package is installed on each of them.
set -eu
exec rlhf-game run "$1" -o "$2" --engine ray --address auto
