"""Any CNN as a backbone: its last feature map, before and after the last activation, and their
means. Where they are is found by watching one forward pass, not by name (KDEP; spec kdep 3, 4)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vistill.errors import UserError, first_line
from vistill.image_size import ImageSize, height_width
from vistill.models.backbone import Backbone, Normalization, Tap, TapKind, scores
from vistill.models.drop_path import drawn, paths
from vistill.models.taps import Draws, Images, Seen, Taps, Visible

_ACTIVATIONS = frozenset(
    (
        *("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min"),
        *("leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "selu", "celu", "gelu", "silu"),
        *("mish", "hardswish", "softplus", "tanh", "tanh_"),
    )
)
_TELLING = 4
_LARGEST = 512
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


class _Observer(TorchFunctionMode):
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


class _Watch(_Observer):
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


class _ReachedLastSiteError(Exception):
    """Leaves a forward pass of which nobody needs the rest."""


class _Cut(_Observer):
    """Keeps the tensors at `sites`, ends the forward pass at the last of them or lets it go on."""

    def __init__(self, sites: set[Site], *, whole: bool) -> None:
        super().__init__()
        self.found: dict[Site, Tensor] = {}
        self._waiting = set(sites)
        self._whole = whole
        self._names = {site.function for site in sites}
        self._counts: Counter[str] = Counter()

    def see(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = function.__name__
        if name not in self._names:
            return function(*args, **kwargs)
        number = self._counts[name]
        self._counts[name] += 1
        self._keep(Site(name, number, False), args)
        result = function(*args, **kwargs)
        self._keep(Site(name, number, True), (result,))
        return result

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> bool:
        super().__exit__(kind, *rest)
        return kind is _ReachedLastSiteError

    def _keep(self, site: Site, values: tuple[Any, ...]) -> None:
        if site not in self._waiting:
            return
        self._waiting.remove(site)
        # An activation in place would overwrite a map that is still wanted.
        kept = self._whole or self._waiting
        self.found[site] = values[0].clone() if kept else values[0]
        if not kept:
            raise _ReachedLastSiteError


class PooledBackbone(Backbone):
    """An adapter around any module that makes feature maps.

    Its taps are `map`, `pooled`, `map_act` and `pooled_act`; it has no blocks (`depth` 0). Read is
    the last map in front of what becomes of it: an average over space, or a flattening for linear
    layers; or a map that the module returns, the last of several (P3, P4, P5); or what a layer
    gives that is named. `pooled` is the map's mean over space.

    Example:
        `PooledBackbone(my_cnn, image_size=32)`,
        `PooledBackbone(my_detector_backbone, layer="fpn", output=0, image_size=(320, 640))`

    Args:
        module: called with normalised images.
        image_size: height and width it is used at.
        layer: dotted name of the part of the module whose output is read; None: as told above.
        output: which of several maps that are returned, by place or key; None: the last.
        logits: whether the module returns class scores, or an object with `logits`.
        normalization: statistics of the module's inputs.
        origin: where its weights come from.
        build: how `vistill.models.build` makes it again, or None.

    Raises:
        UserError: the module cannot take such images, or does not average a last map.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        image_size: ImageSize = 224,
        layer: str | None = None,
        output: int | str | None = None,
        logits: bool = False,
        build: dict[str, Any] | None = None,
        normalization: Normalization | None = None,
        origin: str = "given as an object",
    ) -> None:
        super().__init__()
        self.module = module
        self.depth = 0
        self.num_heads = ()
        self.num_prefix_tokens = 0
        kinds: list[TapKind] = ["map", "pooled", "map_act", "pooled_act"]
        self.taps = frozenset([*kinds, "logits"] if logits else kinds)
        self.normalization = normalization or Normalization()
        self.origin = origin
        self.build = build
        self.adapter = {"layer": layer, "output": output, "logits": logits}
        self._layer, self._output = layer, output
        self._sites: dict[bool, Sites] = {}
        self.resize(image_size)

    def resize(self, image_size: ImageSize) -> None:
        """Use the module for pictures of another size."""
        self.image_size = height_width(image_size)
        self.adapter = {**(self.adapter or {}), "image_size": list(self.image_size)}
        with switched(self.module, training=False):
            self._sites = {False: self._find_sites()}
        self.width, self.reads = self._sites[False].width, self._sites[False].told

    def _find_sites(self) -> Sites:
        return find_sites(self.module, self.image_size, self._layer, self._output)

    def _sites_now(self) -> Sites:
        # Auxiliary heads and the like may exist in training only, so each mode is watched.
        training = self.module.training
        if training not in self._sites:
            with switched(self.module, training=training):
                self._sites[training] = self._find_sites()
        return self._sites[training]

    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        if visible is not None:
            raise ValueError("a CNN cannot be shown some of its patches only")
        sites = self._sites_now()
        wanted = {tap: _site(sites, tap.kind) for tap in taps if tap.kind != "logits"}
        # An exporter's account of modules is upset by a pass that an exception ends.
        whole = len(wanted) < len(taps) or torch.onnx.is_in_onnx_export()
        output = None
        with drawn(self.module, drop_path_noise), _Cut(set(wanted.values()), whole=whole) as cut:
            output = self.module(images)
        found = {tap: _shaped(sites, tap.kind, cut.found[site]) for tap, site in wanted.items()}
        return {tap: found[tap] if tap in found else scores(output) for tap in taps}

    @property
    def num_drop_path_draws(self) -> int:
        """Rows of `drop_path_noise`: one for every module that drops branches."""
        return len(paths(self.module))

    def watch(self, images: Tensor, run: Callable[[Tensor], Any]) -> Seen:
        """One whole pass by `run`, with the signals of all taps but the scores."""
        sites = self._sites_now()
        wanted = {Tap(kind, 0): _site(sites, kind) for kind in self.taps if kind != "logits"}
        with _Cut(set(wanted.values()), whole=True) as cut:
            own = run(images)
        found = {tap: _shaped(sites, tap.kind, cut.found[site]) for tap, site in wanted.items()}
        return Seen(found, {}, {}, None, own)

    def forward(self, images: Tensor) -> Tensor:
        """The last map as tokens, after the last activation."""
        tap = Tap("map_act", 0)
        return self.tap(images, [tap])[tap].flatten(2).mT

    def tokens_and_pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` and `pooled` give, in one pass."""
        last, mean = Tap("map_act", 0), Tap("pooled_act", 0)
        found = self.tap(images, [last, mean])
        return found[last].flatten(2).mT, found[mean]

    def pooled(self, images: Tensor, pool: Literal["avg", "cls"] = "avg") -> Tensor:
        """The feature that a classifier of this network sees; `pool` can only be `avg`."""
        tap = Tap("pooled_act", 0)
        return self.tap(images, [tap])[tap]


def _site(sites: Sites, kind: TapKind) -> Site:
    behind = kind.endswith("_act") or sites.before == sites.after
    if kind.startswith("pooled") and behind and sites.norm is not None:
        return sites.norm
    return sites.after if kind.endswith("_act") else sites.before


def _shaped(sites: Sites, kind: TapKind, found: Tensor) -> Tensor:
    if kind.startswith("map"):
        return found.permute(0, 3, 1, 2) if sites.channels_last else found
    if _site(sites, kind) == sites.norm:
        return found[:, 0] if found.dim() == 3 else found.flatten(1)
    return found.mean(dim=(1, 2) if sites.channels_last else (2, 3))


@contextmanager
def switched(module: nn.Module, *, training: bool) -> Iterator[None]:
    """`module` in one mode, with modes, buffers and random numbers put back afterwards."""
    modes = {part: part.training for part in module.modules()}
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    module.train(training)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for buffer, value in buffers.items():
            buffer.copy_(value)


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
        handle = part.register_forward_hook(lambda _, __, out, seen=given: seen.append(out))
        with _Watch() as watch:
            try:
                module(images)
            except Exception as error:  # whatever a stranger's module may raise
                if enlarge > 1:
                    break
                raise UserError(
                    f"{name} cannot take pictures of {height} x {width} pixels: {first_line(error)}"
                ) from error
            finally:
                handle.remove()
        if not given:
            raise UserError(f"{name} never comes by its layer {layer!r}")
        own = own or watch.counts
        found = _read(watch.calls, given[-1], name, layer, output)
        if found is not None:
            # Windows may take fewer steps on small pictures, long before the last map.
            sites, side = _moved(found[0], own - watch.counts, watch.counts - own), found[1]
        if max(side, _last_side(watch.calls)) >= _TELLING:
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
    calls: list[_Call], given: Any, name: str, layer: str | None, output: int | str | None
) -> tuple[Sites, int] | None:
    """Where the feature is, and the shorter side of its map; None where there is none."""
    maps = _maps(given)
    if layer is None and isinstance(given, Tensor) and not _is_map(given):
        maps = {}  # a pooled feature of one place, or class scores
    whose = f"layer {layer}" if layer is not None else name
    if output is not None and output not in maps:
        there = ", ".join(map(repr, maps)) or "no maps"
        raise UserError(f"the output {output!r} of {whose} is no feature map; there is {there}")
    if not maps:
        if layer is not None:
            raise UserError(f"layer {layer} of {name} gives no feature map [B, D, H, W]")
        return _among(calls, None, "")
    key = next(reversed(maps)) if output is None else output
    told = f"what {whose} gives" if layer is not None else "the map that it returns"
    if len(maps) > 1 or key != "":
        told = f"map {key!r} of {', '.join(map(repr, maps))} that {whose} gives"
    return _among(calls, maps[key], told)


def _maps(given: Any) -> dict[int | str, Tensor]:
    """Feature maps in what a module gives, by place or key."""
    if isinstance(given, Tensor):
        return {"": given} if given.dim() == 4 else {}
    pairs: Any = ()
    if isinstance(given, Mapping):
        pairs = given.items()
    elif isinstance(given, list | tuple):
        pairs = enumerate(given)
    maps = {k: v for k, v in pairs if isinstance(v, Tensor) and v.dim() == 4}
    # transformers gives pooled features of one pixel beside the map.
    return {k: v for k, v in maps.items() if max(v.shape[2:]) > 1} or maps


def _last_side(calls: list[_Call]) -> int:
    """Shorter side of the last map of any size: larger pictures only help where it is short."""
    return next((min(c.result.shape[2:]) for c in reversed(calls) if c.result.dim() == 4), 0)


def _among(calls: list[_Call], wanted: Tensor | None, told: str) -> tuple[Sites, int] | None:
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
    channels_last = seen[0] if seen else False
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
