# SPDX-License-Identifier: Apache-2.0
"""Files of images as Python has them, to change one and write it again, with a manifest that fits."""

import base64
import ctypes
import json
import os
import subprocess

MANIFEST = "ferry-manifest.img"
SEAL_BYTES = 22  # the manifest's last record: four bytes of length, two of protobuf, the checksum


class Digest(ctypes.Structure):
    """XXH128_hash_t."""

    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def checksum(data):
    """Of bytes, as the manifest has it: XXH3, 128 bits, the highest byte first."""
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_128bits.restype = Digest
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    digest = library.XXH3_128bits(data, len(data))
    return digest.high.to_bytes(8, "big") + digest.low.to_bytes(8, "big")


def image_tool(verb, data):
    """What ferry image decode or encode makes of bytes; None when it refuses them."""
    done = subprocess.run([os.environ["FERRY"], "image", verb, "-"], input=data, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False)
    return done.stdout if done.returncode == 0 else None


def decode(path):
    """{"magic": ..., "entries": [...]} of a file; None when it is no file of records."""
    text = image_tool("decode", path.read_bytes())
    return None if text is None else json.loads(text)


def encode(path, content):
    """Write a file anew, under another inode; whether such records can be written."""
    data = image_tool("encode", json.dumps(content).encode())
    if data is None:
        return False
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return True


def seal(folder, changed):
    """After files of an image were changed or removed: the manifest tells what there is now."""
    content = decode(folder / MANIFEST)
    manifest = content["entries"][0]
    for entry in manifest["files"]:
        if entry["name"] in changed:
            data = (folder / entry["name"]).read_bytes()
            entry.update(size=len(data), xxh3_128=base64.b64encode(checksum(data)).decode())
    encode(folder / MANIFEST, content)
    data = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(data[:-16] + checksum(data[:-SEAL_BYTES]))
