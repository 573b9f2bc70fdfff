"""The nearest numbers that would do, for the sentences about those that do not."""

_DEPTHS = (12, 24, 32, 40, 48)
"""Blocks of the usual transformers."""


def near_divisors(width: int, parts: int) -> str:
    """`4 or 6`: the next numbers of equal parts below and above `parts` into which `width` can be
    split; `parts` is none."""
    below = max((n for n in range(1, min(parts, width + 1)) if width % n == 0), default=None)
    above = next((n for n in range(parts + 1, width + 1) if width % n == 0), None)
    return _either(below, above)


def no_split(width: int, heads: int) -> str:
    """`a width of 192 cannot be split into 5 heads; 4 or 6 would do`."""
    near = near_divisors(width, heads)
    return f"a width of {width} cannot be split into {heads} heads; {near} would do"


def near_multiples(value: int, of: int) -> str:
    """`208 or 224`: the next multiples of `of` below and above `value`, which is none."""
    below = value // of * of
    return _either(below or None, below + of)


def same_depth(block: int, depth: int) -> int:
    """The block of a model of `depth` blocks that lies as deep in it as `block` in the model that
    was meant: the smallest usual one that has it."""
    meant = next((usual for usual in _DEPTHS if usual >= block), block)
    return max(1, min(depth, round(block * depth / meant)))


def _either(below: int | None, above: int | None) -> str:
    return " or ".join(str(n) for n in (below, above) if n is not None)
