"""Extract and apply at 1.1 B parameters: bit for bit, in bounded memory, at the speed of copying files.

The reference copies the same bytes: it reads the inputs and writes the output with plain file copies, to the disk
(fsync), as taskvec does. Runs alternate; files are in the page cache for both.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import _measure
import _models

COPY = """
import os, shutil, sys
reads, source, target = sys.argv[1:4]
with open(os.devnull, 'wb') as sink:
    for folder in filter(None, reads.split(':')):
        for f in sorted(os.listdir(folder)):
            if f.endswith('.safetensors'):
                with open(os.path.join(folder, f), 'rb') as x:
                    while x.readinto(buffer := bytearray(1 << 22)):
                        pass
os.makedirs(target)
for f in sorted(os.listdir(source)):
    if f.endswith('.safetensors'):
        shutil.copyfile(os.path.join(source, f), os.path.join(target, f))
        fd = os.open(os.path.join(target, f), os.O_RDONLY); os.fsync(fd); os.close(fd)
"""


def clear(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def same_files(a: Path, b: Path) -> bool:
    """Whether all tensors of two folders of shards are equal in every bit (read by the official library)."""
    import torch
    from safetensors import safe_open

    for file in sorted(a.glob("*.safetensors")):
        with safe_open(file, "pt") as x, safe_open(b / file.name, "pt") as y:
            if set(x.keys()) != set(y.keys()):
                return False
            for name in x.keys():  # noqa: SIM118 - not a mapping
                if not torch.equal(x.get_tensor(name).view(torch.int16), y.get_tensor(name).view(torch.int16)):
                    return False
    return True


def main() -> None:
    """Measure, check, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    base = _models.make(_measure.WORK / "base", seed=None, plant=True)
    tuned = _models.make(_measure.WORK / "tuned", seed=1, plant=True)
    vector, out, copy = (_measure.WORK / n for n in ("tuned.tv.safetensors", "out", "copy"))
    os.environ["TASKVEC_CACHE"] = str(_measure.WORK / "cache")
    extract = ["-m", "taskvec", "extract", str(base), str(tuned), "-o", str(vector)]
    apply = ["-m", "taskvec", "apply", str(base), "v", "--vectors", f"v={vector}", "-o", str(out)]
    figures: dict[str, list[_measure.Run]] = {k: [] for k in ("extract", "apply", "copy_extract", "copy_apply")}
    for _ in range(runs):
        clear(_measure.WORK / "cache")
        for key, command, target in (
            ("extract", [_measure.sys.executable, *extract], vector),
            ("copy_extract", [*_measure.python(COPY), str(base), str(tuned), str(copy)], copy),
            ("apply", [_measure.sys.executable, *apply], out),
            ("copy_apply", [*_measure.python(COPY), str(base), str(tuned), str(copy)], copy),
        ):
            clear(target)
            figures[key].append(_measure.run(command))
            if figures[key][-1].code:
                raise SystemExit(f"{key} failed with code {figures[key][-1].code}")
    result = {key: _measure.median(values) for key, values in figures.items()}
    result |= {
        "bit_for_bit": same_files(tuned, out),
        "wall_ratio_extract": round(result["extract"]["wall"] / result["copy_extract"]["wall"], 2),
        "wall_ratio_apply": round(result["apply"]["wall"] / result["copy_apply"]["wall"], 2),
        "vector_bytes": vector.stat().st_size,
        "tuned_bytes": sum(f.stat().st_size for f in tuned.glob("*.safetensors")),
        "runs": runs,
    }
    print(_measure.write("exact_round_trip", result).read_text())


if __name__ == "__main__":
    main()
