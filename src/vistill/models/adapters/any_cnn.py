"""Any CNN as a backbone: its last feature map, before and after the last activation, and their
means (KDEP; spec kdep 3, 4)."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vistill.image_size import ImageSize, height_width
from vistill.models.adapters.named_maps import Places, find_places, kept_maps
from vistill.models.adapters.sites import Function, Observer, Site, Sites, find_sites
from vistill.models.backbone import POOLED, Backbone, Normalization, Tap, TapKind, scores
from vistill.models.drop_path import drawn, paths
from vistill.models.taps import Draws, Images, Run, Seen, Taps, Visible


class _ReachedLastSiteError(Exception):
    """Leaves a forward pass of which nobody needs the rest."""


class _Cut(Observer):
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
    gives that is named. `pooled` is the map's mean over space. Of `maps` that are named the last to
    be made is read so, and `Tap("map_act", n)` is the n-th of them, counted from 1.

    Example:
        `PooledBackbone(my_cnn, image_size=32)`,
        `PooledBackbone(my_detector_backbone, layer="fpn", output=0, image_size=(320, 640))`,
        `PooledBackbone(my_yolo, maps=["model.4", "model.6", "model.9"], image_size=640)`

    Args:
        module: called with normalised images.
        image_size: height and width it is used at.
        part: dotted name of the part of the module that is called instead (the backbone of a
            detector); nothing else of it runs. None: the module itself.
        maps: dotted names of parts that give feature maps, or keys of maps that are returned.
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
        part: str | None = None,
        maps: Sequence[str] = (),
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
        self.adapter = {"part": part, "layer": layer, "output": output, "logits": logits}
        self._part, self._layer, self._output = part, layer, output
        self._sites: dict[bool, Sites] = {}
        self._places: Places | None = None
        self.image_size = height_width(image_size)
        self.name_maps(maps)

    @property
    def runs(self) -> nn.Module:
        """The part of the module that pictures are shown to."""
        return self.module if self._part is None else self.module.get_submodule(self._part)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that `Tap("map_act", n)` gives."""
        return () if self._places is None else self._places.names

    def name_maps(self, names: Sequence[str]) -> None:
        """Offer further maps by name, and take the last of them that is made for the last map.

        Raises:
            UserError: nothing is called so, or it gives no map.
        """
        self._places = None
        if names:
            with switched(self.module, training=False):
                self._places = find_places(self.runs, tuple(names), self.image_size)
            self._layer, self._output = self._places.last
        self.adapter = {**(self.adapter or {}), "maps": list(names)}
        self.resize(self.image_size)

    def resize(self, image_size: ImageSize) -> None:
        """Use the module for pictures of another size."""
        self.image_size = height_width(image_size)
        self.adapter = {**(self.adapter or {}), "image_size": list(self.image_size)}
        with switched(self.module, training=False):
            self._sites = {False: self._find_sites()}
        self.width = self._sites[False].width
        self.reads = self.reads if self.pools_itself else self._sites[False].told

    def _find_sites(self) -> Sites:
        return find_sites(self.runs, self.image_size, self._layer, self._output)

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
        if self._places is not None and any(tap.block for tap in taps):
            return self._named_maps(self._places, images, taps, drop_path_noise)
        if self.pools_itself and any(tap.kind in POOLED for tap in taps):
            maps = [tap for tap in taps if tap.kind in ("map", "map_act")]
            found, feature = self._signals(maps, self.own_feature, images, drop_path_noise)
            scored = [tap for tap in taps if tap.kind == "logits"]  # another way through the module
            found |= self.tap(images, scored, drop_path_noise=drop_path_noise) if scored else {}
            return {tap: feature if tap.kind in POOLED else found[tap] for tap in taps}
        wanted = [tap for tap in taps if tap.kind != "logits"]
        # An exporter's account of modules is upset by a pass that an exception ends.
        whole = len(wanted) < len(taps) or torch.onnx.is_in_onnx_export()
        found, output = self._signals(wanted, self.runs, images, drop_path_noise, whole=whole)
        return {tap: found[tap] if tap in found else scores(output) for tap in taps}

    def _named_maps(
        self, places: Places, images: Tensor, taps: Taps, draws: Draws
    ) -> dict[Tap, Tensor]:
        """Maps by their numbers, and what else is asked for, of a pass no further than the last."""
        last = Tap("map_act", 0)
        others = [tap for tap in taps if not tap.block]
        with kept_maps(self.runs, places) as kept:
            found, output = self._signals(
                [last, *others], self.runs, images, draws, whole=bool(places.keys)
            )
        kept |= places.of_output(output)
        kept[places.last_name] = found[last]
        numbered = {tap: kept[places.names[tap.block - 1]] for tap in taps if tap.block}
        return {tap: numbered[tap] if tap.block else found[tap] for tap in taps}

    def _signals(
        self,
        taps: Taps,
        run: Callable[[Tensor], Any],
        images: Tensor,
        draws: Draws = None,
        *,
        whole: bool = True,
    ) -> tuple[dict[Tap, Tensor], Any]:
        """Maps and means of one pass by `run`, and what it returns, None where it is left early."""
        output = None
        with drawn(self.runs, draws):
            if not taps:
                return {}, run(images)
            sites = self._sites_now()
            wanted = {tap: _site(sites, tap.kind) for tap in taps}
            with _Cut(set(wanted.values()), whole=whole) as cut:
                output = run(images)
        found = {tap: _shaped(sites, tap.kind, cut.found[site]) for tap, site in wanted.items()}
        return found, output

    @property
    def num_drop_path_draws(self) -> int:
        """Rows of `drop_path_noise`: one for every module that drops branches."""
        return len(paths(self.runs))

    def watch(self, images: Tensor, run: Run) -> Seen:
        """One whole pass by `run`, with the signals of all taps but the scores."""
        taps = [Tap(kind, 0) for kind in self.taps if kind != "logits"]
        found, own = self._signals(taps, run, images)
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


def named_maps(model: Backbone) -> tuple[str, ...]:
    """The maps of a model that have names."""
    return model.maps if isinstance(model, PooledBackbone) else ()
