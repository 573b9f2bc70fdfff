"""One feature per picture from several places of a model in a single pass: its pooled penultimate
feature, named layers in between, and class scores (KDEP; spec kdep 3, 4, 8)."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.methods.named_layers import inner_module, watched
from vistill.methods.side import Side
from vistill.models.backbone import Tap, TapKind

Activation = Literal["before", "after"]


_PLACES: dict[Activation | None, TapKind] = {"before": "pooled", "after": "pooled_act"}


class Reading(NamedTuple):
    """What one pass gave.

    Attributes:
        pooled: a CNN's pooled last map, before or after its last activation; another model's own
            pooling.
        classified: what a classifier sees.
        layers: the mean over space of each named layer's output.
        scores: class scores, where they were asked for.
    """

    pooled: Float[Tensor, "b d"]
    classified: Float[Tensor, "b d"]
    layers: list[Float[Tensor, "b e"]]
    scores: Float[Tensor, "b c"] | None


def read(
    side: Side,
    batch: Batch,
    activation: Activation,
    layers: Sequence[str] = (),
    *,
    classified: Activation | None = None,
    scores: Activation | None = None,
) -> Reading:
    """Run a model on the batch as far as needed, and read.

    Args:
        side: the model, with its drop path's draws.
        batch: pictures.
        activation: where `pooled` of a CNN is read.
        layers: dotted names of modules in front of the pooled feature.
        classified: where a classifier of a CNN reads; None: as `activation`.
        scores: where the model's own classifier reads, which it has to offer; None: not wanted.

    Raises:
        UserError: scores before the activation are wanted of something else than one linear layer.
    """
    model = side.model
    cnn = "pooled" in model.taps
    at = {None: _PLACES[activation], **_PLACES}
    wanted: set[TapKind] = {at[activation], at[classified]} if cnn else {"norm"}
    early = cnn and scores == "before"
    if scores is not None:
        wanted.add("pooled" if early else "logits")
    with watched(model, layers) as seen:
        taps = [Tap(one, model.depth) for one in sorted(wanted)]
        found = {tap.kind: signal for tap, signal in side.see(batch, taps).items()}
    pooled = found["norm"][:, model.num_prefix_tokens :].mean(dim=1) if not cnn else None
    said = last_linear(side)(found["pooled"]) if early else found.get("logits")
    places = [found[at[one]] if pooled is None else pooled for one in (activation, classified)]
    return Reading(places[0], places[1], [seen[name] for name in layers], said)


def last_linear(side: Side) -> nn.Linear:
    """The linear layer that makes a CNN's class scores of its pooled feature.

    Raises:
        UserError: there is none.
    """
    linear = [part for part in inner_module(side.model).modules() if isinstance(part, nn.Linear)]
    if not linear or linear[-1].in_features != side.model.width:
        raise UserError(
            f"method.logits_activation=before: the {side.name} has no linear layer that makes "
            "class scores of its pooled feature; use after"
        )
    return linear[-1]


@torch.no_grad()
def layer_widths(side: Side, layers: Sequence[str]) -> list[int]:
    """Channels of the named layers, found by one grey picture.

    Raises:
        UserError: there is no such layer, or it gives no feature in front of the pooled one.
    """
    if not layers:
        return []
    model = side.model
    root, known = inner_module(model), None
    for name in layers:
        if name not in (known := known or dict(root.named_modules())):
            near = get_close_matches(name, [one for one in known if one], n=3, cutoff=0.3)
            raise UserError(
                f"method.stages: the {side.name} has no layer {name!r}; near: {', '.join(near)}"
            )
    was_training = model.training
    grey = next(model.parameters()).new_zeros(2, 3, *model.image_size, dtype=model.input_type)
    rows = torch.arange(2, device=grey.device)
    model.eval()
    try:
        found = read(side, Batch(grey, seeds=rows, ids=rows), "before", layers).layers
    except KeyError as error:
        raise UserError(
            f"method.stages: the {side.name}'s layer {error} is not run in front of its pooled "
            "feature"
        ) from None
    finally:
        model.train(was_training)
    return [mean.shape[1] for mean in found]
