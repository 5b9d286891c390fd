"""What processes of tests/gpu/test_processes.py do; in a module that a new process imports fast."""

import datetime

import torch
from detectron2.layers import get_norm
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ocr_panoptic.layers import OCRModule

__all__ = ["CHANNELS", "make_inputs", "make_layer", "normalise", "train_distributed"]

CHANNELS, CLASSES, IMAGES = 32, 5, 4


def make_layer(norm, device):
    """Return OCR, the same in every process."""
    torch.manual_seed(0)
    return OCRModule(CHANNELS, 16, CHANNELS, dropout=0.0, norm=norm).to(device).train()


def make_inputs(device):
    """Return pixels, region logits, and weights of a sum over the result, of all processes."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(IMAGES, channels, 6, 7, generator=generator).to(device)
        for channels in (CHANNELS, CLASSES, CHANNELS)
    ]


def _join(rank, processes, backend, port):
    distributed.init_process_group(
        backend,
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=90),
    )


def train_distributed(rank, processes, backend, norm, device, port, output):
    """Compute this process's images through OCR; save its result, gradients and statistics.

    All processes are on one device.
    """
    torch.set_num_threads(1)
    _join(rank, processes, backend, port)
    layer = make_layer(norm, device)
    feats, regions, weights = (part.chunk(processes)[rank] for part in make_inputs(device))
    feats.requires_grad_()
    device_ids = [0] if device == "cuda" else None
    # By name: one that is gone does not reduce.
    parallel = DistributedDataParallel(layer, device_ids=device_ids)
    out = parallel(feats, regions)
    (out * weights).sum().backward()
    found = {
        "out": out,
        "feats": feats.grad,
        "mean": layer.fuse[0].norm.running_mean,
        **{name: parameter.grad for name, parameter in layer.named_parameters()},
    }
    torch.save({key: value.detach().cpu() for key, value in found.items()}, f"{output}/{rank}.pth")
    distributed.barrier()
    distributed.destroy_process_group()


def normalise(rank, processes, backend, norm, device, port, output):
    """Put a few numbers through one norm: the first thing that a backend cannot do shows here."""
    _join(rank, processes, backend, port)
    layer: nn.Module = get_norm(norm, 2).to(device).train()
    layer(torch.randn(2, 2, 3, 3, device=device, requires_grad=True)).sum().backward()
    distributed.barrier()
    distributed.destroy_process_group()
