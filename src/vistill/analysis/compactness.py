"""How tightly a teacher's features cluster by class, and how diverse they are (spec kdep 10).

The KDEP paper shows such clusters as pictures only; these numbers are our definition.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Compactness:
    """Numbers about the features of one model.

    Attributes:
        compactness: scatter between classes over all scatter, 0 to 1; a high one is expected of a
            worse teacher.
        within, between: mean squared distance of features to their class mean, and of class means
            to the mean of all.
        cos_intra, cos_inter: mean cosine of centred pairs of the same class, and of others.
        effective_rank: exp of the entropy of the covariance's spectrum.
        participation_ratio: (sum of eigenvalues)² over the sum of their squares.
    """

    compactness: float
    within: float
    between: float
    cos_intra: float
    cos_inter: float
    effective_rank: float
    participation_ratio: float

    @property
    def within_over_between(self) -> float:
        """S_W over S_B."""
        return self.within / self.between

    @property
    def cos_gap(self) -> float:
        """How much closer pairs of one class are."""
        return self.cos_intra - self.cos_inter


def effective_rank(spectrum: Float[Tensor, " d"]) -> float:
    """exp of the entropy of a covariance's eigenvalues: how many directions are in use."""
    shares = spectrum / spectrum.sum().clamp(min=torch.finfo(spectrum.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def compactness(features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> Compactness:
    """Measure features against class labels, in fp64."""
    features = features.double()
    _, classes = labels.unique(return_inverse=True)
    members = F.one_hot(classes).double()
    sizes = members.sum(dim=0)
    centred = features - features.mean(dim=0)
    centres = members.mT @ centred / sizes[:, None]
    within = float((centred - centres[classes]).square().sum(dim=1).mean())
    between = float((sizes @ centres.square().sum(dim=1)) / len(features))

    directions = F.normalize(centred, dim=1)
    # Sums over pairs from sums over classes: no n × n matrix.
    same = float((members.mT @ directions).square().sum() - directions.square().sum())
    every = float(directions.sum(dim=0).square().sum() - directions.square().sum())
    same_pairs = float((sizes * (sizes - 1)).sum())
    other_pairs = len(features) * (len(features) - 1) - same_pairs

    spectrum = torch.linalg.eigvalsh(centred.mT @ centred / (len(features) - 1)).clamp(min=0)
    shares = spectrum / spectrum.sum()
    return Compactness(
        compactness=between / (within + between),
        within=within,
        between=between,
        cos_intra=same / same_pairs,
        cos_inter=(every - same) / other_pairs,
        effective_rank=effective_rank(spectrum),
        participation_ratio=float(1 / shares.square().sum()),
    )
