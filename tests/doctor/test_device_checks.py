"""Checks of GPUs and their driver, on facts that are given."""

import pytest

from ocr_panoptic.doctor.device_checks import describe_gpus
from ocr_panoptic.doctor.finding import INFO, PROBLEM

from .healthy import healthy, with_error, with_found, with_gpu, with_machine, with_versions
from .test_package_checks import PIP, findings, problem

SEEN = ("NVIDIA A100, 470.57.02, 40960 MiB",)


def test_a_gpu_that_works():
    facts = with_gpu(healthy())
    found = findings(facts)
    assert not findings(facts, PROBLEM)
    assert found["cuda"].found == "1 GPU(s), torch for CUDA 12.1"
    assert found["gpu-0"].found == "GPU 0, NVIDIA A100: a convolution and its gradient went well"
    assert "cpu-only" not in found
    assert describe_gpus(facts) == [
        "NVIDIA A100, 40 GiB (39 free), compute capability 8.0, bf16, driver 535.104.05"
    ]


def test_no_gpu():
    found = findings(healthy())
    assert found["cuda"].found.startswith("no GPU and no driver of NVIDIA here")
    assert found["cpu-only"].status == INFO
    assert "SOLVER.AMP is turned off" in found["cpu-only"].found
    assert describe_gpus(healthy()) == []


def test_torch_was_built_without_cuda():
    facts = with_machine(healthy(), nvidia=SEEN)
    facts = with_found(facts, "torch", version="2.3.1+cpu", cuda=None)
    facts = with_found(facts, "detectron2._C", present=False, files=[])
    told = problem(facts, "cuda")
    assert told.found.endswith(f"was built without CUDA, but there is a GPU: {SEEN[0]}")
    assert told.cure == (
        f"{PIP}torch==2.3.1+cu121 torchvision==0.18.1+cu121, "
        "with the --extra-index-url that pytorch.org/get-started gives for cu121"
    )
    assert describe_gpus(facts) == [f"{SEEN[0]} (not used by torch)"]


class TestTheDriverIsTooOld:
    def facts(self, driver, **torch):
        facts = with_machine(healthy(), nvidia=SEEN)
        facts = with_found(facts, "cuda-driver", cuda=driver)
        warning = "CUDA initialization: The NVIDIA driver on your system is too old"
        facts = with_found(facts, "torch-cuda", warnings=[warning])
        return with_found(facts, "torch", **torch)

    def test_there_is_a_build_for_it(self):
        told = problem(self.facts(11040), "cuda")
        assert told.found == (
            "torch for CUDA 12.1 finds no GPU: the driver 470.57.02 runs CUDA 11.4 at most"
        )
        assert told.cure == (
            "update the driver to 525.60 or later, or: "
            f"{PIP}torch==2.3.1+cu118 torchvision==0.18.1+cu118, "
            "with the --extra-index-url that pytorch.org/get-started gives for cu118"
        )

    def test_a_newer_torch(self):
        facts = self.facts(12040, version="2.11.0+cu130", cuda="13.0")
        facts = with_versions(facts, sal_detectron2="0.7.2+noext", torch="2.11.0")
        facts = with_found(facts, "detectron2._C", present=False, files=[])
        told = findings(facts)["cuda"]
        assert told.cure == (
            "update the driver to 580.65 or later, or: "
            f"{PIP}torch==2.11.0+cu126 torchvision==0.26.0+cu126, "
            "with the --extra-index-url that pytorch.org/get-started gives for cu126"
        )

    def test_there_is_no_build_for_it(self):
        assert problem(self.facts(10020), "cuda").cure == "update the driver to 525.60 or later"


def test_a_gpu_that_torch_does_not_find():
    facts = with_machine(healthy(), nvidia=SEEN)
    facts = with_found(facts, "cuda-driver", cuda=12020)
    facts = with_found(facts, "torch-cuda", warnings=["CUDA unknown error - this may be due to"])
    told = problem(facts, "cuda")
    assert told.found == "torch for CUDA 12.1 finds no GPU: CUDA unknown error - this may be due to"
    assert "nvidia-smi has to list the GPU" in told.cure


def test_a_driver_without_a_gpu_is_no_problem():
    # As on the host of containers that were given none.
    facts = with_found(healthy(), "cuda-driver", cuda=12020)
    assert findings(facts)["cuda"].status == INFO


@pytest.mark.parametrize("value", ["", "-1"])
def test_gpus_that_torch_is_not_to_see(value):
    facts = with_machine(
        healthy(environment={"CUDA_VISIBLE_DEVICES": value, "DETECTRON2_DATASETS": "/data"}),
        nvidia=SEEN,
    )
    told = findings(facts)["cuda"]
    assert (told.status, told.cure) == (INFO, "unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("capability", "error", "found", "cure"),
    [
        (
            [12, 0],
            "RuntimeError: CUDA error: no kernel image is available",
            "(its compute capability 12.0 is not among those of this torch: sm_50 sm_80 sm_90)",
            "install a newer torch",
        ),
        (
            [3, 5],
            "RuntimeError: CUDA error: no kernel image is available",
            "(its compute capability 3.5 is not among those of this torch: sm_50 sm_80 sm_90)",
            "install an older torch",
        ),
        ([8, 6], "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "", "LD_LIBRARY_PATH"),
        ([8, 0], "OutOfMemoryError: CUDA out of memory.", "", "end what uses its memory"),
        ([8, 0], "RuntimeError: CUDA error: an illegal memory access", "", "nvidia-smi names"),
    ],
)
def test_a_gpu_that_does_not_compute(capability, error, found, cure):
    facts = with_gpu(healthy(), capability=capability, error=error)
    told = problem(facts, "gpu-0")
    assert told.found.startswith(f"GPU 0, NVIDIA A100: {error}")
    assert told.found.endswith(found)
    assert ("is not among" in told.found) == ("capability" in found)
    assert cure in told.cure


def test_code_that_is_compiled_at_its_first_use_counts():
    facts = with_gpu(healthy(), capability=[12, 0], error="RuntimeError: what?")
    facts = with_found(facts, "torch-cuda", architectures=["sm_90", "compute_90"])
    assert "is not among" not in findings(facts)["gpu-0"].found


def test_rocm():
    facts = with_found(with_gpu(healthy()), "torch", hip="6.0", cuda=None)
    assert findings(facts)["cuda"].found == "1 GPU(s), torch for ROCm 6.0"


def test_a_probe_of_cuda_that_failed_is_told_by_the_imports():
    facts = with_error(healthy(), "torch-cuda", "the process ended with SIGSEGV", "crashed")
    assert list(findings(facts, PROBLEM)) == ["import-torch-cuda"]
    assert "cuda" not in findings(facts)
