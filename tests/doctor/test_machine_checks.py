"""Checks of the machine on facts that are given, and what this one tells."""

import os
import resource

import pytest

from ocr_panoptic.doctor.finding import INFO, PROBLEM
from ocr_panoptic.doctor.machine import Disk, examine_machine
from ocr_panoptic.doctor.machine_checks import gibibytes
from ocr_panoptic.parallel import available_cpus

from .healthy import GIBIBYTE, healthy, with_found, with_machine
from .test_package_checks import findings, problem

DATA = {"DETECTRON2_DATASETS": "/data"}


@pytest.mark.parametrize(("platform", "status"), [("darwin", INFO), ("win32", PROBLEM)])
def test_other_systems(platform, status):
    told = findings(with_machine(healthy(), platform=platform))["system"]
    assert told.status == status
    assert ("WSL" in told.cure) == (platform == "win32")


@pytest.mark.parametrize(
    ("threads", "usable", "found", "cure"),
    [
        (64, 4, "they wait for each other", "export OMP_NUM_THREADS=4"),
        (2, 1.5, "they wait for each other", "export OMP_NUM_THREADS=1"),
        (1, 4, "the others are idle", "export OMP_NUM_THREADS=4"),
    ],
)
def test_threads_that_do_not_suit_the_cores(threads, usable, found, cure):
    facts = with_machine(with_found(healthy(), "torch", threads=threads), usable_cores=usable)
    told = findings(facts)["threads"]
    assert told.status == INFO
    assert found in told.found
    assert told.cure == cure


@pytest.mark.parametrize(("threads", "usable"), [(4, 4), (1, 0.5), (1, 1)])
def test_threads_that_suit_the_cores(threads, usable):
    facts = with_machine(with_found(healthy(), "torch", threads=threads), usable_cores=usable)
    assert findings(facts)["threads"].status == "ok"


def test_a_number_of_threads_that_is_none():
    told = findings(healthy(environment={**DATA, "OMP_NUM_THREADS": "many"}))["threads"]
    assert "OMP_NUM_THREADS is 'many'" in told.found
    # One for each level of nested regions is a number too.
    assert (
        findings(healthy(environment={**DATA, "OMP_NUM_THREADS": "4,1"}))["threads"].status == "ok"
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("GOMP_CPU_AFFINITY", "0-3", True),
        ("OMP_PROC_BIND", "close", True),
        ("OMP_PROC_BIND", "false", False),
        ("KMP_AFFINITY", "disabled", False),
    ],
)
def test_bound_threads(name, value, told):
    found = findings(healthy(environment={**DATA, name: value}))
    assert ("affinity" in found) == told
    if told:
        assert found["affinity"].cure == f"unset {name}"


@pytest.mark.parametrize(
    ("free", "status"),
    [(64 * 2**20, PROBLEM), (GIBIBYTE, INFO), (8 * GIBIBYTE, "ok")],
)
def test_shared_memory(free, status):
    facts = with_machine(healthy(), shared_memory_free=free, shared_memory=free)
    told = findings(facts)["shared-memory"]
    assert told.status == status
    assert ("--shm-size=8g" in told.cure) == (status != "ok")


def test_a_system_without_shared_memory_of_its_own():
    facts = with_machine(healthy(), shared_memory_free=None, shared_memory=None)
    assert "shared-memory" not in findings(facts)


@pytest.mark.parametrize(
    ("disk", "status", "text"),
    [
        (Disk("out", 500 * GIBIBYTE, False), PROBLEM, "output folder out cannot be written to"),
        (Disk("out", GIBIBYTE // 2, True), PROBLEM, "512 MiB free, a few checkpoints fill it"),
        (Disk("out", 10 * GIBIBYTE, True), INFO, "10 GiB free; a checkpoint of R-50 takes 0.4 GiB"),
        (Disk("out", 500 * GIBIBYTE, True), "ok", "output folder out: 500 GiB free"),
    ],
)
def test_the_disk_of_runs(disk, status, text):
    told = findings(with_machine(healthy(), output=disk))["disk-output"]
    assert told.status == status
    assert text in told.found
    assert bool(told.cure) == (status != "ok")


def test_the_disk_of_downloads():
    told = findings(with_machine(healthy(), cache=Disk("/cache", GIBIBYTE, False)))["disk-cache"]
    assert told.status == INFO
    assert told.cure.startswith("export FVCORE_CACHE=")
    told = findings(with_machine(healthy(), cache=Disk("/cache", 2**20, True)))["disk-cache"]
    assert (told.status, told.found) == (INFO, "/cache, for downloads: 1 MiB free")


def test_no_folder_for_temporary_files():
    told = problem(with_machine(healthy(), temporary=None), "disk-temporary")
    assert told.cure.startswith("export TMPDIR=")


@pytest.mark.parametrize(
    ("limit", "told"), [(256, True), (1024, False), (-1, False), (None, False)]
)
def test_open_files(limit, told):
    found = findings(with_machine(healthy(), open_files=limit))
    assert ("open-files" in found) == told


def test_a_machine_whose_name_has_no_address():
    told = findings(with_machine(healthy(), host_resolves=False))["host-name"]
    assert told.status == INFO
    assert "GLOO_SOCKET_IFNAME=lo" in told.cure


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "DETECTRON2_DATASETS is not set: ./datasets, without COCO and Shapes"),
        (
            {"DETECTRON2_DATASETS": "/no"},
            "DETECTRON2_DATASETS is /no, which is no folder",
        ),
        ({"DETECTRON2_DATASETS": "/"}, "DETECTRON2_DATASETS is /, without COCO and Shapes"),
    ],
)
def test_data_sets(environment, text):
    told = findings(healthy(environment=environment, datasets=()))["datasets"]
    assert (told.status, told.found) == (INFO, text)
    assert (
        findings(healthy())["datasets"].found
        == "DETECTRON2_DATASETS is /data; there: COCO panoptic"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "unknown"),
        (64 * 2**20, "64 MiB"),
        (int(1.5 * GIBIBYTE), "1.5 GiB"),
        (40 * GIBIBYTE, "40 GiB"),
    ],
)
def test_bytes_for_people(number, text):
    assert gibibytes(number) == text


def test_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    machine = examine_machine(tmp_path / "a/b")
    assert machine.cpu
    assert 0 < machine.usable_cores <= available_cpus() <= machine.cores
    assert machine.memory > machine.memory_available > 0
    assert machine.shared_memory >= machine.shared_memory_free
    assert machine.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert machine.output.path == str(tmp_path / "a/b")
    assert machine.output.writable
    assert machine.output.free > 0
    assert machine.cache.path == str(tmp_path / "cache")
    # It is only looked at.
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to():
    # Nobody may make files there, root neither.
    assert not examine_machine("/proc/runs").output.writable


def test_no_usable_temporary_folder(monkeypatch, tmp_path):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert examine_machine(tmp_path).temporary is None


def test_a_container_s_quota(monkeypatch, tmp_path):
    files = {"cpu.max": "150000 100000", "memory.max": str(GIBIBYTE)}
    monkeypatch.setattr(
        "ocr_panoptic.doctor.machine._container_file", lambda name: files.get(name, "")
    )
    machine = examine_machine(tmp_path)
    assert machine.usable_cores == min(1.5, available_cpus())
    assert machine.memory == GIBIBYTE
    files = {"cpu.max": "max 100000", "memory.max": "max"}
    assert examine_machine(tmp_path).usable_cores == available_cpus()
    files = {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}
    assert examine_machine(tmp_path).usable_cores == 0.5
    files = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    assert examine_machine(tmp_path).usable_cores == available_cpus()


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("echo 'NVIDIA A100, 535.104.05, 40960 MiB'", ("NVIDIA A100, 535.104.05, 40960 MiB",)),
        ("echo 'NVIDIA-SMI has failed'; exit 9", ()),
    ],
)
def test_the_tool_of_the_driver(monkeypatch, tmp_path, script, lines):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert examine_machine(tmp_path).nvidia == lines
