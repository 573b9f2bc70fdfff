"""A block between middle and end teaches better than the last."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of the target block",
    says="an intermediate block teaches better than the last one",
    task="pictures",
    arms=(taught("relations"), taught("last block", teacher__block=12)),
    refuted="the last block above the intermediate one",
)
