"""Whitened targets are better than raw ones and than those of length one."""

from scripts.claims.claim import Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="study of the target",
    says="whitened tokens teach better than raw ones and than those of length one",
    task="pictures",
    pairs=((0, 1), (0, 2)),
    arms=(
        taught("whole map"),
        taught("raw", method__whitening="none"),
        taught("length one", method__whitening="l2"),
    ),
    refuted="raw targets, or those of length one, above whitened ones",
)
