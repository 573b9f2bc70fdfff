"""A teacher that sees more than its student teaches better."""

from scripts.claims.amd import taught
from scripts.claims.claim import Claim

CLAIM = Claim(
    paper="AMD",
    place="study of the masks",
    says="a teacher that sees more teaches better than one that sees as much",
    task="clips",
    arms=(
        taught("asymmetric"),
        taught("symmetric", method__teacher_mask_ratio=0.75),
    ),
    refuted="the symmetric teacher above the asymmetric one",
)
