"""Generation behind the direct projection is better than beside it."""

from scripts.claims.amd import taught
from scripts.claims.claim import Claim

CLAIM = Claim(
    paper="AMD",
    place="study of the alignment",
    says="generation from the aligned features is better than beside them",
    task="clips",
    arms=(taught("asymmetric"), taught("parallel", method__generation__input="parallel")),
    refuted="parallel above serial",
)
