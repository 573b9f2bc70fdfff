"""Tokens of length one are the better target."""

from scripts.claims.claim import Claim
from scripts.claims.umt import taught

CLAIM = Claim(
    paper="UMT",
    place="study of the target",
    says="tokens of length one teach better than tokens as they are",
    task="clips",
    arms=(taught("semantic"), taught("without norm", method__norm="none", method__loss="mse")),
    refuted="tokens as they are above those of length one",
)
