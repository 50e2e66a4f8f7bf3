"""Prints what dissect.vmfs finds on a volume, one JSON object a file.

Usage: dissect_read.py WHOLE OFFSETS DEVICE...
Files of at most WHOLE bytes are read in full, of others 64 KiB at each of OFFSETS.
"""

import json
import stat
import sys
import zlib

from dissect.vmfs import lvm, vmfs

PIECE = 64 * 1024


def open_volume(paths):
    handles = [open(path, "rb") for path in paths]
    handles[0].seek(0x100000)
    if len(handles) == 1 and handles[0].read(4) != b"\x0d\xd0\x01\xc0":
        return vmfs.VMFS(handles[0])
    return vmfs.VMFS(lvm.LVM(handles).volumes[0].open())


def pieces(descriptor, whole, offsets):
    length = descriptor.size
    stream = descriptor.open()
    if length <= whole:
        spans = [(start, min(1 << 20, length - start)) for start in range(0, length, 1 << 20)]
    else:
        spans = [(start, min(PIECE, length - start)) for start in offsets if start < length]
    for start, size in spans:
        stream.seek(start)
        yield start, size, zlib.crc32(stream.read(size))


def walk(descriptor, path, whole, offsets):
    for entry in descriptor.iterdir():
        if entry.name in (".", ".."):
            continue
        found = entry.file_descriptor
        meta = found.metadata
        below = f"{path}/{entry.name}"
        readable = not found.is_rdm() and not found.is_dir()
        print(
            json.dumps(
                {
                    "path": below,
                    "fd": entry.address,
                    "kind": int(meta.type.value if hasattr(meta.type, "value") else meta.type),
                    "length": meta.fileLength,
                    "mode": stat.S_IMODE(meta.mode),
                    "links": meta.linkCount,
                    "mtime": meta.mtime,
                    "pieces": list(pieces(found, whole, offsets)) if readable else [],
                }
            )
        )
        if found.is_dir():
            walk(found, below, whole, offsets)


whole = int(sys.argv[1])
offsets = [int(offset) for offset in sys.argv[2].split(",") if offset]
volume = open_volume(sys.argv[3:])
walk(volume.root, "", whole, offsets)
