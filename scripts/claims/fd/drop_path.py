"""Drop path belongs to the student alone."""

from scripts.claims.claim import Claim
from scripts.claims.fd import taught

CLAIM = Claim(
    paper="FD",
    place="study of drop path",
    says="drop path of the student alone is better than none and than that of both",
    task="pictures",
    pairs=((0, 1), (0, 2)),
    arms=(
        taught("student drop path", student__drop_path=0.1),
        taught("no drop path", student__drop_path=0.0),
        taught("both drop", student__drop_path=0.1, teacher__drop_path=0.1),
    ),
    refuted="none, or both, above the student alone",
)
