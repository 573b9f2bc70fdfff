"""The pictures that `scripts/picture_kinds.py` makes, for tests."""

import importlib.util
import sys
from pathlib import Path

_FILE = Path(__file__).parents[3] / "scripts" / "picture_kinds.py"
_SPEC = importlib.util.spec_from_file_location("scripts_picture_kinds", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
kinds = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = kinds
_SPEC.loader.exec_module(kinds)
