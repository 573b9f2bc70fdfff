"""Heads reach over more different distances."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="diagnostics",
    says="heads of the student reach over more different distances than the teacher's",
    task="pictures",
    measure="spread",
    arms=(
        taught("like its teacher", student="like its teacher"),
        Arm("the teacher itself", student="deit"),
    ),
    refuted="distances that spread less",
)
