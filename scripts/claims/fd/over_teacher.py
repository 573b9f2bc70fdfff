"""A student of the teacher's own size fine-tunes better than its teacher."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="main results",
    says="a student of its teacher's size fine-tunes better than the teacher",
    task="pictures",
    arms=(
        taught("like its teacher", student="like its teacher"),
        Arm("the teacher itself", student="deit"),
    ),
    refuted="the teacher above its student",
)
