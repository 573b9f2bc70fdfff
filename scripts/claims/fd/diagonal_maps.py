"""Attention follows relative positions more."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="diagnostics",
    says="attention maps of the student are more diagonal than the teacher's",
    task="pictures",
    measure="diagonal",
    arms=(
        taught("like its teacher", student="like its teacher"),
        Arm("the teacher itself", student="deit"),
    ),
    refuted="maps that are less diagonal",
)
