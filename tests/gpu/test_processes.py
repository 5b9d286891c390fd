"""Several processes: SyncBN between two on one device, NCCL, and a training on two devices."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import multiprocessing

from ..conftest import REPOSITORY
from ..engine.runs import UNTESTED, arguments, read
from .device import DEVICE, assert_close, needs_device
from .workers import make_inputs, make_layer, normalise, train_distributed

pytestmark = needs_device

# torch's SyncBN is for CUDA; on the CPU this project takes Detectron2's.
NORM = "SyncBN" if DEVICE == "cuda" else "naiveSyncBN"


def start(function, processes, backend, output):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (processes, backend, NORM, DEVICE, port, str(output))
    multiprocessing.spawn(function, arguments, nprocs=processes)


def in_one_process():
    """Return what OCR with BatchNorm computes of all images, and its gradients."""
    layer = make_layer("BN", DEVICE)
    feats, regions, weights = make_inputs(DEVICE)
    feats.requires_grad_()
    out = layer(feats, regions)
    (out * weights).sum().backward()
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"out": out, "feats": feats.grad, "mean": layer.fuse[0].norm.running_mean, **grads}


def check(processes, backend, output):
    start(train_distributed, processes, backend, output)
    expected = in_one_process()
    found = [torch.load(output / f"{rank}.pth") for rank in range(processes)]
    for key in ("out", "feats"):
        assert_close(torch.cat([part[key] for part in found]), expected.pop(key), 1e-4)
    for key, value in expected.items():
        # A mean over the processes, of sums over the images of each.
        scale = 1 if key == "mean" else processes
        for part in found:
            assert_close(scale * part[key], value, 2e-3)


def test_sync_batch_norm_of_two_processes_is_batch_norm_of_all(tmp_path):
    # NCCL takes one process a device; gloo takes tensors of any, where it was built for CUDA.
    try:
        start(normalise, 2, "gloo", tmp_path)
    except multiprocessing.ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        if DEVICE == "cuda" and "gloo" in reason.lower():
            pytest.skip(f"this gloo cannot do it on CUDA: {reason}")
        raise
    check(2, "gloo", tmp_path)


def test_a_group_of_one_process(tmp_path):
    check(1, "nccl" if DEVICE == "cuda" else "gloo", tmp_path)


@pytest.mark.skipif(
    DEVICE == "cuda" and torch.cuda.device_count() < 2, reason="this machine has one CUDA device"
)
def test_a_training_on_two_devices(datasets_root, tmp_path):
    overrides = {
        **{"MODEL.DEVICE": DEVICE, "DATASETS.TRAIN": ("shapes_easy_train_panoptic_separated",)},
        **{"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": (1,), "MODEL.SEM_SEG_HEAD.OCR.NORM": "SyncBN"},
        **UNTESTED,
    }
    argv = arguments(tmp_path, "--num-gpus", "2", overrides=overrides)
    done = subprocess.run(
        [sys.executable, "tools/train_net.py", *argv],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    content = read(tmp_path)
    assert content["iteration"] == 1
    states = content["trainer"]["hooks"]["RandomStates"]["states"]
    assert len(states) == 2
    assert all(("cuda" in state) == (DEVICE == "cuda") for state in states)
