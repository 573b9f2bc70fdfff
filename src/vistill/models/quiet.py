"""Libraries that work without their warnings, where a sentence of ours says what matters."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

HUB = "huggingface_hub"
"""Warns twenty times of a hub that cannot be reached."""
ONNX = "onnxscript"
"""Remarks on what it leaves as it is, though the file is compared."""


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Without the warnings of the logger of that name; errors are told."""
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(before)
