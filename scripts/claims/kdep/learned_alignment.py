"""The fixed alignment is better than a learned convolution, at widths that differ."""

from scripts.claims.claim import Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="study of alignment",
    says="SVD with power temperature scaling is better than a learned 1x1 convolution",
    task="cifar",
    arms=(taught("SVD, PTS"), taught("1x1 convolution", method__align="conv1x1")),
    refuted="the convolution above the SVD",
)
