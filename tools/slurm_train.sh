#!/bin/bash
#SBATCH --job-name=ocr-panoptic
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
#
# tools/train_net.py on the nodes of a Slurm job, one task a node, one process a GPU. From the root
# of the repository, with options of sbatch first and arguments of train_net.py last:
#
#     sbatch --nodes 2 tools/slurm_train.sh --config-file configs/... OUTPUT_DIR output/run
#
# The job goes on from the last checkpoint in OUTPUT_DIR, which all nodes share, whenever it is
# started again: by Slurm after a preemption or the loss of a node, and by itself five minutes
# before its time ends, or when a process was lost. Of the environment:
#
#     PYTHON              default .venv/bin/python
#     PROCESSES_PER_NODE  default one for each GPU, or 1 without any
#     MAX_RESTARTS        of the job, from which on a lost process ends it; default 3
set -uo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "slurm_train.sh: SLURM_JOB_ID is not set, expected: sbatch tools/slurm_train.sh --config-file ..."
# Slurm runs a copy of this file.
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ -f tools/train_net.py ] || fail "$PWD: no tools/train_net.py, expected sbatch in the root of the repository"
python=${PYTHON:-.venv/bin/python}
command -v "$python" > /dev/null || fail "PYTHON: $python: no such program"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
[ "${#hosts[@]}" -gt 0 ] || fail "scontrol names no host of SLURM_JOB_NODELIST '${SLURM_JOB_NODELIST:-}'"
processes=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
options=(--num-gpus "$processes")
if [ "${#hosts[@]}" -gt 1 ]; then
    # Below the ports that systems give to whoever asks for any; another job has another number.
    port=$((20000 + SLURM_JOB_ID % 12000))
    options+=(--num-machines "${#hosts[@]}" --dist-url "tcp://${hosts[0]}:$port")
fi
case " $* " in
    *" --eval-only "*) ;;
    *) options+=(--resume) ;;
esac

# Whoever cancels or preempts a job has it out of this state before any process hears of it.
is_running() {
    case $(scontrol show job "$SLURM_JOB_ID") in
        *JobState=RUNNING*) ;;
        *) return 1 ;;
    esac
}

requeue() {
    echo "job $SLURM_JOB_ID: $1, it is put back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
}

ending=0
trap 'requeue "its time ends" && ending=1' USR1

tasks=(--nodes "${#hosts[@]}" --ntasks "${#hosts[@]}" --ntasks-per-node 1)
# srun does not take it from sbatch.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || tasks+=(--cpus-per-task "$SLURM_CPUS_PER_TASK")
# When one task has ended, the others have a minute to notice and to say so.
# shellcheck disable=SC2016
srun "${tasks[@]}" --kill-on-bad-exit=0 --wait 60 bash -c \
    'python=$1; shift; exec "$python" tools/train_net.py --machine-rank "$SLURM_NODEID" "$@"' \
    train "$python" "${options[@]}" "$@" &
step=$!
# A trapped signal ends a wait, but not the step.
while :; do
    wait "$step"
    status=$?
    kill -0 "$step" 2> /dev/null || break
done
[ "$ending" = 0 ] || exit 0

# 4: a process was killed or does not answer. 128 and more: the only one of a node was killed, by a
# signal that is not somebody's wish, as SIGINT and SIGTERM are.
case $status in
    4) lost=1 ;;
    130 | 143) lost=0 ;;
    *) lost=$((status >= 128)) ;;
esac
if [ "$lost" = 1 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-3}" ] && is_running; then
    requeue "a process was lost"
fi
exit "$status"
