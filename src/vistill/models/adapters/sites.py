"""Where a CNN's last feature map is, before and after the last activation, and what becomes of it:
found by watching one forward pass, not by name (KDEP; spec kdep 3, 4)."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vistill.errors import UserError, first_line

_ACTIVATIONS = frozenset(
    (
        *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min"),
        *("leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "selu", "celu", "gelu", "silu"),
        *("mish", "hardswish", "softplus", "tanh", "tanh_"),
    )
)
_TELLING = 4
_LARGEST = 512
_CLEARLY = 0.5
_LAST = "last_hidden_state"
_MAPS = "feature_maps"
_NORMS = frozenset(("layer_norm", "batch_norm", "group_norm"))
_DROPOUT = frozenset(("dropout", "dropout2d", "feature_dropout"))

Function = Callable[..., Any]


class Site(NamedTuple):
    """A tensor of a forward pass: an argument or result of the `number`th call of a function."""

    function: str
    number: int
    result: bool


class Sites(NamedTuple):
    """Where a model's feature is.

    Attributes:
        before: the last map, in front of the last activation.
        after: the same behind it; equal to `before` where there is no activation.
        norm: the normalised mean, where a norm follows the pooling (ConvNeXt); else None.
        channels_last: whether the maps are `[B, H, W, D]`.
        width: channels D.
        told: which map it is, in words; empty: the last, which is averaged.
    """

    before: Site
    after: Site
    norm: Site | None
    channels_last: bool
    width: int
    told: str


class _Call(NamedTuple):
    function: str
    number: int
    argument: Tensor
    result: Tensor


class Observer(TorchFunctionMode):
    """Sees every torch function of a forward pass, with its arguments."""

    def __torch_function__(
        self,
        function: Function,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self.see(function, args, kwargs or {})

    def see(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function, or answer in its place."""
        raise NotImplementedError


class _Watch(Observer):
    """Notes every torch function that turns a tensor into a tensor; dropout drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.counts: Counter[str] = Counter()

    def see(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = function.__name__
        if name in _DROPOUT:
            return args[0]
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and args:
            argument = args[0] if isinstance(args[0], Tensor) else result  # a list: concatenation
            self.calls.append(_Call(name, self.counts[name], argument, result))
        self.counts[name] += 1
        return result


@torch.no_grad()
def find_sites(
    module: nn.Module,
    image_size: tuple[int, int],
    layer: str | None = None,
    output: int | str | None = None,
) -> Sites:
    """Watch a forward pass of `module` for the map that is read and what becomes of it.

    Raises:
        UserError: the pass fails, or there is no such map.
    """
    name = type(module).__name__
    part = _part(module, layer)
    like = next(module.parameters(), torch.empty(0))
    height, width = image_size
    sites, side, own = None, 0, Counter[str]()
    # A map of one pixel is no map to see, and one of few may be averaged by a shortcut's stride.
    for enlarge in (1, 2, 4, 8):
        if enlarge > 1 and enlarge * max(image_size) > _LARGEST:
            break
        images = torch.rand(2, 3, enlarge * height, enlarge * width).to(like)
        given: list[Any] = []
        handle = part.register_forward_hook(lambda _, __, out, into=given: into.append(out))
        with _Watch() as watch:
            try:
                module(images)
            except Exception as error:  # whatever a stranger's module may raise
                if enlarge > 1:
                    break
                if layer is None or not given:  # what is behind a named layer never runs here
                    raise UserError(
                        f"{name} cannot take pictures of {height} x {width} pixels: "
                        f"{first_line(error)}"
                    ) from error
            finally:
                handle.remove()
        if not given:
            raise UserError(f"{name} never comes by its layer {layer!r}")
        own = own or watch.counts
        seen = (enlarge * height, enlarge * width)
        found = _read(watch.calls, given[-1], name, layer, output, seen)
        if found is not None:
            # Windows may take fewer steps on small pictures, long before the last map.
            sites, side = _moved(found[0], own - watch.counts, watch.counts - own), found[1]
        if max(side, _last_side(watch.calls)) >= _TELLING:
            sites = None if found is None else sites  # what it was in few pixels is chance
            break
    if sites is not None:
        return sites
    raise UserError(
        f"{name} does not end in a feature map that it averages over space or flattens, so it has "
        "no pooled feature; name the layer to read (layer=...), or for a transformer use "
        "vistill.models.adapters.any_transformer.ModuleBackbone"
    )


def _moved(sites: Sites, more: Counter[str], fewer: Counter[str]) -> Sites:
    """`sites` of a pass in which functions are called more or less often in front of them."""

    def moved(site: Site) -> Site:
        return site._replace(number=site.number + more[site.function] - fewer[site.function])

    norm = None if sites.norm is None else moved(sites.norm)
    return sites._replace(before=moved(sites.before), after=moved(sites.after), norm=norm)


def _part(module: nn.Module, layer: str | None) -> nn.Module:
    """The part of `module` that is called `layer`; the module itself without a name."""
    names = dict(module.named_modules())
    if layer is not None and layer not in names:
        near = get_close_matches(layer, names, n=3, cutoff=0.3) or list(names)[1:4]
        raise UserError(f"{type(module).__name__} has no layer {layer!r}; near: {', '.join(near)}")
    return names[layer or ""]


def _read(
    calls: list[_Call],
    given: Any,
    name: str,
    layer: str | None,
    output: int | str | None,
    size: tuple[int, int],
) -> tuple[Sites, int] | None:
    """Where the feature is, and the shorter side of its map; None where there is none."""
    maps = returned_maps(given)
    if layer is None and isinstance(given, Tensor) and not _is_map(given):
        maps = {}  # a pooled feature of one place, or class scores
    whose = f"layer {layer}" if layer is not None else name
    if output is not None and output not in maps:
        there = ", ".join(map(repr, maps)) or "no maps"
        raise UserError(f"the output {output!r} of {whose} is no feature map; there is {there}")
    if not maps:
        if layer is not None:
            raise UserError(f"layer {layer} of {name} gives no feature map [B, D, H, W]")
        return _among(calls, None, "", size)
    if output is None and layer is None and isinstance(given, Mapping) and _LAST in given:
        if _LAST not in maps:
            return None  # of transformers: whatever else is a map beside it, is not its last one
        return _among(calls, maps[_LAST], "", size)
    key = next(reversed(maps)) if output is None else output
    told = f"what {whose} gives" if layer is not None else "the map that it returns"
    if len(maps) > 1 or key != "":
        told = f"map {key!r} of {', '.join(map(repr, maps))} that {whose} gives"
    return _among(calls, maps[key], told, size)


def returned_maps(given: Any) -> dict[int | str, Tensor]:
    """Feature maps in what a module gives, by place or key."""
    if isinstance(given, Tensor):
        return {"": given} if given.dim() == 4 else {}
    pairs: Any = ()
    if isinstance(given, Mapping) and isinstance(given.get(_MAPS), list | tuple):
        pairs = enumerate(given[_MAPS])
    elif isinstance(given, Mapping):
        pairs = given.items()
    elif isinstance(given, list | tuple):
        pairs = enumerate(given)
    maps = {k: v for k, v in pairs if isinstance(v, Tensor) and v.dim() == 4}
    # transformers gives pooled features of one pixel beside the map.
    return {k: v for k, v in maps.items() if max(v.shape[2:]) > 1} or maps


def is_channels_last(shape: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a map of pictures of that height and width is `[B, H, W, D]`: its rows and columns
    are in the ratio of theirs."""
    ratio = math.log(size[0] / size[1])
    first, last = (abs(math.log(a / b) - ratio) for a, b in (shape[2:4], shape[1:3]))
    return last < first - _CLEARLY


def _last_side(calls: list[_Call]) -> int:
    """Shorter side of the last map of any size: larger pictures only help where it is short."""
    return next((min(c.result.shape[2:]) for c in reversed(calls) if c.result.dim() == 4), 0)


def _among(
    calls: list[_Call], wanted: Tensor | None, told: str, size: tuple[int, int]
) -> tuple[Sites, int] | None:
    """The call that made the map `wanted`, or the last map, and what becomes of it."""
    made = (
        i for i, call in enumerate(calls)
        if (_is_map(call.result) if wanted is None else call.result is wanted)
    )  # fmt: skip
    last = max(made, default=None)
    if last is None:
        return None
    later, last_map = calls[last + 1 :], calls[last].result
    means = {False: last_map.mean(dim=(2, 3)), True: last_map.mean(dim=(1, 2))}
    seen = [way for way, mean in means.items() if any(_same(call.result, mean) for call in later)]
    if not seen and wanted is None:
        if not any(_is_flat(call.result, last_map) for call in later):
            return None
        told = "its last map, which it flattens"
    channels_last = seen[0] if seen else is_channels_last(last_map.shape, size)
    mean = means[channels_last]
    norm = next((c for c in later if c.function in _NORMS and _same(_leading(c), mean)), None)
    function, number = calls[last].function, calls[last].number
    after = Site(function, number, True)
    sites = Sites(
        before=Site(function, number, False) if function in _ACTIVATIONS else after,
        after=after,
        norm=None if norm is None else Site(norm.function, norm.number, True),
        channels_last=channels_last,
        width=mean.shape[1],
        told=told,
    )
    return sites, min(last_map.shape[1:3] if channels_last else last_map.shape[2:])


def _leading(call: _Call) -> Tensor:
    """What a norm sees, or its first token: DINOv3's ConvNeXt puts the mean in front of the map."""
    return call.argument[:, 0] if call.argument.dim() == 3 else call.argument


def _is_map(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and min(tensor.shape[1:]) > 1 and tensor.is_floating_point()


def _is_flat(tensor: Tensor, last_map: Tensor) -> bool:
    flat = last_map.flatten(1)
    return tensor.shape == flat.shape and bool(torch.equal(tensor, flat))


def _same(tensor: Tensor, mean: Tensor) -> bool:
    if tensor.numel() != mean.numel() or not tensor.is_floating_point():
        return False
    # Relative: the signals of deep networks with fresh weights may be tiny.
    difference = (tensor.reshape(mean.shape) - mean).abs().max()
    return bool(difference <= 1e-3 * mean.abs().max()) or not bool(mean.isfinite().all())
