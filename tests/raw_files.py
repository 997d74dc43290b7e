"""Files written byte by byte, so that tests can break every rule of their formats."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path


def raw(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file with any header: a table, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int, end: int, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    """One tensor of a header; its shape is a vector of float32 unless told otherwise."""
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def good(path: Path, *names: str) -> Path:
    """A sound file: each name a vector of two float32."""
    header = {name: entry(8 * i, 8 * i + 8) for i, name in enumerate(names)}
    return raw(path, header, bytes(8 * len(names)))


def indexed(folder: Path, weight_map: object, *, name: str = "model.safetensors.index.json") -> Path:
    """A folder with an index; the shards are up to the caller."""
    folder.mkdir(parents=True, exist_ok=True)
    text = weight_map if isinstance(weight_map, bytes) else json.dumps({"weight_map": weight_map}).encode()
    (folder / name).write_bytes(text)
    return folder


class Payload:
    """Unpickled by an unrestricted loader, it creates the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def hostile_zip(path: Path, mark: Path) -> Path:
    """A torch file in the zip format whose pickle runs code."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Payload(mark)}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


def hostile_legacy(path: Path, mark: Path) -> Path:
    """A plain pickle, as torch wrote before 1.6, that runs code."""
    path.write_bytes(pickle.dumps({"w": Payload(mark)}, protocol=2))
    return path
