"""The smallest student learns better from a student between."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="sequential distillation",
    says="a teacher that was itself distilled teaches the smallest student better",
    task="pictures",
    arms=(
        taught(
            "through a middle student",
            teacher=taught("middle student", student="middle"),
            student="smaller",
        ),
        taught("straight from the teacher", student="smaller"),
    ),
    refuted="the straight way above the sequential one",
)
