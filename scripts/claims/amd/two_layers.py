"""Two aligned layers are better than one."""

from scripts.claims.amd import taught
from scripts.claims.claim import Claim

CLAIM = Claim(
    paper="AMD",
    place="study of the layers",
    says="two aligned layers are better than the last alone",
    task="clips",
    arms=(taught("asymmetric"), taught("last layer", method__direct__pairs=[[4, 6]])),
    refuted="one layer above two",
)
