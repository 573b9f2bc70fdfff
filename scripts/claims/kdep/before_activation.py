"""Features before the last activation teach better."""

from scripts.claims.claim import Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="method",
    says="features before the last activation teach better than those behind it",
    task="cifar",
    arms=(taught("SVD, PTS"), taught("after the activation", method__activation="after")),
    refuted="features behind the activation above those before it",
)
