"""UMT's fine-tuning for retrieval (Li et al., arXiv 2303.16058, section 4.3; spec umt 11): the
student sees all of a clip, no teacher is left, and pairs alone teach."""

from typing import Self

from vistill.batch import Batch, Losses
from vistill.config.umt import UMTRetrievalConfig
from vistill.errors import UserError
from vistill.methods.base import Method, weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.side import rising, seen_by_frames
from vistill.methods.text_towers import joint_of
from vistill.methods.video_text import pair_terms
from vistill.models.backbone import Backbone
from vistill.models.text.seeing import seen_whole
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer


class UMTRetrieval(Method):
    """See `UMTRetrievalConfig` for the switches.

    Args:
        student: a plain ViT of clips, a token a frame, which sees pictures as clips of one frame;
            or one of pictures.
        joint: what reads, and joins it to the student.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.

    Raises:
        UserError: the student is of another kind, or nothing is to be learned.
    """

    student: VisionTransformer

    def __init__(
        self,
        student: Backbone,
        joint: VideoText,
        config: UMTRetrievalConfig | None = None,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(student)
        self.config, self.joint = config or UMTRetrievalConfig(), joint
        student = seen_by_frames(student, "umt_retrieval pools single frames of its student")
        if not (self.config.contrast_weight or self.config.matching_weight):
            raise UserError(
                "method.contrast_weight=0 and method.matching_weight=0 leave nothing to learn; "
                "raise one of them"
            )
        self.ours.drop_path(rising(drop_path, student.depth))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        joint = joint_of(given.config, given.words, given.student.width, guesses=False)
        rate = given.student_drop_path or 0.0
        return cls(given.student, joint, given.config, drop_path=rate)

    @property
    def reader(self) -> VideoText:
        """The tower that reads, with what joins it to the student."""
        return self.joint

    def forward(self, batch: Batch) -> Losses:
        seen = seen_whole(self.student, self.ours.images(batch), self.ours.draws(batch))
        frames = seen.frames if self.config.pool == "frames" else None
        return weighted(
            pair_terms(self.joint, batch, seen.tokens, self.config, self.ranks, frames=frames)
        )
