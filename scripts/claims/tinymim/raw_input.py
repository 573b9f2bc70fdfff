"""Whole pictures are a better input than masked ones."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of the input",
    says="whole pictures teach better than masked ones",
    task="pictures",
    arms=(taught("relations"), taught("masked input", method__input="masked")),
    refuted="the masked input above the whole one",
)
