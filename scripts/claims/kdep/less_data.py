"""A tenth of the pictures costs it little."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="main results",
    says="with a tenth of the pictures, shown as often, it still beats labels alone on all of them",
    task="cifar",
    arms=(
        taught("a tenth of the pictures", share=0.1, epochs=10.0),
        Arm("labels alone", "supervised"),
    ),
    refuted="labels on all pictures above a tenth of them with a teacher",
)
