"""The nearest numbers that would do, for sentences about those that do not."""

_DEPTHS = (12, 24, 32, 40, 48)
"""Blocks of the usual transformers."""


def no_split(width: int, parts: int, what: str = "heads") -> str:
    """`a width of 192 cannot be split into 5 heads; 4 or 6 would do`."""
    fitting = [n for n in range(1, width + 1) if width % n == 0]
    below = max((n for n in fitting if n < parts), default=None)
    above = min((n for n in fitting if n > parts), default=None)
    near = _either(below, above)
    return f"a width of {width} cannot be split into {parts} {what}; {near} would do"


def no_multiple(value: int, of: int, least: int = 1) -> str:
    """`is no multiple of 16; 208 or 224 would do`, at least `least` times."""
    below = max(value // of, least) * of
    return f"is no multiple of {of}; {_either(below, max(below + of, least * of))} would do"


def same_depth(block: int, depth: int) -> int:
    """The block of a model of `depth` blocks that is as deep as `block` of the model it was meant
    for: the smallest usual one that has so many."""
    meant = next((usual for usual in _DEPTHS if usual >= block), block)
    return max(1, min(depth, round(block * depth / meant)))


def _either(below: int | None, above: int | None) -> str:
    return " or ".join(str(n) for n in (below, above) if n is not None)
