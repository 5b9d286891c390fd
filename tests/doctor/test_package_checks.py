"""Checks of Python and its packages, on facts that are given."""

import ast
import re
from dataclasses import replace

import pytest

from ocr_panoptic.doctor.attempts import CRASHED, HUNG
from ocr_panoptic.doctor.cures import OFFICIAL, PINNED, torchvision_of
from ocr_panoptic.doctor.examination import CHECKS, run_checks
from ocr_panoptic.doctor.facts import Distribution, version_numbers
from ocr_panoptic.doctor.finding import INFO, PROBLEM
from ocr_panoptic.doctor.probes import DISTRIBUTIONS

from ..conftest import REPOSITORY
from .healthy import SITE, healthy, with_error, with_found, with_versions

PIP = "python -m pip install "


def findings(facts, status=None):
    return {f.id: f for f in run_checks(facts) if status is None or f.status == status}


def problem(facts, name):
    """Return the one problem that there is."""
    problems = findings(facts, PROBLEM)
    assert list(problems) == [name]
    return problems[name]


def test_nothing_hinders_in_the_pinned_environment():
    found = findings(healthy())
    assert {f.status for f in found.values()} == {"ok", INFO}
    assert {name for name, f in found.items() if f.status == INFO} == {"sampler-seed", "cpu-only"}
    # Every check says something there, but those of what cannot be seen.
    silent = [check.__name__ for check in CHECKS if not list(check(healthy()))]
    assert silent == [
        *("check_environment", "check_panopticapi", "check_twice", "check_gpus"),
        *("check_affinity", "check_open_files", "check_host"),
    ]


def listed(name):
    """Return a list of pyproject.toml; Python 3.10 cannot read it itself."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    return ast.literal_eval(re.search(rf"^{name} = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)[1])


def test_the_pins_are_those_of_the_project():
    assert sorted(PINNED.values()) == sorted(listed("detectron2"))


def test_all_that_the_project_needs_is_tried():
    names = {requirement.partition(";")[0] for requirement in listed("dependencies")}
    assert names <= set(DISTRIBUTIONS.values())


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"python": (3, 9, 1)}, "CPython 3.9.1, expected 3.10 or later"),
        ({"implementation": "PyPy"}, "PyPy 3.10.13, torch is for CPython"),
    ],
)
def test_a_python_that_torch_is_not_for(changes, found):
    told = problem(healthy(**changes), "python")
    assert told.found == found
    assert "bash tools/make_venv.sh .venv" in told.cure


def test_another_working_copy_is_imported():
    facts = with_found(healthy(), "ocr_panoptic", file="/other/ocr_panoptic/__init__.py")
    told = problem(facts, "this-package")
    assert told.found.startswith("ocr_panoptic is imported from /other, not from /repository")
    assert told.cure == f"{PIP}--no-deps -e /repository"


def test_a_package_that_is_missing():
    facts = with_error(healthy(), "tabulate", "ModuleNotFoundError: ...", missing="tabulate")
    facts = with_versions(facts, tabulate=None)
    assert problem(facts, "import-tabulate").cure == f"{PIP}tabulate"


def test_pip_is_told_to_install_what_it_believes_is_there():
    facts = with_error(healthy(), "tabulate", "ModuleNotFoundError: ...", missing="tabulate")
    told = problem(facts, "import-tabulate")
    assert told.cure == f"{PIP}--force-reinstall --no-deps tabulate"


@pytest.mark.parametrize(
    ("installer", "cure"),
    [
        ("uv", "uv pip install --python python tabulate"),
        ("", "python -m ensurepip && python -m pip install tabulate"),
    ],
)
def test_environments_without_pip(installer, cure):
    facts = with_versions(healthy(installer=installer), tabulate=None)
    facts = with_error(facts, "tabulate", "ModuleNotFoundError: ...", missing="tabulate")
    assert problem(facts, "import-tabulate").cure == cure


@pytest.mark.parametrize(
    ("probe", "missing", "cure"),
    [
        ("cv2", "cv2", "opencv-python"),
        ("PIL", "PIL", "pillow"),
        ("numpy", "numpy", '"numpy<2"'),
        ("panopticapi", "panopticapi", "panopticapi-lite==0.2.0"),
        # What a package needs in turn.
        ("detectron2", "hydra.core", "hydra-core"),
        ("tensorboard", "google.protobuf", "protobuf"),
        ("fvcore", "yacs", "yacs"),
        ("torch", "torch", 'torch==2.3.1 torchvision==0.18.1 "numpy<2"'),
        ("ocr_panoptic", "ocr_panoptic", None),
    ],
)
def test_modules_are_not_always_called_like_what_installs_them(probe, missing, cure):
    facts = with_versions(healthy(), **dict.fromkeys([DISTRIBUTIONS[probe].replace("-", "_")]))
    facts = with_error(
        facts, probe, f"ModuleNotFoundError: No module named {missing}", missing=missing
    )
    told = findings(facts)[f"import-{probe}"]
    assert told.cure == (f"{PIP}{cure}" if cure else f"{PIP}--no-deps -e /repository")
    assert told.detail == "a traceback"


@pytest.mark.parametrize(
    ("probe", "error", "meaning", "cure"),
    [
        (
            "detectron2",
            "AttributeError: module 'PIL.Image' has no attribute 'LINEAR'",
            "Pillow 10 removed what Detectron2 v0.6 uses",
            f'{PIP}"pillow<10"',
        ),
        (
            "fvcore",
            "AttributeError: module 'numpy' has no attribute 'bool'.",
            "numpy 1.24 removed what an old package uses",
            f'{PIP}"numpy<1.24"',
        ),
        (
            "tensorboard",
            "ModuleNotFoundError: No module named 'distutils'",
            "setuptools 82 has no pkg_resources any more, Python 3.12 no distutils",
            f'{PIP}"setuptools<81"',
        ),
        (
            "pycocotools",
            "ValueError: numpy.dtype size changed, may indicate binary incompatibility",
            "it was compiled against another numpy",
            f"{PIP}--force-reinstall --no-cache-dir --no-deps pycocotools",
        ),
        (
            "cv2",
            "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
            "opencv-python needs libraries of a desktop, opencv-python-headless does not",
            "python -m pip uninstall -y opencv-python && python -m pip install "
            "opencv-python-headless",
        ),
        (
            "torchvision",
            "RuntimeError: operator torchvision::nms does not exist",
            "torchvision was built for another torch",
            f'{PIP}--force-reinstall torch==2.3.1 torchvision==0.18.1 "numpy<2"',
        ),
        (
            "detectron2._C",
            "ImportError: _C.so: undefined symbol: _ZN3c10ltERKNS_6SymIntE",
            "its compiled part was built for another torch or CUDA",
            f"{PIP}--force-reinstall sal-detectron2==0.7.2 torch==2.3.1 torchvision==0.18.1 "
            '"numpy<2" "setuptools<81"',
        ),
        (
            "torch",
            "OSError: libcudnn.so.8: cannot open shared object file: No such file or directory",
            "its compiled part was built for another torch or CUDA",
            f'{PIP}--force-reinstall torch==2.3.1 torchvision==0.18.1 "numpy<2"',
        ),
        (
            "shapely",
            "ImportError: /lib/libm.so.6: version `GLIBC_2.38' not found",
            "it was built for a newer system than this one",
            f"{PIP}--force-reinstall --no-cache-dir --no-deps shapely",
        ),
        (
            "setuptools-of-another",
            "RuntimeError: nobody knows this",
            "",
            f"{PIP}--force-reinstall --no-cache-dir --no-deps setuptools-of-another",
        ),
    ],
)
def test_known_messages_of_imports(probe, error, meaning, cure):
    told = problem(with_error(healthy(), probe, error), f"import-{probe}")
    assert told.found == f"{probe}: {error}" + (f" ({meaning})" if meaning else "")
    assert told.cure == cure


def test_panopticapi_lite_asks_for_numpy_1_and_must_not_get_it():
    facts = with_versions(healthy(python=(3, 12, 1)), numpy="2.5.0", panopticapi_lite=None)
    facts = with_error(facts, "panopticapi", "ModuleNotFoundError: ...", missing="panopticapi")
    told = findings(facts)["import-panopticapi"]
    assert told.cure == f"{PIP}--no-deps panopticapi-lite==0.2.0"


def test_compiled_against_numpy_1_under_numpy_2():
    facts = with_versions(healthy(), numpy="2.2.6")
    facts = with_error(facts, "torch-numpy", "RuntimeError: Numpy is not available")
    told = problem(facts, "import-torch-numpy")
    assert told.found.endswith("(it was compiled against another numpy)")
    assert told.cure == f'{PIP}"numpy<2"'


def test_an_error_of_this_project_is_reported():
    told = problem(with_error(healthy(), "ocr_panoptic", "NameError: x"), "import-ocr_panoptic")
    assert told.cure.endswith("report it with the traceback of --json FILE")


@pytest.mark.parametrize("state", [CRASHED, HUNG])
def test_crashes(state):
    facts = with_error(healthy(), "shapely", "the process ended with SIGSEGV", state)
    told = problem(facts, "import-shapely")
    assert "(a compiled part of it does not fit the rest)" in told.found
    assert told.cure == f"{PIP}--force-reinstall --no-cache-dir --no-deps shapely"


def test_nobody_has_to_have_the_fastest_counter():
    error = "ModuleNotFoundError: No module named 'hotcoco'"
    facts = with_error(healthy(), "hotcoco", error, missing="hotcoco")
    told = findings(facts)["import-hotcoco"]
    assert told.status == INFO
    assert "only TEST.PANOPTIC.COUNTER hotcoco needs it" in told.found
    assert told.cure.startswith(PIP)
    assert told.cure.endswith(" hotcoco")
    assert not findings(facts, PROBLEM)


def test_what_was_not_tried_is_a_note_with_its_root():
    facts = with_error(healthy(), "torch", "OSError: broken")
    problem(facts, "import-torch")
    told = findings(facts)["without-torch"]
    assert told.status == INFO
    assert told.found.startswith("cannot be tried without torch: torch-numpy, torch-cuda, torchv")


def test_a_failure_that_is_another_s_is_told_once():
    facts = with_error(healthy(), "numpy", "ImportError: the same")
    facts = with_error(facts, "torch", "ImportError: the same")
    problem(facts, "import-numpy")
    assert " shapely, pycocotools, panopticapi, hotcoco, torch, " in (
        findings(facts)["without-numpy"].found
    )


def test_what_was_not_tried_and_is_not_there_is_missing():
    facts = with_error(healthy(), "numpy", "ImportError: broken")
    origins = {module: file for module, file in facts.origins.items() if module != "cv2"}
    facts = with_versions(replace(facts, origins=origins), opencv_python=None)
    assert list(findings(facts, PROBLEM)) == ["import-numpy", "import-cv2"]
    assert findings(facts)["import-cv2"].cure == f"{PIP}opencv-python"


def test_another_environment_than_the_project_s(tmp_path):
    facts = healthy(origins={}, repository=str(tmp_path))
    facts = with_found(facts, "ocr_panoptic", file=str(tmp_path / "ocr_panoptic/__init__.py"))
    told = problem(facts, "environment")
    assert (
        told.found
        == f"{len(DISTRIBUTIONS)} of {len(DISTRIBUTIONS)} packages are missing from /venv"
    )
    assert told.cure == "make an environment with all of them: bash tools/make_venv.sh .venv"
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert str(python) in problem(facts, "environment").cure


class TestDetectron2IsMissing:
    def facts(self, **changes):
        facts = with_versions(healthy(**changes), sal_detectron2=None)
        return with_error(facts, "detectron2", "ModuleNotFoundError: ...", missing="detectron2")

    def test_the_wheel_fits(self):
        told = problem(self.facts(), "import-detectron2")
        assert told.cure == (
            f'{PIP}sal-detectron2==0.7.2 torch==2.3.1 torchvision==0.18.1 "numpy<2" "setuptools<81"'
        )

    def test_there_is_no_wheel_for_this_python(self):
        told = problem(self.facts(python=(3, 12, 1)), "import-detectron2")
        assert "this is Python 3.12; the pinned wheel" in told.found
        assert told.cure.startswith(f"{PIP}--no-build-isolation {OFFICIAL}")
        assert "tools/make_venv.sh .venv-modern modern" in told.cure

    def test_there_is_no_wheel_for_this_torch(self):
        told = problem(with_versions(self.facts(), torch="2.5.1"), "import-detectron2")
        assert told.cure.startswith(f"{PIP}--no-build-isolation {OFFICIAL}")


class TestPkgResources:
    def facts(self):
        facts = with_versions(healthy(), setuptools="82.0.1")
        error = "ModuleNotFoundError: No module named 'pkg_resources'"
        facts = with_error(facts, "pkg_resources", error, missing="pkg_resources")
        return with_error(facts, "detectron2.model_zoo", error, missing="pkg_resources")

    def test_the_model_zoo_needs_it(self):
        told = problem(self.facts(), "pkg-resources")
        assert told.found.startswith("setuptools 82.0.1: pkg_resources: ModuleNotFoundError")
        assert "detectron2.model_zoo needs it" in told.found
        assert told.cure == f'{PIP}"setuptools<81"'

    def test_a_newer_detectron2_does_not(self):
        facts = with_found(self.facts(), "detectron2.model_zoo")
        assert not findings(facts, PROBLEM)
        assert findings(facts)["pkg-resources"].status == INFO

    def test_another_setuptools_has_it(self):
        facts = with_versions(healthy(), setuptools="82.0.1")
        facts = with_found(facts, "pkg_resources", file="/elsewhere/pkg_resources/__init__.py")
        told = findings(facts)["pkg-resources"]
        assert (told.status, told.cure) == (INFO, f'{PIP}"setuptools<81"')

    def test_another_failure_of_the_model_zoo_is_its_own(self):
        facts = with_error(healthy(), "detectron2.model_zoo", "RuntimeError: not available")
        problem(facts, "import-detectron2.model_zoo")


class TestTorchvision:
    @pytest.mark.parametrize(
        ("torch", "torchvision"),
        [
            ("1.13.1", "0.14"),
            ("2.0.1", "0.15"),
            ("2.3.1+cu121", "0.18"),
            ("2.6.0", "0.21"),
            ("2.11.0", "0.26"),
        ],
    )
    def test_pairs(self, torch, torchvision):
        assert torchvision_of(torch) == f"torchvision=={torchvision}.*"

    @pytest.mark.parametrize("torch", ["", "unknown", "1.0", "2"])
    def test_unknown(self, torch):
        assert torchvision_of(torch) is None

    def test_of_another_torch(self):
        facts = with_versions(healthy(), sal_detectron2=None, detectron2="0.6", torch="2.5.1")
        facts = with_found(facts, "torch", version="2.5.1+cu124", cuda="12.4")
        told = problem(facts, "torchvision")
        assert told.found.endswith("made for this torch is torchvision 0.20.*")
        assert told.cure == (f'{PIP}--force-reinstall --no-deps "torchvision==0.20.*"')

    def test_a_build_of_another_index_is_kept(self):
        facts = with_versions(healthy(), sal_detectron2=None, detectron2="0.6", torch="2.5.1+cpu")
        facts = with_found(facts, "torch", version="2.5.1+cpu")
        told = findings(facts)["torchvision"]
        assert told.cure == (
            f"{PIP}--force-reinstall --no-deps torchvision==0.20.1+cpu, "
            "with the --extra-index-url that pytorch.org/get-started gives for cpu"
        )


@pytest.mark.parametrize(("version", "status"), [("1.26.4", "ok"), ("2.2.6", INFO)])
def test_numpy_2(version, status):
    told = findings(with_found(healthy(), "numpy", version=version))["numpy-2"]
    assert told.status == status
    assert ("np.float64" in told.found) == (status == INFO)


@pytest.mark.parametrize(
    ("version", "status"), [("2.3.1", "ok"), ("2.6.0", INFO), ("2.11.0", INFO)]
)
def test_weights_only(version, status):
    told = findings(with_found(healthy(), "torch", version=version))["weights-only"]
    assert told.status == status
    assert told.found.endswith("this project reads checkpoints with a safe unpickler of its own")


class TestOpenCV:
    def test_twice(self):
        facts = with_versions(healthy(), opencv_python="4.11.0.86", opencv_python_headless="4.9")
        told = problem(facts, "opencv")
        assert "opencv-python 4.11.0.86 and opencv-python-headless 4.9" in told.found
        assert told.cure == (
            "python -m pip uninstall -y opencv-python opencv-python-headless && "
            "python -m pip install opencv-python==4.11.0.86"
        )

    def test_headless_alone(self):
        facts = with_versions(healthy(), opencv_python=None, opencv_python_headless="4.9")
        assert findings(facts)["opencv"].found == "opencv-python-headless 4.9 alone gives cv2"


def test_panopticapi_twice():
    told = findings(with_versions(healthy(), panopticapi="0.1"))["panopticapi"]
    assert (told.status, told.cure) == (INFO, "python -m pip uninstall -y panopticapi")


class TestShadows:
    def facts(self):
        facts = healthy()
        return replace(facts, origins={**facts.origins, "fvcore": "/mine/fvcore/__init__.py"})

    def test_something_is_in_front(self):
        told = problem(self.facts(), "shadowed-fvcore")
        assert told.found == f"fvcore: it is /mine/fvcore, not fvcore 1.0 of {SITE}"
        assert told.cure == "take /mine out of PYTHONPATH, or rename /mine/fvcore"

    def test_a_failure_without_a_known_cause_is_its_fault(self):
        facts = with_error(self.facts(), "fvcore", "ImportError: what?")
        problems = findings(facts, PROBLEM)
        assert problems["import-fvcore"].cure == problems["shadowed-fvcore"].cure

    def test_a_known_cause_is_told_too(self):
        facts = with_error(self.facts(), "fvcore", "module 'numpy' has no attribute 'bool'")
        assert findings(facts)["import-fvcore"].cure == f'{PIP}"numpy<1.24"'

    def test_a_module_of_one_file(self):
        facts = healthy()
        facts = replace(facts, origins={**facts.origins, "tabulate": f"{SITE}/tabulate.py"})
        assert not findings(facts, PROBLEM)

    def test_a_working_copy_is_where_it_is(self):
        facts = healthy()
        origins = {**facts.origins, "ocr_panoptic": "/repository/ocr_panoptic/__init__.py"}
        assert not findings(replace(facts, origins=origins), PROBLEM)


class TestTwice:
    def facts(self, other):
        facts = healthy()
        entries = (Distribution("numpy", "1.26.4", SITE), Distribution("numpy", "2.0.0", other))
        return replace(facts, installed={**facts.installed, "numpy": entries})

    def test_in_one_folder(self):
        told = problem(self.facts(SITE), "twice-numpy")
        uninstall = "python -m pip uninstall -y numpy"
        assert told.cure == f"{uninstall} && {uninstall} && {PIP}numpy==1.26.4"

    def test_in_two_folders(self):
        facts = self.facts("/usr/lib/python3/dist-packages")
        assert not findings(facts, PROBLEM)
        assert findings(facts)["twice-numpy"].status == INFO


def test_a_stray_package_called_tools():
    told = findings(healthy(tools_package=f"{SITE}/tools/__init__.py"))["stray-tools"]
    assert told.status == INFO
    assert f"sal-detectron2's wheel put a top-level package 'tools' at {SITE}/tools" in told.found


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.3.1+cu121", (2, 3, 1)), ("0.1.5.post20221221", (0, 1, 5)), ("", ()), ("main", ())],
)
def test_version_numbers(version, numbers):
    assert version_numbers(version) == numbers
