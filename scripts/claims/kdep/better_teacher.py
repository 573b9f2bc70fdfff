"""A better teacher by its own accuracy need not teach better."""

from scripts.claims.claim import Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="choice of the teacher",
    says="the most accurate of four teachers teaches no better than the least accurate",
    task="cifar",
    kind="no gain",
    arms=(taught("SVD, PTS"), taught("ResNet-20 as a teacher", teacher="20")),
    refuted="the deepest teacher gives a point or more",
)
