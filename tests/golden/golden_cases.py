"""Numbers produced by the published code: `SET/index.json` describes every case of a set."""

import functools
import json
from pathlib import Path

FOLDER = Path(__file__).parent


@functools.cache
def cases(golden_set: str) -> dict[str, dict]:
    """The cases of a set by name."""
    index = json.loads((FOLDER / golden_set / "index.json").read_text())
    listed = index if isinstance(index, list) else index["cases"]
    return {case["case"]: case for case in listed}
