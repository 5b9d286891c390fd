"""Files spoilt at random: what commands are given by a hostile user, or by a bad disk."""

import copy
import io
import json
import os
import shutil
import struct
import zlib

import numpy as np
from PIL import Image

VALUES = [
    *(None, True, False, 0, 1, -1, 2, 8, 255, 256**3, 2**64, 10**300, 1.5, float("nan"), 1e308),
    *("", "8", "8.jpg", "../8.png", "/etc/passwd", "\0", "\ud800", "a" * 5000, ".", "val/8.jpg"),
    *([], {}, [1, 2, 3, 4], ["x"], {"id": 1}, [[[]]]),
]

# Beside VALUES: what a file can be called, and what a mask can be.
_NAMES = [
    *("../../../evil.png", "a/../../evil.jpg", "8.png/x.jpg", "8.PNG", "./8.png", "new\nline.png"),
    *("\x1b[31m.png", "\udcff.jpg", "\u202e.png", "b" * 251 + ".jpg", "c" * 250 + "/d.png"),
]
_MASKS = [
    *("0", {"size": [16, 24], "counts": "a"}, {"size": [1e9, 1e9], "counts": "0"}),
    *({"size": [2**40, 3], "counts": "PPYo1"}, [float("inf")] * 4, [0, 0, -1, -1]),
]


def places(value, path=()):
    """Return the path of each value within a json value, but its own."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        return []
    paths = [(*path, key) for key, _ in children]
    return paths + [p for key, child in children for p in places(child, (*path, key))]


def mutate_field(data, rng, values=VALUES):
    """Replace, delete or repeat one value within a json value."""
    *path, last = rng.choice(places(data))
    holder = data
    for key in path:
        holder = holder[key]
    action = rng.choice(("replace", "delete", "repeat"))
    if action == "replace":
        holder[last] = copy.deepcopy(rng.choice(values))
    elif action == "delete":
        del holder[last]
    elif isinstance(holder, list):
        holder.append(holder[last])
    else:
        holder["again"] = holder[last]


def mutate_fields(path, rng):
    """Spoil a few values of a json file, every third time a name."""
    data = json.loads(path.read_bytes())
    named = [place for place in places(data) if place[-1] == "file_name"]
    if named and rng.random() < 0.3:
        *place, last = rng.choice(named)
        holder = data
        for key in place:
            holder = holder[key]
        holder[last] = rng.choice(_NAMES)
    else:
        for _ in range(rng.randint(1, 3)):
            mutate_field(data, rng, [*VALUES, *_NAMES, *_MASKS])
    path.write_text(json.dumps(data))


def mutate_text(path, rng):
    """Spoil the text of a json file."""
    text = path.read_bytes()
    path.write_bytes(
        rng.choice(
            (
                *(b"", b"null", b"[]", b"{}", b'"x"', text + b" x", b"[" + text + b"]"),
                *(b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), text[: len(text) // 2]),
                *(b"[" * 100_000, b'{"images":' * 5000 + b"1" + b"}" * 5000),
                text.replace(b'"cat"', b'"c\xe4t"').replace(b".png", b"\xff.png", 1),
                text.replace(b'"annotations":', b'"annotations": [], "annotations":', 1),
                text.replace(b'"id":', b'"id": "x", "id":', 2),
                text.replace(b": 8", b": " + b"9" * 5000, 1),
                text.replace(b": 8", b": -Infinity", 1),
                text.replace(b".png", b"\\ud800.png", 1),
            )
        )
    )


def mutate_bytes(path, rng):
    """Flip, cut, insert or replace bytes of a file."""
    content = bytearray(path.read_bytes())
    action = rng.choice(("flip", "flip", "cut", "insert", "garbage"))
    at = rng.randrange(len(content))
    if action == "flip":
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif action == "cut":
        del content[at:]
    elif action == "insert":
        content[at:at] = rng.randbytes(rng.randint(1, 20))
    else:
        content = rng.randbytes(rng.randint(0, 300))
    path.write_bytes(content)


def replace_image(path, rng):
    """Put another image in the place of one: of other pixels, another size, another format."""
    noise = np.random.default_rng(rng.randrange(100))
    pixels = rng.choice(
        (
            noise.integers(0, 3, (16, 24, 3), np.uint8),
            noise.integers(0, 3, (16, 24, 4), np.uint8),
            noise.integers(0, 3, (16, 24), np.uint8),
            np.full((16, 24), 40_000, np.uint16),
            np.zeros((1, 1, 3), np.uint8),
            np.zeros((300, 24, 3), np.uint8),
        )
    )
    content = io.BytesIO()
    if pixels.ndim == 3 and pixels.shape[2] == 3 and rng.random() < 0.3:
        Image.fromarray(pixels).save(content, "JPEG")
    elif rng.random() < 0.2:
        content.write(_vast_png())
    else:
        Image.fromarray(pixels).save(content, "PNG")
    path.write_bytes(content.getvalue())


def _vast_png():
    """A small file that says it is of gigabytes."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    return content


def replace_file(path, rng):
    """Put something else in the place of a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    action = rng.choice(("nothing", "folder", "pipe", "loop"))
    if action == "folder":
        path.mkdir()
    elif action == "pipe":
        os.mkfifo(path)
    elif action == "loop":
        path.symlink_to(path.name)


def mutate(jsons, images, rng):
    """Spoil one or two of some files."""
    choice = rng.random()
    if choice < 0.45 or not images:
        mutate_fields(rng.choice(jsons), rng)
    elif choice < 0.6:
        mutate_text(rng.choice(jsons), rng)
    elif choice < 0.75:
        mutate_bytes(rng.choice(images), rng)
    elif choice < 0.85:
        replace_image(rng.choice(images), rng)
    else:
        replace_file(rng.choice([*jsons, *images, rng.choice(images).parent]), rng)
