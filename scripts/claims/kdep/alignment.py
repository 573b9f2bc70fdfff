"""The SVD aligns better than a choice of channels, and this than interpolation."""

from scripts.claims.claim import Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="study of alignment",
    says="SVD aligns better than a choice of channels, this better than interpolation",
    task="cifar",
    arms=(
        taught("SVD, PTS"),
        taught("channels of most variance", method__align="channel_var", method__transform="none"),
        taught("interpolated", method__align="interpolate", method__transform="none"),
    ),
    refuted="a choice of channels, or interpolation, above the SVD",
)
