"""What an import's failure means, and the command that cures it."""

from __future__ import annotations

import re
from collections.abc import Callable

from .attempts import CRASHED, HUNG, Attempt
from .facts import Facts, version_numbers
from .probes import DISTRIBUTIONS

__all__ = [
    "OFFICIAL",
    "PINNED",
    "REPORT_IT",
    "cure_of_detectron2",
    "cure_of_import",
    "cure_of_torch",
    "cure_of_torchvision",
    "has_pinned_wheel",
    "torchvision_of",
]

PINNED = {
    "numpy": "numpy<2",
    "panopticapi-lite": "panopticapi-lite==0.2.0",
    "sal-detectron2": "sal-detectron2==0.7.2",
    "setuptools": "setuptools<81",
    "torch": "torch==2.3.1",
    "torchvision": "torchvision==0.18.1",
}
"""The extra "detectron2" of pyproject.toml: Detectron2 with its compiled operators."""

OFFICIAL = "git+https://github.com/facebookresearch/detectron2.git"
"""Where pip gets the official Detectron2."""

REPORT_IT = "mend what else is named; else report it with the traceback of --json FILE"
"""What can be done about an error of this project itself."""

# Module -> distribution, of what the packages that are tried need in turn.
_OTHER_NAMES = {
    "antlr4": "antlr4-python3-runtime",
    "dateutil": "python-dateutil",
    "google": "protobuf",
    "hydra": "hydra-core",
    "skimage": "scikit-image",
}

# What pip cannot know: where builds are that the package index does not have.
_WHERE = ", with the --extra-index-url that pytorch.org/get-started gives for {}"


def has_pinned_wheel(facts: Facts) -> bool:
    """Return whether the Detectron2 whose operators were compiled for the other pins is there."""
    return facts.version("sal-detectron2") == PINNED["sal-detectron2"].partition("==")[2]


def torchvision_of(torch_version: str) -> str | None:
    """Return the requirement of the torchvision that was built for a torch; None if unknown."""
    numbers = version_numbers(torch_version)[:2]
    if len(numbers) < 2 or numbers < (1, 4):
        return None
    # 1.13 has 0.14, 2.0 has 0.15, and both have gone on by one.
    return f"torchvision==0.{numbers[1] + (1 if numbers[0] == 1 else 15)}.*"


def cure_of_torchvision(facts: Facts) -> str:
    """Return the command that installs the torchvision of the torch that is installed."""
    torch_version = facts.found("torch").get("version") or facts.version("torch")
    requirement = torchvision_of(torch_version)
    if requirement is None or has_pinned_wheel(facts):
        return cure_of_torch(facts)
    # A build that the package index does not have says so in the version of its metadata.
    build = facts.version("torch").partition("+")[2]
    if build:
        _, torchvision = _of_build(torch_version.partition("+")[0], build)
        command = facts.pip_install("--force-reinstall", "--no-deps", torchvision)
        return command + _WHERE.format(build)
    return facts.pip_install("--force-reinstall", "--no-deps", requirement)


def cure_of_torch(facts: Facts, build: str | None = None) -> str:
    """Return the command that installs torch and its torchvision, anew if they are there.

    Args:
        facts: of the environment.
        build: of torch, such as "cu118"; None for that of the package index.
    """
    installed = facts.version("torch").partition("+")[0]
    if has_pinned_wheel(facts) or (not installed and facts.python[:2] == (3, 10)):
        number = PINNED["torch"].partition("==")[2]
        requirements = [PINNED["torch"], PINNED["torchvision"], PINNED["numpy"]]
    else:
        number, torchvision = installed, torchvision_of(installed)
        # Without a word about numpy, pip may exchange it too.
        numpy = [f"numpy=={facts.version('numpy')}"] if facts.version("numpy") else []
        pair = [f"torch=={number}", torchvision] if torchvision else ["torch", "torchvision"]
        requirements = [*pair, *numpy]
    if build and number:
        return facts.pip_install(*_of_build(number, build)) + _WHERE.format(build)
    # Else pip leaves a package alone, broken or not.
    force = ["--force-reinstall"] if installed and installed == number else []
    return facts.pip_install(*force, *requirements)


def _of_build(number: str, build: str) -> tuple[str, str]:
    """Return the requirements of a build of torch and of its torchvision."""
    major, minor, *rest = version_numbers(number)
    torchvision = torchvision_of(number) or "torchvision"
    if (major, minor) >= (2, 1):
        # Since then both count their corrections alike.
        torchvision = torchvision.replace("*", f"{rest[0] if rest else 0}+{build}")
    return f"torch=={number}+{build}", torchvision


def cure_of_detectron2(facts: Facts) -> str:
    """Return the command that installs Detectron2 for this Python and this torch."""
    torch_numbers = version_numbers(facts.version("torch"))
    if facts.python[:2] == (3, 10) and torch_numbers in ((), (2, 3, 1)):
        pins = [PINNED[name] for name in ("torch", "torchvision", "numpy", "setuptools")]
        force = ("--force-reinstall",) if has_pinned_wheel(facts) else ()
        return facts.pip_install(*force, PINNED["sal-detectron2"], *pins)
    # Its setup.py imports torch, which pip would hide from it.
    return (
        f"{facts.pip_install('--no-build-isolation', OFFICIAL)}; or, without a compiler: "
        "bash tools/make_venv.sh .venv-modern modern"
    )


def _reinstall(facts: Facts, probe: str) -> str:
    if probe.startswith("torchvision"):
        return cure_of_torchvision(facts)
    if probe.startswith("torch"):
        return cure_of_torch(facts)
    if probe.startswith("detectron2"):
        return cure_of_detectron2(facts)
    if probe == "ocr_panoptic":
        # Not "cd": the interpreter may be named as it is called from here.
        return facts.pip_install("--no-deps", "-e", facts.repository)
    name = DISTRIBUTIONS.get(probe, probe)
    if name in PINNED:
        return facts.pip_install("--force-reinstall", "--no-deps", _requirement(facts, name))
    # Whichever of several that give this module is there.
    if probe == "cv2":
        name = next((key for key in facts.installed if key.startswith("opencv-")), name)
    return facts.pip_install("--force-reinstall", "--no-cache-dir", "--no-deps", name)


def _requirement(facts: Facts, name: str) -> str:
    """Return what to install of a package that Detectron2's operators are particular about."""
    version = facts.version(name)
    if has_pinned_wheel(facts) or facts.python[:2] == (3, 10) or name == "panopticapi-lite":
        return PINNED[name]
    return f"{name}=={version}" if version else name


def _setuptools(facts: Facts, probe: str) -> str:
    return facts.pip_install(PINNED["setuptools"])


def _pillow(facts: Facts, probe: str) -> str:
    return facts.pip_install("pillow<10")


def _old_numpy(facts: Facts, probe: str) -> str:
    return facts.pip_install("numpy<1.24")


def _numpy(facts: Facts, probe: str) -> str:
    if version_numbers(facts.version("numpy"))[:1] >= (2,):
        return facts.pip_install(PINNED["numpy"])
    return _reinstall(facts, probe)


def _headless(facts: Facts, probe: str) -> str:
    others = [name for name in facts.installed if name.startswith("opencv-")] or ["opencv-python"]
    headless = facts.pip_install("opencv-python-headless")
    return f"{facts.pip_uninstall(*others)} && {headless}"


# What a message says, what it means, and its cure; the first that is found counts.
_KNOWN: tuple[tuple[str, str, Callable[[Facts, str], str]], ...] = (
    (
        r"No module named '(pkg_resources|distutils)'",
        "setuptools 82 has no pkg_resources any more, Python 3.12 no distutils",
        _setuptools,
    ),
    (
        r"module 'PIL\.Image' has no attribute",
        "Pillow 10 removed what Detectron2 v0.6 uses",
        _pillow,
    ),
    (
        r"module 'numpy' has no attribute '(bool|int|float|object|str|complex)'",
        "numpy 1.24 removed what an old package uses",
        _old_numpy,
    ),
    (
        r"numpy\.dtype size changed|numpy\.u?func size changed|_ARRAY_API not found"
        r"|compiled using NumPy 1|core\.multiarray failed to import|Numpy is not available"
        r"|module compiled against A[BP]I version|numpy[._]core.*umath failed to import",
        "it was compiled against another numpy",
        _numpy,
    ),
    (
        r"lib(GL|EGL|gthread-2\.0|glib-2\.0|SM|Xext|Xrender|xcb)\S*: cannot open shared object",
        "opencv-python needs libraries of a desktop, opencv-python-headless does not",
        _headless,
    ),
    (
        r"torchvision::nms|compiled with different CUDA|Couldn't load custom C\+\+ ops"
        r"|partially initialized module 'torchvision'",
        "torchvision was built for another torch",
        lambda facts, probe: cure_of_torchvision(facts),
    ),
    (
        r"undefined symbol"
        r"|lib(torch|c10|cudart|cublas|cudnn|nccl|nvrtc|cusparse)\S*: cannot open shared object",
        "its compiled part was built for another torch or CUDA",
        _reinstall,
    ),
    (
        r"(GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found",
        "it was built for a newer system than this one",
        _reinstall,
    ),
)


def cure_of_import(facts: Facts, probe: str, attempt: Attempt) -> tuple[str, str]:
    """Return what the failure of a probe means, "" if nobody knows, and the command to cure it.

    Args:
        facts: of the environment.
        probe: that failed.
        attempt: what came of it.
    """
    if attempt.state in (CRASHED, HUNG):
        return "a compiled part of it does not fit the rest", _reinstall(facts, probe)
    for pattern, meaning, cure in _KNOWN:
        if re.search(pattern, attempt.error):
            return meaning, cure(facts, probe)
    if attempt.missing is not None:
        return _missing(facts, probe, attempt.missing.split(".")[0])
    if probe == "ocr_panoptic":
        return "", REPORT_IT
    return "", _reinstall(facts, probe)


def _missing(facts: Facts, probe: str, module: str) -> tuple[str, str]:
    if module == "detectron2":
        python = ".".join(map(str, facts.python[:2]))
        wheel = "the pinned wheel, with compiled operators, is for CPython 3.10"
        meaning = "" if facts.python[:2] == (3, 10) else f"this is Python {python}; {wheel}"
        return meaning, cure_of_detectron2(facts)
    if module == "torch":
        return "", cure_of_torch(facts)
    if module == "torchvision":
        return "", cure_of_torchvision(facts)
    if module == "ocr_panoptic":
        return "this project is not installed", _reinstall(facts, module)
    name = DISTRIBUTIONS.get(module) or _OTHER_NAMES.get(module, module)
    requirement = _requirement(facts, name) if name in PINNED else name
    # Pip believes that it is there: some of its files were removed.
    options = ["--force-reinstall"] if facts.version(name) else []
    # It asks for numpy 1, and runs on numpy 2.
    if options or (name == "panopticapi-lite" and version_numbers(facts.version("numpy")) >= (2,)):
        options.append("--no-deps")
    return "", facts.pip_install(*options, requirement)
