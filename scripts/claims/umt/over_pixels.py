"""Unmasked tokens of a teacher are a better target than hidden pixels."""

from scripts.claims.amd import DECODER
from scripts.claims.claim import Arm, Claim
from scripts.claims.umt import taught

CLAIM = Claim(
    paper="UMT",
    place="study of the target",
    says="alignment of visible tokens is better than reconstruction of hidden pixels",
    task="clips",
    arms=(
        taught("semantic"),
        Arm(
            "VideoMAE, frame by frame",
            "videomae",
            {"method.decoder": DECODER},
            student="frame by frame",
        ),
    ),
    refuted="pixels above alignment",
)
