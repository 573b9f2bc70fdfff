"""Weights of Swin transformers in files: Microsoft's names (EsViT, feature distillation; spec fd
2.4, 4), which timm's differ from in where patches are merged."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vistill.errors import UserError
from vistill.models.files.named_weights import load_named
from vistill.models.grids import INDEX, TABLE, Grid
from vistill.models.swin import SwinBackbone

_COORDS, _MASK, _APE = "relative_coords_table", "attn_mask", "absolute_pos_embed"
# Heads, and parts of pre-training, that a backbone has no use for.
_LEFT_OUT = re.compile(r"^head|^decoder\.|^feature_model\.")
_BUFFER = re.compile(rf"({INDEX}|{_COORDS}|{_MASK})$")


class _Stage(NamedTuple):
    """What the tensors of a stage tell.

    Attributes:
        window: side of its windows, which a small grid clips; None: no tensor tells.
        grid: rows and columns of its tokens, from the mask of shifted windows; or None.
    """

    window: int | None
    grid: Grid | None


def is_swin(state: dict[str, Tensor]) -> bool:
    """Whether a state dict carries the names of a Swin transformer."""
    return "layers.0.blocks.0.attn.qkv.weight" in state


def swin_from_state(
    state: dict[str, Tensor],
    source: str,
    *,
    stages: int | None = None,
    image_size: Grid | None = None,
    window: int | None = None,
    qk_scale: float | None = None,
) -> SwinBackbone:
    """A Swin with the sizes that its tensors tell and their values.

    Windows follow from bias tables, indices and coordinates; the side of the input from the masks
    of shifted windows, and from windows that a small grid clipped. Buffers in the file must be
    those of the model that is built.

    Args:
        state: weights under Microsoft's or timm's names.
        source: where they come from, for messages.
        stages: build the first stages only; the final norm then has no weights of its own.
        image_size: height and width of the pictures, where no tensor tells them.
        window: side of the windows, where no tensor tells it.
        qk_scale: of the attention of the first version, which no tensor tells.

    Raises:
        UserError: names or shapes are others than a Swin's, or no tensor tells a size that nobody
            named.
    """
    depths = _depths(state)
    first = "layers.0.blocks.0."
    second = f"{first}attn.logit_scale" in state
    kernel = state["patch_embed.proj.weight"]
    pitch = kernel.shape[-1]
    told = [_stage(state, number, source) for number in range(len(depths))]
    sides = [stage.window for stage in told if stage.window is not None]
    size = _image_size(told, max(sides, default=0), pitch, source, image_size)
    size = _size_of_table(state.get(_APE), size, pitch, source)
    if window is not None and window < max(sides, default=0):
        raise UserError(f"{source} has windows of {max(sides)}, not of window={window}")
    unknown = [] if size else ["image_size=HEIGHTxWIDTH"]
    unknown += [] if sides or window else ["window=SIDE"]
    if size is None or unknown:
        raise UserError(
            f"no tensor of {source} tells {' and '.join(w.partition('=')[0] for w in unknown)}: "
            f"write file:{source},{','.join(unknown)}"
        )
    scales = "attn.logit_scale" if second else f"attn.{TABLE}"
    heads = [
        _tensor(state, f"layers.{i}.blocks.0.{scales}", source).shape[0 if second else 1]
        for i in range(len(depths))
    ]
    depths = depths[:stages]
    model = SwinBackbone(
        version=2 if second else 1,
        image_size=size,
        patch_size=pitch,
        embed_dim=kernel.shape[0],
        depths=depths,
        num_heads=heads[: len(depths)],
        window_size=window or max(sides),
        mlp_ratio=_tensor(state, f"{first}mlp.fc1.weight", source).shape[0] / kernel.shape[0],
        ape=_APE in state,
        extra_norm_period=_norm_period(state),
        qk_scale=qk_scale,
        key_bias=second and f"{first}attn.k_bias" in state,
        share_bias=any(".rel_pos_bias." in name for name in state),
        pretrained_windows=_pretrained(state, told[: len(depths)]) if second else None,
    )
    named = _timm_names(state, depths)
    weights = {k: v for k, v in named.items() if not _BUFFER.search(k)}
    if stages is not None:
        own = model.module.state_dict()
        weights = {k: v for k, v in weights.items() if k in own and not k.startswith("norm.")}
    optional = () if stages is None else ("norm.weight", "norm.bias")
    load_named(model.module, weights, source, optional=optional)
    _check_buffers({k: v for k, v in named.items() if _BUFFER.search(k)}, model, source)
    return model


def _depths(state: dict[str, Tensor]) -> list[int]:
    depths = [0]
    for name in state:
        found = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
        if found is not None:
            depths += [0] * (int(found[1]) + 1 - len(depths))
            depths[int(found[1])] = max(depths[int(found[1])], int(found[2]) + 1)
    return depths


def _tensor(state: dict[str, Tensor], name: str, source: str) -> Tensor:
    if name not in state:
        raise UserError(f"{source} is no whole Swin: {name} missing")
    return state[name]


def _stage(state: dict[str, Tensor], number: int, source: str) -> _Stage:
    inside = {k: v for k, v in state.items() if k.startswith(f"layers.{number}.")}
    sides = dict(_window_sides(inside))
    if any(side != round(side) for side in sides.values()) or len(set(sides.values())) > 1:
        shown = ", ".join(f"{name} {list(state[name].shape)}" for name in list(sides)[:2])
        raise UserError(f"{source}: {shown} are not of one square window")
    window = round(next(iter(sides.values()))) if sides else None
    mask = next((v for k, v in inside.items() if k.endswith(_MASK)), None)
    if mask is None or window is None:
        return _Stage(window, None)
    rows, columns = _windows(mask, source)
    return _Stage(window, (rows * window, columns * window))


def _window_sides(inside: dict[str, Tensor]) -> Iterator[tuple[str, float]]:
    for name, value in inside.items():
        if name.endswith(TABLE):
            yield name, (value.shape[0] ** 0.5 + 1) / 2
        elif name.endswith(INDEX):
            yield name, value.shape[0] ** 0.5
        elif name.endswith(_COORDS):
            yield name, (math.prod(value.shape[1:3]) ** 0.5 + 1) / 2
        elif name.endswith(_MASK):
            yield name, value.shape[1] ** 0.5


def _windows(mask: Tensor, source: str) -> Grid:
    """Rows and columns of windows: only those of the last row and the last column are masked."""
    count = mask.shape[0]
    if mask.is_meta:  # without values
        return (round(count**0.5),) * 2
    masked = mask.flatten(1).ne(0).any(1).nonzero().flatten()
    columns = int(masked[0]) + 1 if len(masked) else 0
    if not columns or count % columns:
        raise UserError(f"{source}: its {_MASK} of {count} windows is none of shifted windows")
    return count // columns, columns


def _image_size(
    stages: Sequence[_Stage], window: int, pitch: int, source: str, said: Grid | None
) -> Grid | None:
    """The size that masks tell; else `said`, or that of stages whose grid clips the window."""
    masks = {
        (s.grid[0] * pitch * 2**i, s.grid[1] * pitch * 2**i)
        for i, s in enumerate(stages)
        if s.grid is not None
    }
    covered = {
        (s.window * pitch * 2**i,) * 2
        for i, s in enumerate(stages)
        if s.window is not None and s.window < window
    }
    given = {said} if said is not None else set()
    shorter = {min(size) for size in masks | covered}
    if len(masks) > 1 or len(shorter) > 1:
        shown = " and ".join(f"{height} x {width}" for height, width in sorted(masks | covered))
        raise UserError(f"{source}: its stages tell of pictures of {shown} pixels")
    found = next(iter(masks or given or covered), None)
    if said is not None and (said != found or shorter - {min(said)}):
        height, width = next(iter(masks or covered))
        raise UserError(
            f"{source} is for pictures of {height} x {width} pixels, as its windows tell, not for "
            f"image_size={said[0]}x{said[1]}"
        )
    return found


def _size_of_table(table: Tensor | None, size: Grid | None, pitch: int, source: str) -> Grid | None:
    """The size that a table of absolute positions tells, of a square where nothing else does."""
    if table is None:
        return size
    side = math.isqrt(table.shape[1])
    if size is None and side * side == table.shape[1]:
        return side * pitch, side * pitch
    if size is not None and (size[0] // pitch) * (size[1] // pitch) != table.shape[1]:
        raise UserError(
            f"{source}: {_APE} has {table.shape[1]} places, which are not those of pictures of "
            f"{size[0]} x {size[1]} pixels"
        )
    return size


def _norm_period(state: dict[str, Tensor]) -> int | None:
    """Every how many blocks there is a further norm, told by the first of them."""
    found = (re.match(r"layers\.\d+\.blocks\.(\d+)\.enorm\.weight$", name) for name in state)
    return min((int(one[1]) + 1 for one in found if one is not None), default=None)


def _pretrained(state: dict[str, Tensor], stages: Sequence[_Stage]) -> list[int] | None:
    """Windows by which coordinates are scaled, where they are others than the stage's own."""
    found = []
    for number, stage in enumerate(stages):
        table = next(
            (v for k, v in state.items() if re.match(rf"layers\.{number}\..*{_COORDS}$", k)), None
        )
        own = stage.window or 0
        if table is None or table.is_meta or own < 2:
            found.append(own)
        else:
            reach = (2 ** (3 * float(table.max())) - 1) / 8
            found.append(1 + round((own - 1) / reach))
    return None if found == [stage.window or 0 for stage in stages] else found


def _check_buffers(buffers: dict[str, Tensor], model: SwinBackbone, source: str) -> None:
    """Buffers that a file keeps are those of the model, or it was built otherwise.

    Microsoft's windows, unlike timm's, are shifted in neither direction where one side of a grid is
    no longer than a window; pictures of unequal sides may show that.
    """
    own = {k: v for k, v in model.module.named_buffers() if _BUFFER.search(k)}
    parts = {name for name, _ in model.module.named_modules()}  # without stages that were cut away
    theirs = {k: v for k, v in buffers.items() if k.rpartition(".")[0] in parts}
    kinds = {name.rpartition(".")[2] for name in theirs}
    for name in {**theirs, **own}:
        kept = name.rpartition(".")[2] in kinds
        if kept and not _same(own.get(name), theirs.get(name)):
            height, width = model.image_size
            raise UserError(
                f"{source}: {name} is not that of a Swin for {height} x {width} pixels with "
                f"windows of {model.window_size}"
            )


def _same(mine: Tensor | None, theirs: Tensor | None) -> bool:
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return False
    if mine.is_meta or theirs.is_meta:
        return True
    return torch.allclose(mine.double().cpu(), theirs.double().cpu(), atol=1e-3)


def _timm_names(state: dict[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """timm merges patches at the start of a stage, and calls the bias network `cpb_mlp`."""
    at_the_end = any(name.startswith("layers.0.downsample.") for name in state)
    renamed = {}
    for name, value in state.items():
        if _LEFT_OUT.search(name):
            continue
        new = name.replace(".rpe_mlp.", ".cpb_mlp.")
        if at_the_end:
            new = re.sub(
                r"^layers\.(\d+)\.downsample\.",
                lambda found: f"layers.{int(found[1]) + 1}.downsample.",
                new,
            )
        shared = re.match(r"layers\.(\d+)\.rel_pos_bias\.(.*)$", new)
        if shared is None:
            renamed[new] = value
            continue
        for block in range(depths[int(shared[1])] if int(shared[1]) < len(depths) else 0):
            renamed[f"layers.{shared[1]}.blocks.{block}.attn.{shared[2]}"] = value
    return renamed
