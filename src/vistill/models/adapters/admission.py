"""What a model of another library has to show before it is used, whatever its architecture.

One whole pass over three small pictures, blank but for a few points, tells where its tokens are and
which of its parts are what they are taken for. Nothing is believed by name.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from vistill.errors import UserError, first_line
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import POOLED, Backbone, Tap, TapKind
from vistill.models.grids import token_grid
from vistill.models.taps import Run, Seen

# Where two pictures are touched: rows and columns as shares of the sides, such that no place is
# another's mirror image or transpose on any grid of four rows or more.
_PLACES = (((0.12, 0.65), (0.62, 0.90)), ((0.40, 0.20), (0.88, 0.40)))
_STRENGTH = 4.0
_SPREAD = 0.12
_LIKE = 0.3
_VERY_LIKE = 0.5
_CLEARLY = 0.2
_TELLING = 4
_TOLERANCE = 1e-3


class Touched(NamedTuple):
    """Three pictures that differ in a few places.

    Attributes:
        pictures: one, and the same touched at two places, and at two others: `[3, 3, H, W]`.
        places: their centres, row and column in pixels, picture by picture.
    """

    pictures: Tensor
    places: list[list[tuple[float, float]]]


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Whatever a library raises becomes a `UserError` that opens with `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {first_line(error)}") from error


def first_admitted(name: str, ways: Sequence[Callable[[], Backbone]]) -> Backbone:
    """The first of several ways to read a model that leads to a backbone.

    Raises:
        UserError: none does; told is why.
    """
    reasons = []
    for way in ways:
        try:
            return way()
        except UserError as error:
            reasons.append(str(error))
        except Exception as error:
            reasons.append(first_line(error))
    raise UserError(f"{name} cannot be read: {'; '.join(dict.fromkeys(reasons))}")


@torch.no_grad()
def admit(model: ModuleBackbone | PooledBackbone, run: Run) -> None:
    """Take `model` as it is, with the taps that are true, or refuse it.

    Of tokens: the prefix is counted, so are heads; every block's output, and queries, keys and
    values, answer where a picture was touched; attention and MLP branches add up (see `Tap`); the
    final norm is what the model itself takes for it. Of maps: the same place is asked.

    Args:
        model: its taps, prefix, heads, width and `reads` are set right.
        run: a whole pass of the library.

    Raises:
        UserError: it fails on pictures of its size, or its tokens are not where they should be.
    """
    was_training = model.training
    model.eval()
    try:
        cnn = isinstance(model, PooledBackbone)
        # Fresh ResNets see but few pixels on their way: squares as large as the cells of a map.
        touched = _touched(model, 8 if cnn else None)
        size = "x".join(map(str, model.image_size))
        with in_one_sentence(f"it cannot take pictures of {size} pixels"):
            seen = model.watch(touched.pictures, run)
        if isinstance(model, PooledBackbone):
            means = _admit_map(model, seen, touched)
        else:
            means = _admit_tokens(model, seen, touched)
        own = None if seen.own.pooled is None else seen.own.pooled.flatten(1)
        asked_for = cnn and model.reads and not model.pools_itself  # a map that was named, say
        if own is not None and not asked_for and not any(_equal(mean, own) for mean in means):
            model.offer_own(run, own.shape[1])
    finally:
        model.train(was_training)


def _admit_tokens(model: ModuleBackbone, seen: Seen, touched: Touched) -> list[Tensor]:
    """Refuse, or set what is true; the features that it may be pooled to."""
    model.reads = model.reads if model.pools_itself else ""
    blocks = [seen.signals[Tap("block", i + 1)] for i in range(model.depth)]
    prefix = _prefix(model, blocks, touched)
    model.num_prefix_tokens, model.width = prefix, blocks[-1].shape[2]
    declared = model.num_heads if len(model.num_heads) == model.depth else (0,) * model.depth
    model.num_heads = tuple(seen.heads.get(i + 1, n) for i, n in enumerate(declared))
    true: set[TapKind] = {*model.taps}
    for number in seen.entered:
        true &= _true_kinds(model, seen, number, touched)
    if not prefix or not model.has_class_token:
        true.discard("cls_attention")
    if not _norm_is_own(model, blocks[-1], seen):
        true.discard("norm")
    model.taps = frozenset(true)
    final = blocks[-1]
    if "norm" in true:
        final = model.final_norm(final)
    patches, own = final.shape[1] - prefix, seen.own.tokens
    if own is not None and own.dim() == 3 and own.shape[1] < patches:
        raise UserError(
            f"its last tokens are {own.shape[1]}, not one of each of the {patches} patches of its "
            "blocks"
        )
    means = [model.pool_norm(final[:, prefix:].mean(dim=1))]
    return [*means, final[:, 0]] if model.has_class_token else means


def _prefix(model: ModuleBackbone, blocks: Sequence[Tensor], touched: Touched) -> int:
    """How many tokens of every block stand in front of a grid of patches in the picture's order."""
    count = blocks[0].shape[1]
    possible = [p for p in range(count) if token_grid(count - p, model.image_size) is not None]
    # Few patches tell nothing by their place: believed is what is declared, or the largest grid.
    telling = [
        p for p in possible if min(token_grid(count - p, model.image_size) or (0,)) >= _TELLING
    ]
    for prefix in (model.num_prefix_tokens, *(telling or possible[:1])):
        if prefix in possible and all(_is_grid(t, prefix, model, touched) for t in blocks):
            return prefix
    counts = " or ".join(map(str, sorted({tokens.shape[1] for tokens in blocks}, reverse=True)))
    raise UserError(
        f"the {counts} tokens of its blocks are no grid of patches in the order of the picture, "
        "behind class and register tokens or none"
    )


def _is_grid(tokens: Tensor, prefix: int, model: Backbone, touched: Touched) -> bool:
    """Whether `tokens` behind the prefix are patches in order, as far as their number can tell."""
    patches, size = tokens[:, prefix:], model.image_size
    grid = token_grid(patches.shape[1], size)
    if grid is None:
        return False
    if min(grid) < _TELLING:
        return True
    score = _change(patches, grid)
    if score is None:
        return False
    # With a prefix, a place is one beside another where it is counted wrong.
    if _peaks_in_place(score, size, touched):
        return True
    here, elsewhere = _likeness(score, size, touched)
    return not prefix and here > max(_VERY_LIKE, elsewhere)


def _true_kinds(model: ModuleBackbone, seen: Seen, number: int, touched: Touched) -> set[TapKind]:
    """The kinds of taps that are what they are called, in one block."""
    found = {
        kind: seen.signals[Tap(kind, number)]
        for kind in model.taps
        if Tap(kind, number) in seen.signals
    }
    block, before = found["block"], seen.entered[number]
    residual, attention, ffn = (
        found.get(kind) for kind in ("attention_residual", "attention", "ffn")
    )
    true: set[TapKind] = {"block", "norm", "logits", *POOLED}
    # An attention that is compared and does not lead to the residual leaves it unproved.
    proved = attention is None or residual is None or attention.shape != residual.shape
    if _adds_up(before, attention, residual):
        true |= {"attention", "attention_residual"}
        proved = True
    if _adds_up(residual, ffn, block):
        true |= {"ffn", "attention_residual"} if proved else {"ffn"}
    both = None
    if residual is None and attention is not None and before.shape == attention.shape:
        both = before + attention
    if _adds_up(both, ffn, block):
        true |= {"attention", "ffn"}
    qkv = found.get("qkv")
    if qkv is not None and qkv.shape == (*block.shape[:2], 3, block.shape[2]):
        in_place = _is_grid(qkv, model.num_prefix_tokens, model, touched)
        true |= {"qkv", "cls_attention"} if in_place else set()
    return true


def _adds_up(start: Tensor | None, branch: Tensor | None, end: Tensor | None) -> bool:
    if start is None or branch is None or end is None:
        return False
    if not start.shape == branch.shape == end.shape:
        return False
    rounding = 1e-6 * end.abs().max()
    return bool((start + branch - end).abs().max() <= _TOLERANCE * branch.abs().max() + rounding)


def _norm_is_own(model: ModuleBackbone, last: Tensor, seen: Seen) -> bool:
    """Whether the model's pass norms the last block's tokens, all of them or the class token."""
    if seen.normed is None:
        return False
    ours = model.final_norm(last)
    if seen.normed.shape == ours.shape:
        return _equal(ours, seen.normed)
    return seen.normed.numel() == ours[:, 0].numel() and _equal(
        ours[:, 0], seen.normed.reshape(ours[:, 0].shape)
    )


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max())


def _admit_map(model: PooledBackbone, seen: Seen, touched: Touched) -> list[Tensor]:
    """Refuse a map that is mirrored; the feature that it is pooled to."""
    last, own = seen.signals[Tap("map", 0)], seen.own.tokens
    if own is not None and own.dim() == 3 and not model.reads and model.width != own.shape[2]:
        raise UserError(
            f"the map of {model.width} channels that it averages is not what it ends in, "
            f"tokens of {own.shape[2]}"
        )
    score = _change(last.flatten(2).mT, (last.shape[2], last.shape[3]))
    # Cells of a deep network may answer to anything, so that only a mirror image speaks against it.
    if min(last.shape[2:]) >= _TELLING and score is not None:
        here, mirrored = _likeness(score, model.image_size, touched)
        if mirrored > max(_LIKE, here + _CLEARLY):
            raise UserError("its last map is not in the order of the picture")
    return [seen.signals[Tap("pooled_act", 0)]]


def _touched(model: Backbone, share: int | None = None) -> Touched:
    """Pictures in which squares of two pixels are touched, or of one in `share` of the side."""
    like = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    # Not blank: norms would blow up whatever reaches the far corners of a picture of zeros.
    pictures = torch.randn(1, 3, *model.image_size, generator=generator).repeat(3, 1, 1, 1)
    side = 2 if share is None else max(2, min(model.image_size) // share)
    square = _STRENGTH * torch.randn(3, side, side, generator=generator)
    centres = []
    for picture, places in zip(pictures[1:], _PLACES, strict=True):
        corners = [
            tuple(
                min(int(at * whole) // 2 * 2, whole - side)
                for at, whole in zip(place, model.image_size, strict=True)
            )
            for place in places
        ]
        for y, x in corners:
            picture[:, y : y + side, x : x + side] = square
        centres.append([(y + side / 2, x + side / 2) for y, x in corners])
    return Touched(pictures.to(like), centres)


def _change(tokens: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """How much more of the patch tokens `[3, N, ...]` change in one picture than in the other.

    Their ratio on a grid, as a logarithm, because some tokens change a lot wherever a picture is
    touched; None where nothing changes.
    """
    changes = (tokens[1:] - tokens[:1]).flatten(2).float().norm(dim=2).cpu()
    # What leaks from afar counts little, also where it comes from one of the pictures alone.
    least = 0.1 * changes.max()
    if not bool(least > 0):
        return None
    return ((changes[0] + least) / (changes[1] + least)).log().view(grid)


def _peaks_in_place(score: Tensor, size: tuple[int, int], touched: Touched) -> bool:
    """Whether a change peaks in the cells that were touched.

    An answer may come from one cell beside, where overlapping windows carry it, but not all of them
    the same way.
    """
    grid, shifts = score.shape, []
    for sign, places in zip((1, -1), touched.places, strict=True):
        answer, outside, peaks = sign * score, torch.ones(grid, dtype=torch.bool), []
        for y, x in places:
            row, column = int(y * grid[0] / size[0]), int(x * grid[1] / size[1])
            top, left = max(row - 1, 0), max(column - 1, 0)
            window = answer[top : row + 2, left : column + 2]
            outside[top : row + 2, left : column + 2] = False
            best = divmod(int(window.argmax()), window.shape[1])
            peaks.append(window.max())
            shifts.append((top + best[0] - row, left + best[1] - column))
        if min(peaks) <= answer[outside].max():
            return False
    return all(abs(sum(way)) < len(way) / 2 for way in zip(*shifts, strict=True))


def _likeness(score: Tensor, size: tuple[int, int], touched: Touched) -> tuple[float, float]:
    """How much a change is spread around the places, and around the likest mirror image of them.

    Two correlations, for maps whose cells see far beyond themselves.
    """
    rows, columns = (
        (torch.arange(n) + 0.5) * s / n for n, s in zip(score.shape, size, strict=True)
    )
    expected = torch.zeros(score.shape)
    for sign, places in zip((1, -1), touched.places, strict=True):
        for y, x in places:
            squares = ((rows - y) / size[0])[:, None] ** 2 + ((columns - x) / size[1])[None] ** 2
            expected += sign * (-squares / (2 * _SPREAD**2)).exp()

    def likeness(found: Tensor) -> float:
        pair = torch.stack([found.flatten(), expected.flatten()])
        return float(torch.corrcoef(pair)[0, 1])

    images = [score.flip(0), score.flip(1), score.flip(0, 1)]
    for way, side in enumerate(score.shape):
        if side >= 2 * _TELLING:
            images += [score.roll(sign * max(2, side // 4), way) for sign in (1, -1)]
    if score.shape[0] == score.shape[1]:
        images += [image.T for image in (score, *images)]
    return likeness(score), max(map(likeness, images))
