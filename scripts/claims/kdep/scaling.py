"""Power temperature scaling is better than scale normalisation, and this than none."""

from scripts.claims.claim import Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="study of the transform",
    says="power temperature scaling is better than scale normalisation, this better than none",
    task="cifar",
    arms=(
        taught("SVD, PTS"),
        taught("SVD, SN", method__transform="sn"),
        taught("SVD", method__transform="none"),
    ),
    refuted="no scaling above it",
)
