"""Heads become less alike."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="diagnostics",
    says="heads of the student are less alike than the teacher's",
    task="pictures",
    measure="similarity",
    falls=True,
    arms=(
        taught("like its teacher", student="like its teacher"),
        Arm("the teacher itself", student="deit"),
    ),
    refuted="heads that are more alike",
)
