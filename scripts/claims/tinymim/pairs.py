"""QK and VV are the relations to match."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of the relations",
    says="QK and VV teach at least as well as QQ, KK and VV",
    task="pictures",
    kind="no gain",
    arms=(taught("QQ, KK, VV", method__relation__pairs=["qq", "kk", "vv"]), taught("relations")),
    refuted="QQ, KK, VV above QK, VV",
)
