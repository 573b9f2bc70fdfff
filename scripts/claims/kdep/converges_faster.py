"""It converges faster than training with labels."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.kdep import taught

CLAIM = Claim(
    paper="KDEP",
    place="main results",
    says="half the epochs give more than all of them with labels alone",
    task="cifar",
    arms=(taught("half the epochs", epochs=0.5), Arm("labels alone", "supervised")),
    refuted="labels alone above half as many epochs with a teacher",
)
