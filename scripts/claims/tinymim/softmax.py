"""The softmax of relations helps."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of the relations",
    says="relations behind a softmax teach better than plain products",
    task="pictures",
    arms=(taught("relations"), taught("without softmax", method__relation__softmax=False)),
    refuted="plain products above softmaxed ones",
)
