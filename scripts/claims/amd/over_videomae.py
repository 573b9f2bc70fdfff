"""Distillation gives more than VideoMAE in the student's size at equal cost."""

from scripts.claims.amd import DECODER, taught
from scripts.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="AMD",
    place="main results",
    says="distilled, a student is better than by VideoMAE for all steps of teacher and student",
    task="clips",
    arms=(
        taught("asymmetric"),
        Arm(
            "VideoMAE, thrice the steps",
            "videomae",
            {"method.decoder": DECODER, "method.mask_ratio": 0.75},
            epochs=3.0,
        ),
    ),
    refuted="VideoMAE above AMD at equal steps",
)
