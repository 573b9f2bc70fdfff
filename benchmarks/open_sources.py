"""CPU seconds and memory to open a million pictures: text list, CSV, folder and tar shards.

Makes the entries by itself: hard links of one small picture in 1,000 folders (a million names take
about 100 MB of a disk, and no inode but the folders'), lists of them, and 100 shards whose members
have `--bytes` bytes, of which nothing but headers takes room (4 KB a member where the file system
keeps holes, so about 5 GB; `--bytes 0` takes 0.5 GB). Every opening is a process of its own; memory
is its peak above what it had after its imports. First without an index, then from it.

    python benchmarks/open_sources.py [--count 1000000] [--folder DIR] [--bytes 20000]
        [--only text csv folder shards] [--out benchmarks/results/open_sources.json]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CLASSES = 1000
SHARDS = 100
KINDS = ("text", "csv", "folder", "shards")
LINKS = 60_000
"""Names that one file has; ext4 allows 65,000."""
CHILD = """
import json, os, resource, sys, time
from vistill.data import open_source
KB = 1024

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB

before, start = peak(), time.process_time()
source = open_source(sys.argv[1])
seconds, used = time.process_time() - start, peak() - before
start = time.process_time()
told = source.fingerprint()
print(json.dumps(dict(seconds=seconds, bytes=used, count=len(source), told=told,
                      classes=len(source.classes or ()), last=source.sample_name(len(source) - 1))))
"""


def name(i: int) -> str:
    """Of picture `i`."""
    return f"n{i % CLASSES:08d}/n{i % CLASSES:08d}_{i:07d}.jpg"


def make_folder(root: Path, count: int) -> None:
    for number in range(min(CLASSES, count)):
        (root / f"n{number:08d}").mkdir(parents=True)
    target = ""
    for i in range(count):
        place = f"{root}/{name(i)}"
        if i % LINKS == 0:
            Path(place).touch()
            target = place
        else:
            os.link(target, place)


def make_lists(folder: Path, count: int) -> None:
    with open(folder / "list.txt", "w") as text, open(folder / "list.csv", "w") as table:
        table.write("path,label\n")
        for i in range(count):
            text.write(f"pictures/{name(i)}\n")
            table.write(f"pictures/{name(i)},n{i % CLASSES:08d}\n")


def make_shards(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    each = -(-count // SHARDS)
    for number in range(SHARDS):
        with open(folder / f"{number:05d}.tar", "wb") as file:
            for i in range(number * each, min(count, (number + 1) * each)):
                info = tarfile.TarInfo(name(i))
                info.size = size
                file.write(info.tobuf())
                file.seek(-(-size // 512) * 512, os.SEEK_CUR)
            file.write(bytes(1024))


def opened(place: Path, index: str) -> dict:
    """What a fresh process says that opens it."""
    settings = {**os.environ, "VISTILL_INDEX": index}
    command = [sys.executable, "-c", CHILD, str(place)]
    run = subprocess.run(command, env=settings, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where to make the entries; a temporary folder")
    parser.add_argument("--bytes", type=int, default=20_000, help="of every member of the shards")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=3, help="of each the least is told")
    parser.add_argument("--out")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        make_folder(base / "pictures", options.count if "folder" in options.only else 1)
        make_lists(base, options.count)
        if "shards" in options.only:
            make_shards(base / "shards", options.count, options.bytes)
        places = {
            "text": "list.txt",
            "csv": "list.csv",
            "folder": "pictures",
            "shards": "shards",
        }
        results = {kind: measure(base / places[kind], base, options) for kind in options.only}
    finally:
        shutil.rmtree(base)
    if options.out:
        Path(options.out).write_text(json.dumps(results, indent=2) + "\n")


def measure(place: Path, base: Path, options: argparse.Namespace) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for how in ("without", "first", "later"):
        runs = []
        for number in range(options.rounds):
            index = {"without": "off", "first": str(base / f"index-{place.name}-{number}")}
            runs.append(opened(place, index.get(how, str(base / f"index-{place.name}-0"))))
        assert {run["count"] for run in runs} == {options.count}
        assert len({run["told"] for run in [*runs, *found.values()] if "told" in run}) == 1
        best = min(runs, key=lambda run: run["seconds"])
        found[how] = {**best, "bytes": min(run["bytes"] for run in runs)}
        print(
            f"{place.name:10} {how:8} {best['seconds']:6.2f} CPU s "
            f"{found[how]['bytes'] / 1e6:6.0f} MB "
            f"({best['count']} pictures, {best['classes']} classes)",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
