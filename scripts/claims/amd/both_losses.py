"""Direct and generation losses together are better than either."""

from scripts.claims.amd import taught
from scripts.claims.claim import Claim

CLAIM = Claim(
    paper="AMD",
    place="study of the losses",
    says="direct and generation losses together are better than either",
    task="clips",
    pairs=((0, 1), (0, 2)),
    arms=(
        taught("asymmetric"),
        taught("direct alone", method__generation__weight=0.0),
        taught("generation alone", method__direct__weight=0.0),
    ),
    refuted="one of them above both",
)
