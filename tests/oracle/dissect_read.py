"""Prints what dissect.vmfs finds on a volume, one JSON object a file.

Usage: dissect_read.py WHOLE OFFSETS DEVICE...
Files of at most WHOLE bytes are read in full, of others 64 KiB at each of OFFSETS. Directories are
read like files, too. A file that dissect.vmfs can't read has an "error" in place of its pieces.
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
        place, marked = descriptor._resolve_offset(start)
        yield start, size, zlib.crc32(stream.read(size)), place, bool(marked)


def describe(found, path, address, whole, offsets):
    meta = found.metadata
    told = {
        "path": path,
        "fd": address,
        "kind": int(meta.type.value if hasattr(meta.type, "value") else meta.type),
        "length": meta.fileLength,
        "mode": stat.S_IMODE(meta.mode),
        "links": meta.linkCount,
        "uid": meta.uid,
        "gid": meta.gid,
        "times": [meta.mtime, meta.ctime, meta.atime],
        "target": None,
        "error": None,
        "pieces": [],
    }
    try:
        if found.is_symlink():
            told["target"] = found.link
        if not found.is_rdm():
            told["pieces"] = list(pieces(found, whole, offsets))
    except Exception as error:
        told["error"] = repr(error)
    return told


def walk(descriptor, path, whole, offsets):
    known = {}
    for entry in descriptor.iterdir():
        if entry.name in (".", ".."):
            continue
        found = entry.file_descriptor
        below = f"{path}/{entry.name}"
        # Directories of 100,000 names have a few files under many names.
        if entry.address not in known:
            known[entry.address] = describe(found, below, entry.address, whole, offsets)
        print(json.dumps(known[entry.address] | {"path": below}))
        if found.is_dir():
            walk(found, below, whole, offsets)


whole = int(sys.argv[1])
offsets = [int(offset) for offset in sys.argv[2].split(",") if offset]
volume = open_volume(sys.argv[3:])
walk(volume.root, "", whole, offsets)
