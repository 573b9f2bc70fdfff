"""UMT, stage 2 (Li et al., arXiv 2303.16058, section 3.2; spec umt 9, 10): a tower that reads
beside the student of stage 1, by contrast, matching and hidden words; the alignment goes on."""

from typing import Any, Self

import torch

from vistill.batch import Batch, Losses
from vistill.config.umt import UMTMultimodalConfig
from vistill.heads.alignment_decoder import AlignmentDecoders
from vistill.losses.alignment import ALIGNMENTS
from vistill.losses.video_text import Words
from vistill.methods.base import weighted
from vistill.methods.frame_targets import FrameTargets, Target, key_of
from vistill.methods.frame_teacher import FrameTeacher
from vistill.methods.ingredients import Ingredients
from vistill.methods.mask_choice import MaskChoice
from vistill.methods.side import rising, seen_by_frames
from vistill.methods.text_towers import joint_of
from vistill.methods.umt import returned
from vistill.methods.video_text import pair_terms, word_term
from vistill.models.backbone import Backbone, Tap
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer


class UMTMultimodal(FrameTargets):
    """See `UMTMultimodalConfig` for the switches.

    Args:
        student: a plain ViT of clips, a token a frame, which sees pictures as clips of one frame.
        teacher: a frozen image transformer with the same grid of patches.
        joint: what reads, and joins it to the student.
        words: special tokens of its vocabulary.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    student: VisionTransformer

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        joint: VideoText,
        words: Words,
        config: UMTMultimodalConfig | None = None,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.config, self.words = config or UMTMultimodalConfig(), words
        told = "umt_multimodal hides tokens of single frames from its student"
        student = seen_by_frames(student, told)
        align, positions = self.config.alignment, student.grid[0] * student.grid[1]
        blocks = returned(self.theirs, align.aligned_layers, align.teacher_interval, "teacher")
        ours = returned(self.ours, align.aligned_layers, align.student_interval, "student")
        self.looks, self.choices = {}, {}
        for picture, name in ((False, "mask_ratio"), (True, "picture_mask_ratio")):
            slots, ratio = 1 if picture else student.slots, getattr(align, name)
            self.looks[picture] = FrameTeacher(
                self.theirs, slots=slots, grid=student.grid, blocks=blocks, config=align
            )
            setting = f"method.alignment.{name}"
            self.choices[picture] = MaskChoice(align, ratio, setting, slots, positions)
        self.taps = [Tap("block", block) for block in ours]
        self.decoders = AlignmentDecoders(
            student.width,
            self.looks[True].width,
            align.aligned_layers,
            student.num_patches,
            norm_eps=1e-5,
            unit_length=align.norm == "l2",
        )
        self.joint = joint
        self.ours.drop_path(rising(drop_path, student.depth))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path or 0.0
        config, student = given.config, given.student
        joint = joint_of(config, given.words, student.width, guesses=config.words_weight > 0)
        return cls(student, given.teacher, joint, given.words, config, drop_path=rate)

    @property
    def reader(self) -> VideoText:
        """The tower that reads, with what joins it to the student."""
        return self.joint

    def looked_at(self, batch: Batch) -> tuple[FrameTeacher, MaskChoice]:
        picture = batch.pixels.dim() == 4
        return self.looks[picture], self.choices[picture]

    def cache_key(self) -> dict[str, Any]:
        kinds = {"clips": False, "pictures": True}
        return {
            kind: key_of(self.looks[picture], self.choices[picture], self.student)
            for kind, picture in kinds.items()
        }

    def compare(self, batch: Batch, target: Target) -> Losses:
        (visible, targets), config = target, self.config
        images = self.ours.images(batch)
        picture = images.dim() == 4
        if visible is None:
            looks = self.looks[picture]
            count = looks.slots * looks.positions
            visible = torch.arange(count, device=images.device).expand(len(batch), -1)
        if picture and self.student.tubelet_size is not None:
            images = images[:, :, None]
        found = self.ours.see(batch, self.taps, visible=visible, images=images)
        prefix = self.student.num_prefix_tokens
        layers = [self.student.final_norm(found[tap])[:, prefix:] for tap in self.taps]
        aligned = ALIGNMENTS[config.alignment.loss](self.decoders(layers, visible), targets)
        terms = {"alignment": (config.alignment.weight, aligned)}
        terms |= pair_terms(self.joint, batch, layers[-1], config, self.ranks)
        if config.words_weight:
            share = config.hidden_words
            hidden = word_term(self.joint, batch, layers[-1], self.words, share, self.ranks)
            terms["words"] = config.words_weight, hidden
        return weighted(terms)
