"""What the features of a teacher say about how well it will teach (KDEP; spec kdep 10)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.analysis.compactness import compactness, effective_rank
from vistill.targets.calibration import Calibration
from vistill.targets.moments import Moments, std_ratio

_DRAWS = 200


@dataclass(frozen=True)
class TeacherScores:
    """Of one teacher.

    Attributes:
        name: as the user wrote it.
        width: channels of its feature.
        effective_rank: directions in use.
        std_ratio: largest over smallest std of a channel; infinite where one never changes.
        svd_std_ratio: the same of the first directions, as many as the student has channels.
        energy: share of the variance in these.
        seconds: processor seconds for a thousand pictures.
        knn: share of pictures whose nearest others vote for their class; None without labels.
        knn_interval: its 95 % interval.
        compactness: scatter between classes over all scatter; None without labels.
        compactness_interval: 95 %, by bootstrap over pictures.
        cos_gap: how much closer pairs of one class are.
    """

    name: str
    width: int
    effective_rank: float
    std_ratio: float
    svd_std_ratio: float
    energy: float
    seconds: float
    knn: float | None = None
    knn_interval: tuple[float, float] | None = None
    compactness: float | None = None
    compactness_interval: tuple[float, float] | None = None
    cos_gap: float | None = None


def of_features(features: Float[Tensor, "n d"], student_width: int) -> dict[str, float | int]:
    """The figures that need no labels."""
    moments = Moments(features.shape[1])
    moments.add(features)
    found = Calibration.of(moments)
    kept = min(student_width, found.rank)
    return {
        "width": features.shape[1],
        "effective_rank": effective_rank(found.singular_values.square()),
        "std_ratio": std_ratio(found.std)[0],
        "svd_std_ratio": std_ratio(found.direction_std[:kept])[0],
        "energy": found.energy(kept),
    }


def compactness_with_interval(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> tuple[float, tuple[float, float], float]:
    """Compactness, its 95 % interval by bootstrap within classes, and the cosine gap."""
    whole = compactness(features, labels)
    generator = torch.Generator().manual_seed(0)
    groups = [(labels == one).nonzero()[:, 0] for one in labels.unique()]
    drawn = []
    for _ in range(_DRAWS):
        rows = torch.cat(
            [own[torch.randint(len(own), (len(own),), generator=generator)] for own in groups]
        )
        some = features[rows].double()
        mean, total = some.mean(dim=0), 0.0
        for own in labels[rows].unique():
            part = some[labels[rows] == own]
            total += len(part) * float((part.mean(dim=0) - mean).square().sum())
        drawn.append(total / float((some - mean).square().sum()))
    # Means of drawn pictures scatter more than those of all: what is added is taken off again.
    bias = sum(drawn) / len(drawn) - whole.compactness
    low, high = torch.tensor(drawn).sub(bias).quantile(torch.tensor([0.025, 0.975])).tolist()
    return whole.compactness, (low, high), whole.cos_gap


def recommended(scores: Sequence[TeacherScores]) -> tuple[str, str]:
    """Name of a teacher to try first, and why.

    With labels: of those whose neighbours vote about as well as the best one's (intervals overlap),
    the least compact, as KDEP finds diverse features to teach better; without: the one that uses
    the most directions.
    """
    labelled = [one for one in scores if one.knn_interval is not None]
    if len(labelled) < len(scores):
        best = max(scores, key=lambda one: one.effective_rank)
        return best.name, (
            f"it uses the most directions ({best.effective_rank:.0f}); without labels nothing says "
            "whether they are those that your classes need"
        )
    leader = max(labelled, key=lambda one: one.knn or 0)
    near = [one for one in labelled if _reaches(one, leader)]
    best = min(near, key=lambda one: one.compactness or 0)
    others = [one for one in near if one is not best]
    if not others:
        return best.name, "no other one's neighbours vote as well"
    sure = all(
        best.compactness_interval[1] < one.compactness_interval[0]
        for one in others
        if best.compactness_interval is not None and one.compactness_interval is not None
    )
    doubt = "" if sure else ", though not by more than chance of pictures could make"
    return best.name, (
        f"of the {len(near)} whose neighbours vote about as well as the best it is the least "
        f"compact{doubt}"
    )


def _reaches(one: TeacherScores, leader: TeacherScores) -> bool:
    if one.knn_interval is None or leader.knn_interval is None:
        return False
    return one.knn_interval[1] >= leader.knn_interval[0]
