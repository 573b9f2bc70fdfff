"""All tokens are a better target than their mean, and this than the class token."""

from scripts.claims.claim import Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="study of the target",
    says="the whole map teaches better than its mean, this better than the class token",
    task="pictures",
    arms=(
        taught("whole map"),
        taught("mean", method__target="pooled"),
        taught("class token", method__target="class_token"),
    ),
    refuted="the mean, or the class token, above the map",
)
