"""Words of a command that takes several models."""

import re
from collections.abc import Sequence


def apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Models, and settings `key=value`; a model may have options of its own behind a colon."""
    settings = [word for word in words if re.match(r"[\w.]+=", word)]
    return [word for word in words if word not in settings], settings
