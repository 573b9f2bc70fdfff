"""Drop path helps in the student and hurts in the teacher."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of drop path",
    says="drop path helps in the student and hurts in the teacher",
    task="pictures",
    arms=(
        taught("student drop path", student__drop_path=0.1),
        taught("relations", student__drop_path=0.0),
        taught("teacher drop path", student__drop_path=0.0, teacher__drop_path=0.1),
    ),
    refuted="the teacher's drop path above none, or none above the student's",
)
