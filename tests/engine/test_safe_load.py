"""Checkpoint files: what they hold comes back, and nothing that they ask for happens."""

import copyreg
import pickle
import sys
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_panoptic.engine.safe_load import load_checkpoint_file
from ocr_panoptic.engine.safe_unpickle import unpickle
from ocr_panoptic.errors import InputError

from .exploits import EXPLOITS, REASONS, SYSTEM, Tensor, floats, pickle_tensors, write_zip

BASE = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "whole": BASE,
    "transposed": BASE.t(),
    "part": BASE[1:3, ::2],
    "half": torch.ones(3).half(),
    "bfloat16": torch.ones(3).bfloat16(),
    "int64": torch.tensor([1, -2]),
    "uint8": torch.tensor([1, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j]),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3.0),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "with gradient": torch.ones(2, requires_grad=True),
    "expanded once": torch.arange(3).expand(1, -1),
}
PLAIN = {
    "array": np.arange(6.0).reshape(2, 3),
    "of Fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "bools": np.array([True, False]),
    "text": np.array(["ab", "c"]),
    "no elements": np.empty((0, 4), np.float32),
    "no axes": np.array(3.0),
    "numpy float": np.float64(2.5),
    "numpy int": np.int64(3),
    "bytes": b"abc",
    "no bytes": b"",
    "bytearray": bytearray(b"xy"),
    "set": {1, "b"},
    "frozenset": frozenset([3]),
    "complex": 1 + 2j,
    "Counter": Counter("aab"),
    "large": 10**30,
    "negative": -5,
    "numbers": [1, True, None, 2.5, (3, ())],
    "pairs": OrderedDict(b=1, a=2),
    "tuple key": {(1, "a"): 2},
}
TORCH = {
    "size": torch.Size([2, 3]),
    "dtype": torch.float32,
    "device": torch.device("cuda:0"),
    "layout": torch.strided,
}


def same(found, expected):
    if type(found) is not type(expected):
        return False
    if isinstance(found, torch.Tensor):
        layouts = [(t.dtype, t.stride(), t.requires_grad) for t in (found, expected)]
        return layouts[0] == layouts[1] and torch.equal(found, expected)
    if isinstance(found, np.ndarray):
        native = found.dtype == expected.dtype.newbyteorder("=") and found.flags.writeable
        orders = found.flags.f_contiguous == expected.flags.f_contiguous
        return native and orders and np.array_equal(found, expected)
    if isinstance(found, dict):
        keys = list(found) == list(expected)
        return keys and all(same(found[key], expected[key]) for key in found)
    return found == expected


def test_same_can_tell():
    assert same(TENSORS, dict(TENSORS))
    assert not same(TENSORS["whole"], TENSORS["transposed"])
    assert not same({"a": 1}, {"a": 1.0})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_comes_back(tmp_path, protocol):
    content = {"model": OrderedDict(TENSORS), **PLAIN, **TORCH}
    content["model"]._metadata = OrderedDict([("", {"version": 1})])
    torch.save(content, tmp_path / "a.pth", pickle_protocol=protocol)
    found, is_zip = load_checkpoint_file(tmp_path / "a.pth")
    assert is_zip
    assert same(found, content)
    assert found["model"]._metadata == content["model"]._metadata
    # Views of one storage still are.
    whole, transposed = found["model"]["whole"], found["model"]["transposed"]
    whole[0, 1] = -1
    assert transposed[1, 0] == -1


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickle_writes_comes_back(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    found, is_zip = load_checkpoint_file(tmp_path / "a.pkl")
    assert not is_zip
    assert same(found, PLAIN)


def test_arrays_of_either_numpy(tmp_path):
    for protocol in (2, 5):
        written = pickle.dumps(PLAIN, protocol=protocol)
        assert (b"numpy.core" in written) != (b"numpy._core" in written)
        if protocol == 2:  # later ones write the length of a name
            other = (b"numpy._core", b"numpy.core")
            other = other if other[0] in written else other[::-1]
            written = written.replace(*other)
        assert same(unpickle(written, "latin1"), PLAIN)


def test_arrays_of_python_2():
    # {"conv1_w": numpy.array([1, 2], float32)}, as Python 2 wrote it.
    written = (
        b"\x80\x02}q\x01U\x07conv1_wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
        b"cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06"
        b"U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + floats(1, 2) + b"tbs."
    )
    assert same(unpickle(written, "latin1"), {"conv1_w": np.array([1, 2], np.float32)})


def test_storages_of_the_other_byte_order(tmp_path):
    other = "big" if sys.byteorder == "little" else "little"
    values = np.array([1, 2.5], ">f4" if other == "big" else "<f4").tobytes()
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle_tensors([Tensor((2,), count=2)]))
        archive.writestr("a/byteorder", other)
        archive.writestr("a/data/0", values)
    assert load_checkpoint_file(tmp_path / "a.pth").content[0].tolist() == [1, 2.5]


@pytest.mark.parametrize("name", EXPLOITS)
def test_an_exploit_of_each_format_writes_nothing(tmp_path, name):
    file, write = EXPLOITS[name]
    path, target = tmp_path / file, tmp_path / "written"
    write(path, target)
    with pytest.raises(InputError) as caught:
        load_checkpoint_file(path)
    assert REASONS.get(name, SYSTEM) in str(caught.value)
    assert str(caught.value).startswith(f"{path} is refused")
    assert "--trust-checkpoint" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("name", EXPLOITS)
def test_the_exploits_are_real(tmp_path, name, caplog):
    file, write = EXPLOITS[name]
    write(tmp_path / file, tmp_path / "written")
    load_checkpoint_file(tmp_path / file, trust=True)
    assert (tmp_path / "written").exists()
    assert f"{file} is loaded although it could run any code: it" in caplog.text


def test_what_is_safe_is_loaded_safely_where_it_is_trusted_too(tmp_path, monkeypatch, caplog):
    torch.save(TENSORS, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", None)
    assert same(load_checkpoint_file(tmp_path / "a.pth", trust=True).content, TENSORS)
    assert not caplog.records


class Quiet:
    """An instance that is not there; what a pickle would make it of is a class of the test."""


# Opcodes by hand, and what is said to them.
OS = b"cos\nsystem\n"
DICT = b"ccollections\nOrderedDict\n)R"
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
TRICKS = {
    "GLOBAL": (OS + b".", "names os.system"),
    "STACK_GLOBAL": (b"\x8c\x02os\x8c\x06system\x93.", "names os.system"),
    "a name of a name": (b"\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.", "OrderedDict.f"),
    "a module's module": (b"\x8c\x05torch\x8c\x10serialization.os\x93.", "torch.serialization.os"),
    "a dangerous one of torch": (b"ctorch\nload\n.", "names torch.load"),
    "any class, by torch": (b"ctorch._tensor\n_rebuild_from_type_v2\n.", "_rebuild_from_type_v2"),
    "any state, by torch": (b"ctorch._utils\n_rebuild_parameter_with_state\n.", "_with_state"),
    "a dangerous one of numpy": (b"cnumpy\nload\n.", "names numpy.load"),
    "getattr": (b"c__builtin__\ngetattr\n.", "names __builtin__.getattr"),
    "eval": (b"cbuiltins\neval\n.", "names builtins.eval"),
    "a codec": (b"c_codecs\nlookup\n.", "names _codecs.lookup"),
    "INST": (b"(S'id'\nios\nsystem\n.", "names os.system"),
    "INST of a fine name": (b"(icollections\nOrderedDict\n.", "opcode INST"),
    "OBJ": (b"(ccollections\nOrderedDict\no.", "opcode OBJ"),
    "NEWOBJ": (b"ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
    "a registered extension": (b"\x82\xf0.", "opcode EXT1"),
    "a persistent name": (b"Pname\n.", "opcode PERSID"),
    "a buffer outside": (b"\x97.", "opcode NEXT_BUFFER"),
    "calling text": (b"S'os.system'\n(S'id'\ntR.", "calls a value of type str"),
    "calling a dtype": (b"ctorch\nfloat32\n)R.", "calls a value of type dtype"),
    "calling with a list": (b"ccollections\nOrderedDict\n]R.", "calls a value of type Constructor"),
    "another function": (
        b"ccollections\nOrderedDict\n}S'function'\nS'x'\nsb.",
        "sets the state of a value of type Constructor",
    ),
    "methods of a dict": (DICT + b"}S'update'\nS'x'\nsb.", "sets the state of a value of type Ord"),
    "slots of a dict": (DICT + b"N}S'_metadata'\nNs\x86b.", "sets the state of a value of type O"),
    "versions that are none": (DICT + b"}S'_metadata'\nK\x01sb.", "the state of a value of type O"),
    "a version that is none": (
        DICT + b"}S'_metadata'\n}S''\n}S'version'\nS'1'\nsssb.",
        "the state of a value of type O",
    ),
    "the state of a list": (b"]}b.", "sets the state of a value of type list"),
    "items of an array": (ARRAY + b"K\x00K\x01s.", "changes a value of type ndarray"),
    "a list that is none": (b"}K\x01a.", "changes a value of type dict"),
    "more for a tuple": (b")(K\x01e.", "changes a value of type tuple"),
    "a set that is none": (b"](K\x01\x90.", "changes a value of type list"),
    "an array of objects": (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "array of dtype O8"),
    "a structured array": (b"cnumpy\ndtype\n(S'f4,O'\nI0\nI1\ntR.", "array of dtype f4,O"),
}
BROKEN = {
    "a dtype with fields": (
        b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(K\x03S'<'\nNS'a'\nNK\x04K\x01K\x00tb.",
        "state of a dtype",
    ),
    "a dtype of another size": (
        b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(K\x03S'<'\nNNNK\x63K\x01K\x00tb.",
        "size of a dtype",
    ),
    "an array without a state": (ARRAY + b"(K\x01(K\x02tNI00\nC\x01xtb.", "dtype of an array"),
    "a large bytearray": (b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.", "bytes"),
    "bytes that are not there": (b"\x8e" + b"\xff" * 6 + b"\x00\x00.", ""),
    "a bytearray that is not there": (b"\x96" + b"\xff" * 6 + b"\x00\x00.", ""),
    "tuples in tuples as a key": (b"}" + b")" + b"\x85" * 50 + b"K\x01s.", "key of a dict"),
    "a key without a value": (b"}(K\x01u.", ""),
    "a tensor of nothing": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))I00\nNtR.",
        "storage of a tensor",
    ),
    "a codec of another name": (b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.", "bytes"),
    "no opcode": (b"\xff.", "unknown opcode"),
    "an empty file": (b"", "EOFError"),
    "a web page": (b"<!DOCTYPE html>", "unknown opcode b'<'"),
}


@pytest.fixture
def extension():
    copyreg.add_extension(__name__, "Quiet", 0xF0)
    copyreg._extension_cache[0xF0] = Quiet
    yield
    copyreg.clear_extension_cache()
    copyreg.remove_extension(__name__, "Quiet", 0xF0)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_refused_by_its_name(tmp_path, extension, trick):
    written, message = TRICKS[trick]
    (tmp_path / "a.pkl").write_bytes(written)
    write_zip(tmp_path / "a.pth", written)
    for path in (tmp_path / "a.pkl", tmp_path / "a.pth"):
        with pytest.raises(InputError, match=f"{path} is refused.*: its? [^;]*{message}"):
            load_checkpoint_file(path)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_pickle_is_no_checkpoint(tmp_path, kind):
    written, message = BROKEN[kind]
    (tmp_path / "a.pkl").write_bytes(written)
    with pytest.raises(InputError, match=rf"a\.pkl is no checkpoint \(.*{message}"):
        load_checkpoint_file(tmp_path / "a.pkl")
    with pytest.raises(InputError, match=r"a\.pkl is no checkpoint"):
        load_checkpoint_file(tmp_path / "a.pkl", trust=True)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor((3,), count=3), "storage 0 is shorter"),
        (Tensor((2,), count=-1), "storage 0 is shorter"),
        (Tensor((3,), count=2), "larger than its storage"),
        (Tensor((2,), count=2, stride=(2,)), "larger than its storage"),
        (Tensor((1,), count=2, offset=2), "larger than its storage"),
        (Tensor((2**40,), count=2), "larger than its storage"),
        (Tensor((2**40, 1), count=2), "shape of a tensor"),
        (Tensor((1,), count=2, offset=-1), "shape of a tensor"),
        (Tensor((2,), count=2, stride=(-1,)), "shape of a tensor"),
        (Tensor((-1,), count=2), "shape of a tensor"),
        (Tensor((2,), count=2, key="../../0"), "no item named|data/../../0"),
        (Tensor((2,), count=2, key="absent"), "data/absent"),
        (Tensor((2,), count=2, key=0), "something else than a storage"),
        (Tensor((2,), count=2, storage="Tensor"), "names torch.Tensor"),
        (Tensor((2**40,), count=2, stride=(0,)), "repeats its values"),
    ],
    ids=lambda value: None if isinstance(value, str) else str((value.reference, value.layout)),
)
def test_a_tensor_that_the_file_does_not_hold(tmp_path, tensor, message):
    path = tmp_path / "a.pth"
    write_zip(path, pickle_tensors([Tensor((2,), count=2)]), [("data/0", floats(1, 2))])
    assert load_checkpoint_file(path).content[0].tolist() == [1, 2]
    write_zip(path, pickle_tensors([tensor]), [("data/0", floats(1, 2))])
    with pytest.raises(InputError, match=f"a.pth is (no checkpoint|refused).*({message})"):
        load_checkpoint_file(path)


def test_zips_that_torch_does_not_write(tmp_path):
    path, one = tmp_path / "a.pth", pickle_tensors([Tensor((2,), count=2)])

    def refused(message):
        with pytest.raises(InputError, match=f"a.pth is no checkpoint .*{message}"):
            load_checkpoint_file(path)

    write_zip(path, one, [("data/0", floats(1, 2))], compression=zipfile.ZIP_DEFLATED)
    refused("larger than the file")
    write_zip(path, one, [("data/0", floats(1, 2))], root="a/b")
    refused("no data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", one)
        archive.writestr("a/byteorder", "middle")
    refused("unknown order of bytes")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", one)
        archive.writestr("b/data.pkl", one)
    refused("data.pkl")
    # Both records at one place of the file: read one after the other, more than it holds.
    two = pickle_tensors([Tensor((2048,), count=2048), Tensor((2048,), count=2048, key="1")])
    write_zip(path, two, [("data/0", bytes(8192)), ("data/1", b"")])
    written = bytearray(path.read_bytes())
    first, last = (written.rindex(b"archive/data/" + name) for name in (b"0", b"1"))
    written[last - 46 : last - 46 + 46] = written[first - 46 : first]
    path.write_bytes(written)
    refused("larger than the file|directory and header")


def test_damage_is_found(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": TENSORS}, path)
    whole = path.read_bytes()
    at = whole.index(BASE.numpy().tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(InputError, match=r"a\.pth is no checkpoint .*CRC"):
        load_checkpoint_file(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.pth is no checkpoint"):
        load_checkpoint_file(path)


def test_what_cannot_be_read(tmp_path):
    for path, message in ((tmp_path, "Is a directory"), ("/dev/zero", "no regular file")):
        with pytest.raises(InputError, match=f"{path}: {message}, expected a checkpoint"):
            load_checkpoint_file(path)


def complaint(path):
    """Return what is said to a file, its name if nothing."""
    try:
        load_checkpoint_file(path)
    except InputError as error:
        return str(error)
    return str(path)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["zip", "pickle"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0.3, 1),
)
def test_any_damage_is_an_input_error_or_nothing(tmp_path_factory, kind, changes, length):
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    if kind == "zip":
        torch.save({"model": {"whole": BASE}}, path)
    else:
        path.write_bytes(pickle.dumps(PLAIN, protocol=2))
    content = bytearray(path.read_bytes())
    for at, value in changes:
        content[int(at * len(content))] = value
    path.write_bytes(content[: int(length * len(content)) + 1])
    assert complaint(path).startswith(str(path))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_input_error_or_a_value(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(content)
    assert complaint(path).startswith(str(path))
