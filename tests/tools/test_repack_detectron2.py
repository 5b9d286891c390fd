"""repack_detectron2.py: what it leaves out, what pip then reads, and what it refuses."""

import base64
import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from email.parser import HeaderParser

import pytest

from ..conftest import REPOSITORY, load_tool

TOOL = "tools/stack/repack_detectron2.py"
OLD, NEW = "sal_detectron2-0.7.2.dist-info", "sal_detectron2-0.7.2+noext.dist-info"
METADATA = """\
Metadata-Version: 2.1
Name: sal-detectron2
Version: 0.7.2
Requires-Dist: Pillow>=7.1
Requires-Dist: numpy<2
Requires-Dist: numpydoc<2; extra == "dev"

Version: 0.7.2 is in this text too, numpy<2 as well.
"""
FILES = {
    "detectron2/__init__.py": "__version__ = '0.7.2'\n",
    "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "operators",
    "detectron2/layers/_Csomething.py": "kept = True\n",
    "detectron2/model_zoo/configs/one, two.yaml": "MODEL: {}\n",
    "tools/__init__.py": "",
    "tools/train_net.py": "stray = True\n",
    f"{OLD}/METADATA": METADATA,
    f"{OLD}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp310-cp310-linux_x86_64\n",
    f"{OLD}/top_level.txt": "detectron2\ntools\n",
    f"{OLD}/RECORD": "left to the tool\n",
}


def write_wheel(folder, files):
    path = folder / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def tool():
    return load_tool(TOOL)


@pytest.fixture
def repacked(tool, tmp_path, capsys):
    assert tool.main([str(write_wheel(tmp_path, FILES)), str(tmp_path / "out")]) == 0
    path = tmp_path / "out/sal_detectron2-0.7.2+noext-py3-none-any.whl"
    assert capsys.readouterr().out == f"{path}\n"
    assert list(path.parent.iterdir()) == [path]
    return path


def test_operators_and_the_stray_package_are_left_out(repacked):
    with zipfile.ZipFile(repacked) as archive:
        contents = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(contents) == {
        *("detectron2/__init__.py", "detectron2/layers/_Csomething.py"),
        "detectron2/model_zoo/configs/one, two.yaml",
        *(f"{NEW}/{name}" for name in ("METADATA", "WHEEL", "top_level.txt", "RECORD")),
    }
    kept = {name: text for name, text in contents.items() if name.startswith("detectron2/")}
    assert all(FILES[name] == text for name, text in kept.items())
    assert contents[f"{NEW}/top_level.txt"] == "detectron2\n"
    wheel = HeaderParser().parsestr(contents[f"{NEW}/WHEEL"])
    assert (wheel["Root-Is-Purelib"], wheel.get_all("Tag")) == ("true", ["py3-none-any"])


def test_the_metadata_ask_for_any_numpy(repacked):
    with zipfile.ZipFile(repacked) as archive:
        text = archive.read(f"{NEW}/METADATA").decode()
    headers = HeaderParser().parsestr(text)
    assert headers.get_all("Version") == ["0.7.2+noext"]
    wanted = ["Pillow>=7.1", "numpy", 'numpydoc<2; extra == "dev"']
    assert headers.get_all("Requires-Dist") == wanted
    assert headers.get_payload() == HeaderParser().parsestr(METADATA).get_payload()


def test_the_record_has_every_file_with_its_hash_and_size(repacked):
    with zipfile.ZipFile(repacked) as archive:
        rows = list(csv.reader(io.StringIO(archive.read(f"{NEW}/RECORD").decode())))
        assert [name for name, _, _ in rows] == archive.namelist()
        assert rows.pop() == [f"{NEW}/RECORD", "", ""]
        for name, digest, size in rows:
            content = archive.read(name)
            algorithm, _, encoded = digest.partition("=")
            assert algorithm == "sha256"
            assert base64.urlsafe_b64decode(encoded + "=") == hashlib.sha256(content).digest()
            assert int(size) == len(content)
            # Readable by others too, once unpacked.
            assert archive.getinfo(name).external_attr >> 16 == 0o644


def test_the_same_wheel_gives_the_same_bytes(tool, repacked, tmp_path):
    first = repacked.read_bytes()
    assert tool.repack(write_wheel(tmp_path, FILES), repacked.parent).read_bytes() == first


def test_refuses_what_is_no_such_wheel(tool, tmp_path, capsys):
    def answer(path):
        assert tool.main([str(path), str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("repack_detectron2.py: ")
        return line

    text = tmp_path / "text.whl"
    text.write_text("no archive")
    assert "this is no zip archive" in answer(text)
    assert "expected a wheel; there is none" in answer(tmp_path / "missing.whl")
    without = {name: content for name, content in FILES.items() if not name.endswith(".so")}
    message = "expected sal-detectron2 with its operators"
    assert message in answer(write_wheel(tmp_path, without))
    other = METADATA.replace("sal-detectron2", "other")
    assert message in answer(write_wheel(tmp_path, {**FILES, f"{OLD}/METADATA": other}))
    bare = {name: content for name, content in FILES.items() if "METADATA" not in name}
    assert "with one METADATA" in answer(write_wheel(tmp_path, bare))
    assert not (tmp_path / "out").exists()


def test_as_a_process_without_the_package(tmp_path):
    # It runs before anything is installed.
    script = [sys.executable, "-I", "-S", str(REPOSITORY / TOOL)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "usage: repack_detectron2.py WHEEL FOLDER\n"
    command = [*script, str(write_wheel(tmp_path, FILES)), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert zipfile.is_zipfile(done.stdout.strip())
