"""Errors of a trained classifier on corrupted pictures, as on ImageNet-C (Hendrycks and Dietterich,
arXiv 1903.12261; spec 10): by corruption and severity, their mean, and relative to another model.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.config.evaluation import EvaluateConfig
from vistill.config.robustness import COMMON, RobustnessConfig
from vistill.data import Source
from vistill.data.corrupted import CorruptedViews, Photographs
from vistill.data.loading import Decoder, decode_picture
from vistill.errors import UserError
from vistill.evaluation.inputs import Inputs
from vistill.evaluation.known_classes import Known
from vistill.evaluation.metrics import among_highest, wilson_interval
from vistill.evaluation.retrieval import Figure
from vistill.evaluation.testing import tested
from vistill.evaluation.trained import TrainedClassifier
from vistill.training.distributed import World

ALEXNET = dict(
    zip(
        COMMON,
        (
            *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816),
            *(0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
        ),
        strict=True,
    )
)
"""AlexNet's mean error over the five severities on ImageNet-C, the reference of its authors."""
DRAWN = (
    "drawn, not the published photographs (pip install --no-deps imagecorruptions, or "
    "robustness.frost=FOLDER)"
)
_DRAWS = 1000

Table = Mapping[str, Mapping[int, float]]
"""Error in [0, 1] by corruption and severity."""


@dataclass(frozen=True)
class CorruptedInputs(Inputs):
    """How samples are read, cropped and corrupted.

    Attributes:
        options: of the corruptions.
        photographs: of frost.
    """

    options: RobustnessConfig = field(default_factory=RobustnessConfig)
    photographs: Photographs = field(default_factory=Photographs)

    @property
    def cells(self) -> tuple[tuple[str, int], ...]:
        """Corruption and severity of every view behind the first, which is the picture as it is."""
        options = self.options
        return tuple((name, level) for name in options.corruptions for level in options.severities)

    @property
    def views(self) -> int:
        return 1 + len(self.cells)

    def testing(
        self, interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    ) -> tuple[CorruptedViews, Decoder]:
        options = self.options
        view = CorruptedViews(
            self.image_size,
            options.size,
            self.cells,
            options.quality,
            self.photographs,
            options.seed,
            interpolation,
        )
        return view, decode_picture


@dataclass(frozen=True)
class RobustnessScore:
    """Errors in percent.

    Attributes:
        clean: on the pictures as they are, with Wilson's interval.
        errors: by corruption and severity, likewise.
        corruptions: mean over the severities, by corruption, with an interval by bootstrap over
            pictures.
        mean: plain mean over all corruptions and severities; of the 15 alone where they are asked
            for with others.
        reference: relative to whose errors the next two are; None: nobody's.
        relative: mean over these corruptions of their errors, summed over the severities, per those
            of the reference (mCE of the paper).
        by_reference: the ratio of each corruption.
        averaged: how many corruptions the means are over.
        pictures: tested.
        among: how many classes' scores were compared, and of how many; None: all.
        frost: what it was made of; None: it was not made.
        broken: names of the pictures that could not be read.
    """

    clean: Figure
    errors: Mapping[str, Mapping[int, Figure]]
    corruptions: Mapping[str, Figure]
    mean: Figure
    reference: str | None
    relative: Figure | None
    by_reference: Mapping[str, Figure]
    averaged: int
    pictures: int
    among: tuple[int, int] | None
    frost: str | None
    broken: tuple[str, ...]


class Hits(NamedTuple):
    """What one classifier made of all views.

    Attributes:
        right: whether the highest score is that of the picture's class; one row per picture that
            can be read, of which the first view is the picture as it is.
        ids: positions in the source, ascending.
        broken: names of the others.
    """

    right: Bool[np.ndarray, "n v"]
    ids: Int[np.ndarray, " n"]
    broken: tuple[str, ...]


def corrupted_hits(
    trained: TrainedClassifier,
    source: Source,
    known: Known,
    config: EvaluateConfig,
    photographs: Photographs,
    *,
    world: World,
    progress: str | None,
) -> Hits:
    """Let a classifier see every labelled picture and all corruptions of it.

    Args:
        trained: what is measured.
        source: pictures.
        known: their classes among those of the classifier.
        config: how they are read and corrupted.
        photographs: of frost.
        world: the ranks that share the pictures.
        progress: what to show meanwhile; None for nothing.

    Raises:
        UserError: no picture can be read.
    """
    size, options = trained.backbone.image_size, config.robustness
    inputs = CorruptedInputs(size, None, config.timeout, options, photographs)
    truth = torch.from_numpy(known.truth)

    def compute(batch: Batch) -> Tensor:
        scores = known.compared(trained(batch.unit_pixels())).float().cpu()
        return among_highest(scores, truth[batch.ids.cpu()], 1)[:, None]

    found = tested(trained, compute, source, known, inputs, config, world, progress)
    right = found.features.numpy().reshape(-1, inputs.views) > 0
    return Hits(right, found.ids.numpy()[:: inputs.views], tuple(sorted(found.broken)))


def robustness_score(
    hits: Hits,
    options: RobustnessConfig,
    reference: Hits | Table | None,
    *,
    among: tuple[int, int] | None,
    photographs: Photographs,
) -> RobustnessScore:
    """Errors with their intervals, relative to those of a reference that was measured on the same
    pictures, or elsewhere.

    Of two models pictures are drawn together by the bootstrap; a table from elsewhere is taken as
    it is. A corruption under which the reference makes no error has no ratio.

    Args:
        hits: of the model.
        options: what was measured.
        reference: of another one.
        among: how many classes' scores were compared, and of how many; None: all.
        photographs: of frost.
    """
    names, levels = options.corruptions, options.severities
    wrong = 1.0 - hits.right[:, 1:].reshape(-1, len(names), len(levels))
    of_each = wrong.mean(axis=2)
    others = np.zeros_like(of_each)
    if isinstance(reference, Hits):
        _, ours, theirs = np.intersect1d(hits.ids, reference.ids, return_indices=True)
        other = 1.0 - reference.right[theirs, 1:].reshape(-1, len(names), len(levels))
        hits, wrong, of_each = hits._replace(right=hits.right[ours]), wrong[ours], of_each[ours]
        others = other.mean(axis=2)
    elif reference is not None:
        others += [np.mean([reference[name][level] for level in levels]) for name in names]
    counted = np.array([name in COMMON for name in names])
    counted |= not counted.any()
    drawn = np.stack([_figures(*pair, counted) for pair in _resampled(of_each, others)])
    value = _figures(of_each.mean(axis=0), others.mean(axis=0), counted)
    known = ~np.isnan(value)
    low, high = np.where(known, 0.0, np.nan), np.where(known, 0.0, np.nan)
    low[known], high[known] = np.nanquantile(drawn[:, known], [0.025, 0.975], axis=0)
    told = [Figure(*map(float, 100 * np.array(one))) for one in zip(value, low, high, strict=True)]
    mean, relative, ratios = told[0], told[1], told[2 + len(names) :]
    return RobustnessScore(
        clean=_share(1.0 - hits.right[:, 0]),
        errors={
            name: {level: _share(wrong[:, i, j]) for j, level in enumerate(levels)}
            for i, name in enumerate(names)
        },
        corruptions=dict(zip(names, told[2:], strict=False)),
        mean=mean,
        reference=options.reference,
        relative=None if np.isnan(relative.value) else relative,
        by_reference={
            name: one for name, one in zip(names, ratios, strict=True) if not np.isnan(one.value)
        },
        averaged=int(counted.sum()),
        pictures=len(of_each),
        among=among,
        frost=_frost_of(photographs) if "frost" in names else None,
        broken=hits.broken,
    )


def _resampled(
    first: Float[np.ndarray, "n c"], second: Float[np.ndarray, "n c"]
) -> Iterator[tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]]:
    """Means over pictures that are drawn with replacement, the same for both."""
    rng, n = np.random.default_rng(0), len(first)
    for _ in range(_DRAWS):
        times = rng.multinomial(n, np.full(n, 1 / n)) / n
        yield times @ first, times @ second


def _figures(
    errors: Float[np.ndarray, " c"],
    others: Float[np.ndarray, " c"],
    counted: Bool[np.ndarray, " c"],
) -> Float[np.ndarray, " k"]:
    """Plain mean, mean of the ratios, errors, ratios."""
    ratios = np.divide(errors, others, out=np.full_like(errors, np.nan), where=others > 0)
    known = ratios[counted & ~np.isnan(ratios)]
    relative = known.mean() if len(known) else np.nan
    return np.array([errors[counted].mean(), relative, *errors, *ratios])


def _share(wrong: Float[np.ndarray, " n"]) -> Figure:
    count, n = round(float(wrong.sum())), len(wrong)
    low, high = wilson_interval(count, n)
    return Figure(100 * count / n, 100 * low, 100 * high)


def _frost_of(photographs: Photographs) -> str:
    return DRAWN if photographs.place is None else f"photographs of {photographs.place}"


def read_table(path: Path, options: RobustnessConfig) -> Table:
    """Errors of a model that was measured before.

    Raises:
        UserError: the file holds none, or not all that are asked for.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["robustness"]["errors"]
        table = {
            name: {int(level): float(one[0]) / 100 for level, one in levels.items()}
            for name, levels in told.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"robustness.reference={path} is no result of --protocols robustness: give the file "
            "that its --out wrote, or a model"
        ) from error
    for name in options.corruptions:
        for level in options.severities:
            if level not in table.get(name, ()):
                raise UserError(
                    f"robustness.reference={path} was not measured under {name} of severity {level}"
                )
    return table


def alexnet_table(options: RobustnessConfig, known: Known) -> Table:
    """The published reference.

    Raises:
        UserError: it is of other classes, corruptions or severities.
    """
    compared = known.all_outputs if known.outputs is None else len(known.outputs)
    if compared != 1000:
        raise UserError(
            "robustness.reference=alexnet is published for ImageNet's 1,000 classes, and "
            f"{compared} are compared; give a model of your own"
        )
    for name in options.corruptions:
        if name not in ALEXNET:
            raise UserError(f"robustness.reference=alexnet is not published for {name}")
    if sorted(options.severities) != [1, 2, 3, 4, 5]:
        raise UserError(
            "robustness.reference=alexnet is published for all five severities together; leave "
            "robustness.severities out"
        )
    return {name: dict.fromkeys(options.severities, ALEXNET[name]) for name in options.corruptions}
