"""Single frames are better tokens than pairs of frames."""

from scripts.claims.claim import Claim
from scripts.claims.umt import taught

CLAIM = Claim(
    paper="UMT",
    place="study of the student",
    says="tokens of single frames are better than those of two",
    task="clips",
    arms=(taught("semantic"), taught("two frames a token", student="student")),
    refuted="tokens of two frames above those of one",
)
