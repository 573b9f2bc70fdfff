"""UMT's fine-tuning for questions about clips (Li et al., arXiv 2303.16058, section 4.3; spec umt
11): the question is read beside the clip, and its answer is written word by word."""

from typing import Self

from vistill.batch import Batch, Losses
from vistill.config.umt import UMTQuestionsConfig
from vistill.losses.video_text import Words
from vistill.methods.base import Method, weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.side import rising, seen_by_frames
from vistill.methods.text_towers import tower_of
from vistill.models.backbone import Backbone
from vistill.models.text.answering import Answerer
from vistill.models.text.seeing import seen_whole
from vistill.models.vit import VisionTransformer


class UMTQuestions(Method):
    """See `UMTQuestionsConfig` for the switches.

    Args:
        student: a plain ViT of clips, a token a frame, or of pictures.
        answerer: reads questions and writes answers.
        words: special tokens of its vocabulary.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.

    Raises:
        UserError: the student is of another kind.
    """

    student: VisionTransformer

    def __init__(
        self, student: Backbone, answerer: Answerer, words: Words, *, drop_path: float = 0.0
    ) -> None:
        super().__init__(student)
        self.answerer, self.words = answerer, words
        student = seen_by_frames(student, "umt_questions looks at single frames of its student")
        self.ours.drop_path(rising(drop_path, student.depth))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        config: UMTQuestionsConfig = given.config
        tower = tower_of(config.text, given.words, given.student.width)
        rate = given.student_drop_path or 0.0
        return cls(given.student, Answerer(tower), given.words, drop_path=rate)

    @property
    def reader(self) -> Answerer:
        """The towers that read and write."""
        return self.answerer

    def forward(self, batch: Batch) -> Losses:
        seen = seen_whole(self.student, self.ours.images(batch), self.ours.draws(batch))
        asked, mask = batch.inputs["text"], batch.inputs["text_mask"].bool()
        states = self.answerer.read(asked, mask, seen.tokens)
        losses = self.answerer.losses(states, mask, batch.inputs["answer"], self.words.pad)
        return weighted({"answer": (1.0, losses.mean())})
