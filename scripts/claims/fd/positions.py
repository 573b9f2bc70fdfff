"""A bias of relative positions shared by all blocks is best."""

from scripts.claims.claim import Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="study of positions",
    says="a shared bias of relative positions is better than one per block, this than none",
    task="pictures",
    arms=(
        taught("shared bias", student="shared"),
        taught("bias per block", student="layer"),
        taught("whole map"),
    ),
    refuted="absolute positions above a relative bias",
)
