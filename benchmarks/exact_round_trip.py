"""Extract and apply at 1.1 B parameters: bit for bit, in bounded memory, at the speed of copying files.

Two references, both to the disk (fsync) as taskvec does, in alternating runs with all inputs in the page cache:
`copy` reads the two inputs and writes the one output; `copy_inputs` copies both inputs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
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
for i, folder in enumerate(source.split(':')):
    place = os.path.join(target, str(i))
    os.makedirs(place)
    for f in sorted(os.listdir(folder)):
        if f.endswith('.safetensors'):
            shutil.copyfile(os.path.join(folder, f), os.path.join(place, f))
            fd = os.open(os.path.join(place, f), os.O_RDONLY); os.fsync(fd); os.close(fd)
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
    keys = ("extract", "apply", "copy", "copy_inputs")
    figures: dict[str, list[_measure.Run]] = {k: [] for k in keys}
    for _ in range(runs):
        clear(_measure.WORK / "cache")
        for key, command, target in (
            ("extract", [_measure.sys.executable, *extract], vector),
            ("copy", [*_measure.python(COPY), str(base), str(tuned), str(copy)], copy),
            ("apply", [_measure.sys.executable, *apply], out),
            ("copy_inputs", [*_measure.python(COPY), "", f"{base}:{tuned}", str(copy)], copy),
        ):
            clear(target)
            os.sync()  # so that no run pays for what the one before left to the disk
            time.sleep(1)
            figures[key].append(_measure.run(command))
            if figures[key][-1].code:
                raise SystemExit(f"{key} failed with code {figures[key][-1].code}")
    result = {key: _measure.median(values) for key, values in figures.items()}
    result |= {
        "bit_for_bit": same_files(tuned, out),
        **{f"wall_{k}_to_{c}": round(result[k]["wall"] / result[c]["wall"], 2) for k in keys[:2] for c in keys[2:]},
        "vector_bytes": vector.stat().st_size,
        "tuned_bytes": sum(f.stat().st_size for f in tuned.glob("*.safetensors")),
        "runs": runs,
    }
    print(_measure.write("exact_round_trip", result).read_text())


if __name__ == "__main__":
    main()
