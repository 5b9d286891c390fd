"""Facts of the pinned environment on a machine without a GPU, and what makes others of them."""

from dataclasses import replace

from ocr_panoptic.doctor.attempts import FAILED, NOT_TRIED, OK, Attempt
from ocr_panoptic.doctor.facts import Distribution, Facts
from ocr_panoptic.doctor.machine import Disk, Machine
from ocr_panoptic.doctor.probes import DISTRIBUTIONS, NEEDS

SITE = "/venv/lib/python3.10/site-packages"
GIBIBYTE = 2**30
VERSIONS = {
    "numpy": "1.26.4",
    "ocr-panoptic": "0.1.0",
    "sal-detectron2": "0.7.2",
    "setuptools": "80.10.2",
    "torch": "2.3.1",
    "torchvision": "0.18.1",
}
FOUND = {
    "cuda-driver": {"cuda": None},
    "numpy": {"version": "1.26.4"},
    "torch": {
        "version": "2.3.1+cu121",
        "cuda": "12.1",
        "hip": None,
        "cudnn": 8902,
        "threads": 4,
    },
    "torch-cuda": {"available": False, "architectures": [], "devices": [], "warnings": []},
    "torchvision": {"version": "0.18.1+cu121"},
    "detectron2": {"version": "0.7.2", "seeded_sampler": True},
    "detectron2._C": {
        "present": True,
        "files": ["_C.cpython-310-x86_64-linux-gnu.so"],
        "compiler": "GCC 11.4",
        "cuda": "CUDA 12.1",
    },
    "ocr_panoptic": {"file": "/repository/ocr_panoptic/__init__.py"},
}
GPU = {
    "name": "NVIDIA A100",
    "memory": 40 * GIBIBYTE,
    "free": 39 * GIBIBYTE,
    "capability": [8, 0],
    "error": "",
}
MACHINE = Machine(
    system="Linux-6.1-x86_64-with-glibc2.36",
    platform="linux",
    cpu="A CPU",
    features=("AVX2",),
    cores=8,
    usable_cores=4,
    memory=32 * GIBIBYTE,
    memory_available=30 * GIBIBYTE,
    shared_memory=16 * GIBIBYTE,
    shared_memory_free=16 * GIBIBYTE,
    output=Disk("output", 500 * GIBIBYTE, True),
    cache=Disk("/home/me/.torch", 500 * GIBIBYTE, True),
    temporary=Disk("/tmp", 500 * GIBIBYTE, True),
    open_files=65536,
    host_resolves=True,
    nvidia=(),
)


def healthy(**changes):
    """Return facts in which nothing hinders, with other fields where they are given."""
    installed = {
        name: (Distribution(name, VERSIONS.get(name, "1.0"), SITE),)
        for name in DISTRIBUTIONS.values()
    }
    facts = Facts(
        python=(3, 10, 13),
        implementation="CPython",
        executable="python",
        prefix="/venv",
        installer="pip",
        repository="/repository",
        installed=installed,
        origins={module: f"{SITE}/{module}/__init__.py" for module in DISTRIBUTIONS},
        attempts={name: Attempt(OK, FOUND.get(name, {})) for name in NEEDS},
        machine=MACHINE,
        environment={"DETECTRON2_DATASETS": "/data"},
        datasets=("COCO panoptic",),
        tools_package=None,
    )
    editable = Distribution("ocr-panoptic", "0.1.0", SITE, editable=True)
    return replace(facts, **{"installed": {**installed, "ocr-panoptic": (editable,)}, **changes})


def with_versions(facts, **versions):
    """Return facts with other versions installed, missing where None; "_" stands for "-"."""
    installed = dict(facts.installed)
    for name, version in versions.items():
        name = name.replace("_", "-")
        installed.pop(name, None)
        if version is not None:
            installed[name] = (Distribution(name, version, SITE),)
    return replace(facts, installed=installed)


def with_found(facts, probe, **found):
    """Return facts in which a probe went well and found something else."""
    attempt = Attempt(OK, {**facts.found(probe), **found})
    return replace(facts, attempts={**facts.attempts, probe: attempt})


def with_error(facts, probe, error, state=FAILED, missing=None):
    """Return facts in which a probe went wrong, and what needs it was not tried."""
    failed = Attempt(state, error=error, missing=missing, traceback="a traceback")
    attempts = {**facts.attempts, probe: failed}
    for name, needs in NEEDS.items():
        lacking = [attempts[need] for need in needs if attempts[need].state != OK]
        if lacking and attempts[name].state == OK:
            attempts[name] = Attempt(NOT_TRIED, error=probe)
    return replace(facts, attempts=attempts)


def with_machine(facts, **fields):
    """Return facts of another machine."""
    return replace(facts, machine=replace(facts.machine, **fields))


def with_gpu(facts, **changes):
    """Return facts of a machine with a GPU that torch uses."""
    facts = with_machine(facts, nvidia=("NVIDIA A100, 535.104.05, 40960 MiB",))
    facts = with_found(facts, "cuda-driver", cuda=12020)
    found = {
        "available": True,
        "architectures": ["sm_50", "sm_80", "sm_90"],
        "devices": [{**GPU, **changes}],
    }
    return with_found(facts, "torch-cuda", **found)
