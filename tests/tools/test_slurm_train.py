"""slurm_train.sh: what it starts on which node, and when it puts a job back into the queue."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ocr_panoptic.errors import BAD_INPUT, INTERRUPTED, LOST_PROCESS, NON_FINITE_LOSS

from ..conftest import REPOSITORY
from ..engine.runs import UNTESTED, arguments, read

SCRIPT = REPOSITORY / "tools/slurm_train.sh"
# As many tasks as it is asked for, each as if on a node of its own; the highest status, as Slurm's.
SRUN = """#!/bin/bash
printf '%s\\n' "$*" >> "$FAKE/srun"
while [ "$1" != bash ]; do
    if [ "$1" = --ntasks ]; then tasks=$2; fi
    shift
done
for ((node = 0; node < tasks; node++)); do
    SLURM_NODEID=$node "$@" &
    steps+=($!)
done
worst=0
for step in "${steps[@]}"; do
    wait "$step"
    status=$?
    if [ $status -gt $worst ]; then worst=$status; fi
done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then
    echo ${3//,/ } | tr ' ' '\\n'
elif [ "$1 $2" = "show job" ]; then
    printf 'JobId=%s JobName=x\\n   JobState=%s Reason=None\\n' "$3" "${JOB_STATE-RUNNING}"
else
    echo "$*" >> "$FAKE/scontrol"
fi
"""
PYTHON = """#!/bin/bash
printf '%s\\n' "$*" >> "$FAKE/python$SLURM_NODEID"
if [ -n "$WAIT_FOR" ]; then
    until [ -e "$WAIT_FOR" ]; do read -rt 0.05 < <(:); done
fi
exit ${STATUS:-0}
"""
# Forks where Detectron2 spawns: what is imported once need not be imported again.
FORKING_PYTHON = f"""#!{sys.executable}
import functools, runpy, sys
from torch import multiprocessing
multiprocessing.start_processes = functools.partial(
    multiprocessing.start_processes, start_method="fork"
)
sys.argv = sys.argv[1:]
sys.path[0] = "tools"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job, with what Slurm has on its nodes."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("fake_python", PYTHON),
        ("forking_python", FORKING_PYTHON),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return {
        **ours,
        **{"PATH": f"{programs}:{os.environ['PATH']}", "FAKE": str(tmp_path)},
        **{"PYTHON": "fake_python", "SLURM_SUBMIT_DIR": str(REPOSITORY)},
        **{"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node7,node9"},
    }


def submit(environment, *argv):
    return subprocess.run(
        # Slurm runs a copy, in any folder.
        ["bash", str(SCRIPT), *argv],
        cwd=environment["FAKE"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def told(environment, name):
    """Return what a program was told, a line for each time."""
    path = os.path.join(environment["FAKE"], name)
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return file.read().splitlines()


def test_is_a_shell_script():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.X_OK)
    head = SCRIPT.read_text().partition("set -uo pipefail")[0].splitlines()
    # sbatch reads options up to the first command.
    assert all(line.startswith("#") for line in head)
    assert {"#SBATCH --requeue", "#SBATCH --ntasks-per-node=1"} <= set(head)


def test_two_nodes(slurm):
    slurm |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "16"}
    done = submit(slurm, "--config-file", "a b.yaml", "OUTPUT_DIR", "out")
    assert done.returncode == 0, done.stderr
    (tasks,) = told(slurm, "srun")
    assert tasks.startswith("--nodes 2 --ntasks 2 --ntasks-per-node 1 --cpus-per-task 16 ")
    for node in (0, 1):
        assert told(slurm, f"python{node}") == [
            f"tools/train_net.py --machine-rank {node} --num-gpus 4 --num-machines 2 "
            "--dist-url tcp://node7:20345 --resume --config-file a b.yaml OUTPUT_DIR out"
        ]
    assert told(slurm, "scontrol") == []


def test_one_node_without_gpus(slurm):
    slurm |= {"SLURM_JOB_NODELIST": "node7", "PROCESSES_PER_NODE": "2"}
    assert submit(slurm, "--eval-only", "MODEL.WEIGHTS", "a.pth").returncode == 0
    # The weights that are named, not those of the last checkpoint.
    assert told(slurm, "python0") == [
        "tools/train_net.py --machine-rank 0 --num-gpus 2 --eval-only MODEL.WEIGHTS a.pth"
    ]


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (LOST_PROCESS, None, True),
        (LOST_PROCESS, "2", True),
        (LOST_PROCESS, "3", False),
        # The only process of a node, and nobody who says so: SIGKILL, SIGBUS.
        (128 + signal.SIGKILL, None, True),
        (128 + signal.SIGKILL, "3", False),
        (128 + signal.SIGBUS, None, True),
        (128 + signal.SIGTERM, None, False),
        (INTERRUPTED, None, False),
        (NON_FINITE_LOSS, None, False),
        (BAD_INPUT, None, False),
        (1, None, False),
    ],
)
def test_a_job_that_lost_a_process_is_started_again(slurm, status, restarts, requeued):
    slurm |= {"STATUS": str(status)}
    if restarts is not None:
        slurm |= {"SLURM_RESTART_COUNT": restarts}
    assert submit(slurm).returncode == status
    assert told(slurm, "scontrol") == ["requeue 12345"] * requeued


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED", ""])
@pytest.mark.parametrize("status", [LOST_PROCESS, 128 + signal.SIGKILL])
def test_a_job_that_is_ended_is_not_started_again(slurm, status, state):
    slurm |= {"STATUS": str(status), "JOB_STATE": state}
    assert submit(slurm).returncode == status
    assert told(slurm, "scontrol") == []


def test_a_job_whose_time_ends_is_started_again(slurm, tmp_path):
    slurm |= {"WAIT_FOR": str(tmp_path / "end"), "STATUS": "143"}
    with subprocess.Popen(["bash", str(SCRIPT)], env=slurm, stderr=subprocess.PIPE) as job:
        try:
            end = time.monotonic() + 60
            for path, number in (("python1", signal.SIGUSR1), ("scontrol", None)):
                while not (tmp_path / path).exists():
                    assert time.monotonic() < end
                    assert job.poll() is None
                if number is not None:
                    job.send_signal(number)
        finally:
            # The step goes on until Slurm ends it.
            (tmp_path / "end").touch()
        assert job.wait(60) == 0
    assert told(slurm, "scontrol") == ["requeue 12345"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_JOB_ID": ""}, "SLURM_JOB_ID is not set, expected: sbatch tools/slurm_train.sh"),
        ({"SLURM_SUBMIT_DIR": "/"}, "no tools/train_net.py, expected sbatch in the root of"),
        ({"PYTHON": "no_python"}, "PYTHON: no_python: no such program"),
        ({"PATH": "/usr/bin:/bin", "PYTHON": "bash"}, "scontrol names no host"),
    ],
)
def test_mistakes_are_one_line(slurm, changes, message):
    done = submit({**slurm, **changes})
    assert done.returncode == BAD_INPUT
    assert message in done.stderr.splitlines()[-1]
    assert told(slurm, "srun") == []


@pytest.mark.slow
def test_two_nodes_train_and_go_on(slurm, datasets_root, tmp_path):
    slurm |= {
        **{"PYTHON": "forking_python", "SLURM_JOB_ID": str(os.getpid())},
        **{"SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.1", "PROCESSES_PER_NODE": "1"},
        **{"DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
    }
    overrides = {
        **{"DATASETS.TRAIN": ("shapes_easy_train_panoptic_separated",), **UNTESTED},
        **{"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,)},
    }
    done = submit(slurm, *arguments(tmp_path / "run", overrides=overrides))
    assert done.returncode == 0, done.stderr[-3000:]
    content = read(tmp_path / "run")
    assert content["iteration"] == 1
    assert content["trainer"]["circumstances"]["processes"] == 2
    assert "not resumed" in (tmp_path / "run/log.txt").read_text()
