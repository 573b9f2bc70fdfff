"""Captions as UMT reads them (spec umt 10)."""

import re

_DROPPED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACES = re.compile(r"\s+")


def clean(caption: str) -> str:
    """Small letters without punctuation; dashes and slashes part words, as spaces do."""
    text = _DROPPED.sub("", caption.lower())
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    return _SPACES.sub(" ", text).strip()
