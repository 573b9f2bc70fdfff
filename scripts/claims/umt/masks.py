"""Tokens drawn by attention are a better choice than random ones, and these than tubes."""

from scripts.claims.claim import Claim
from scripts.claims.umt import taught

CLAIM = Claim(
    paper="UMT",
    place="study of the masks",
    says="tokens drawn by the teacher's attention are better than random ones, these than tubes",
    task="clips",
    arms=(
        taught("semantic"),
        taught("random", method__mask="random"),
        taught("tube", method__mask="tube"),
    ),
    refuted="tubes above semantic masks",
)
