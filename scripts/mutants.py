"""Do the tests notice a fault? Plants one-line faults in a copy of the source, one after the other.

    python scripts/mutants.py            # the missing ones, then the table in docs/testing.md
    python scripts/mutants.py --check    # only whether every pattern still matches exactly once

The faults are in `mutations.txt` beside this file, by pattern. Every one is tried on the fast tests
named there and, where these pass, on all fast tests; the first test that fails has noticed it. What
was found is kept in docs/results/mutants.json, so that a run that was stopped goes on.
"""

import argparse
import compileall
import hashlib
import importlib
import json
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "mutants.json"
PAGE = ROOT / "docs" / "testing.md"
BEGIN, END = "<!-- scripts/mutants.py -->\n", "<!-- end of the table -->\n"
EVERYTHING = "tests"
LARGE = (
    *("torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard", "torchvision", "timm"),
    *("safetensors.torch", "pydantic", "typer", "rich.progress", "hypothesis.strategies", "av"),
)
"""Imported once, for all forks."""
PLUMBING = (
    *("api/", "augment/", "batch.py", "config/", "data/", "evaluation/", "random/", "runs/"),
    *("tokens/", "training/"),
)
"""What hands things on; all other folders compute."""


class Mutation(NamedTuple):
    """One fault.

    Attributes:
        file: below `src/vistill`.
        old: text that stands there exactly once.
        new: what stands there instead.
        tests: words for pytest, of the tests to begin with.
    """

    file: str
    old: str
    new: str
    tests: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="match the patterns and stop")
    parser.add_argument("--only", default="", help="faults whose file or text contains this")
    parser.add_argument("--again", choices=["none", "missed", "all"], default="missed")
    parser.add_argument("--narrow", action="store_true", help="never run all fast tests")
    parser.add_argument("--limit", type=float, default=900, help="seconds of the tests named first")
    args = parser.parse_args()
    mutations = read((ROOT / "scripts" / "mutations.txt").read_text())
    check(mutations)
    if args.check:
        print(f"{len(mutations)} patterns match exactly once")
        return 0
    for name in LARGE:
        importlib.import_module(name)
    old: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {key(one): old[key(one)] for one in mutations if key(one) in old}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Copy(Path(folder), args.limit)
        for one in mutations:
            if args.only in f"{one.file} {one.old}" and due(results.get(key(one)), args.again):
                found = results[key(one)] = tree.try_out(one, narrow=args.narrow)
                told = f"{one.file}: {one.old} → {one.new}  [{found['by']}]"
                print(f"{found['verdict']:10} {told}", flush=True)
                RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_page([results[key(one)] for one in mutations if key(one) in results])
    return 0


def read(text: str) -> list[Mutation]:
    """The faults in the text of `mutations.txt`."""
    found: list[Mutation] = []
    file, tests, old = "", "", ""
    for line in text.split("\n\n", 1)[1].splitlines():
        if line.startswith("- "):
            old = line[2:]
        elif line.startswith("+ "):
            found.append(Mutation(file, old, line[2:], tests))
        elif line:
            file, _, words = line.partition(": ")
            tests = " ".join(f"tests/{word}" for word in words.split())
    return found


def key(one: Mutation) -> str:
    """What a fault is known by, whatever line it is in."""
    return hashlib.sha256("\0".join(one[:3]).encode()).hexdigest()[:12]


def due(found: dict[str, Any] | None, again: str) -> bool:
    """Whether a fault is to be tried."""
    if found is None or again == "all":
        return True
    return again == "missed" and found["verdict"] != "noticed"


def check(mutations: list[Mutation]) -> None:
    """End with the patterns that are not there exactly once, and with faults that are no Python."""
    wrong = []
    for one in mutations:
        text = (ROOT / "src" / "vistill" / one.file).read_text()
        if (count := text.count(one.old)) != 1:
            wrong.append(f"{one.file}: {count} times {one.old!r}")
            continue
        try:
            compile(text.replace(one.old, one.new), one.file, "exec")
        except SyntaxError as error:
            wrong.append(f"{one.file}: {one.new!r} is no Python: {error}")
    if len({key(one) for one in mutations}) < len(mutations):
        wrong.append("a fault is listed twice")
    named = {word for one in mutations for word in one.tests.split()}
    wrong += [f"there is no {word}" for word in sorted(named) if not (ROOT / word).exists()]
    if wrong:
        sys.exit("mend scripts/mutations.txt:\n" + "\n".join(wrong))


class Copy:
    """A copy of the working tree in which one file at a time is changed.

    Args:
        folder: where.
        limit: seconds that the narrow tests may take; all fast tests may take six times as long.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.splitlines()):
            if (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        # By hashes of their sources: what is planted is compiled anew, and nothing else.
        by_hash = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(folder / "src", quiet=1, invalidation_mode=by_hash)
        self.sound: set[str] = set()

    def try_out(self, one: Mutation, *, narrow: bool) -> dict[str, Any]:
        """Plant a fault, run tests, take it back."""
        selections = [one.tests] + ([] if narrow else [EVERYTHING])
        for tests in selections:
            if tests not in self.sound:
                if (fails := self._first_failure(tests)) is not None:
                    sys.exit(f"{fails} fails without any fault; mend it first")
                self.sound.add(tests)
        path = self.folder / "src" / "vistill" / one.file
        whole = path.read_text()
        path.write_text(whole.replace(one.old, one.new))
        try:
            by = next(filter(None, map(self._first_failure, selections)), None)
        finally:
            path.write_text(whole)
        late = by is not None and by.startswith("time limit")
        verdict = "time limit" if late else "missed" if by is None else "noticed"
        return {"file": one.file, "old": one.old, "new": one.new, "verdict": verdict, "by": by}

    def _first_failure(self, tests: str) -> str | None:
        """The first of the fast tests that fails, or None.

        A fork of this process, which has imported the large libraries but not vistill, runs them.
        """
        limit = self.limit * (6 if tests == EVERYTHING else 1)
        said = self.folder / "said.txt"
        child = os.fork()
        if child == 0:
            try:
                os._exit(self._in_the_fork(tests.split(), said))
            except BaseException as error:
                said.write_text(repr(error))
                os._exit(70)
        end = time.monotonic() + limit
        while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"time limit of {limit:g} s"
            time.sleep(0.05)
        text = said.read_text()
        if status[1] == 0:
            return None
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        if failed is None:
            sys.exit(f"pytest ended with {os.waitstatus_to_exitcode(status[1])}:\n{text[-2000:]}")
        return failed[1].partition("[")[0]

    def _in_the_fork(self, tests: list[str], said: Path) -> int:
        os.setsid()
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(self.folder)
        source = str(self.folder / "src")
        sys.path[:] = [source, *(path for path in sys.path if path != str(ROOT / "scripts"))]
        os.environ["PYTHONPATH"] = source
        words = ["-n0", "-q", "-x", "-m", "not slow", "--tb=no", "-p", "no:cacheprovider"]
        code = int(pytest.main([*words, *tests]))
        sys.stdout.flush()
        return code


def share(found: list[dict[str, Any]], plumbing: bool | None) -> str:
    """How many were noticed: of plumbing, of the others, or of all."""
    mine = [x for x in found if plumbing in (None, x["file"].startswith(PLUMBING))]
    noticed = sum(one["verdict"] == "noticed" for one in mine)
    return f"{noticed} of {len(mine)} ({noticed / max(1, len(mine)):.0%})"


def write_page(found: list[dict[str, Any]]) -> None:
    """Put the figures and the table into the page, and show the figures."""
    parts = {"plumbing": True, "mathematics": False, "all": None}
    figures = [f"| {name} | {share(found, which)} |" for name, which in parts.items()]
    lines = ["| faults in | noticed by the fast tests |", "|---|---|", *figures]
    lines += ["", "| in | instead of | stands | noticed by |", "|---|---|---|---|"]
    for one in found:
        by = (one["by"] or "").removeprefix("tests/")
        cells = [one["file"], one["old"].strip(), one["new"].strip()]
        cells = [f"`{cell.replace('|', chr(92) + '|')}`" for cell in cells]
        lines.append(f"| {' | '.join(cells)} | {by if one['verdict'] == 'noticed' else '**no**'} |")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + rest.split(END)[1])
    print("\n".join(figures))


if __name__ == "__main__":
    sys.exit(main())
