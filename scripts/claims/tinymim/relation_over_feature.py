"""Relations are a better target than features, and these than the class token."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of the target",
    says="relations teach better than features, features better than the class token",
    task="pictures",
    arms=(
        taught("relations"),
        taught("features", method__target="feature"),
        taught("class token", method__target="class_token"),
    ),
    refuted="features, or the class token, above relations",
)
