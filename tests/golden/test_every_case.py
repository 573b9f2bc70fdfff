"""No golden case lies idle: each of a set's index is named by some test of this folder."""

import ast
import re
from pathlib import Path

import pytest
from golden_cases import cases

FOLDER = Path(__file__).parent


def names() -> set[str]:
    """Regular expressions of all strings in the tests; what an f-string fills in may be any word.

    An f-string whose fixed part is short could stand for anything, and counts for nothing.
    """
    found = set()
    for path in FOLDER.glob("test_*.py"):
        if path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.escape(node.value))
            elif isinstance(node, ast.JoinedStr):
                fixed = [part.value for part in node.values if isinstance(part, ast.Constant)]
                if any(len(text.strip("_")) > 3 for text in fixed):
                    found.add(
                        "".join(
                            re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+"
                            for part in node.values
                        )
                    )
    return found


@pytest.mark.parametrize("golden_set", ["tinymim", "kdep", "fd", "amd", "umt"])
def test_every_case_is_named_by_a_test(golden_set):
    used = re.compile("|".join(names()))
    idle = {case for case in cases(golden_set) if not used.fullmatch(case)}
    assert not idle
