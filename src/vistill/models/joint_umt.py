"""UMT's second stage as it is published: a clip's tokens, a sentence's states, their common space
and the head that says whether they belong together (spec umt 9, 11, 12)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.files.umt_asked import asked_of_state
from vistill.models.files.umt_joint import NUMBERS, Towers, towers_of_state
from vistill.models.files.weight_files import read_weights
from vistill.models.joint import JointModel, Sentences
from vistill.models.text.answering import UMTAnswers
from vistill.models.text.matching import Looked, fuse_looked, look
from vistill.models.text.seeing import seen_whole, with_frames
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer
from vistill.tokenizing import Tokenizer

_LENGTH, _QUESTION, _ANSWER = 32, 25, 5
"""Tokens of a sentence, a question and an answer in all released models."""


class UMTJoint(JointModel):
    """Both towers and the matching head.

    Args:
        vision: without class token, tubes of one frame.
        joint: reads sentences, looks at the vision's tokens, and joins both in one space.
        tokenizer: cuts sentences.
    """

    matches = True

    def __init__(self, vision: VisionTransformer, joint: VideoText, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.vision, self.joint, self._tokenizer = vision, joint, tokenizer
        self.width = joint.text_proj.out_features
        self.temperature = float(joint.temperature.detach().reshape(()))
        self.image_size, self.num_frames = vision.image_size, vision.num_frames
        self.normalization, self.token_width = vision.normalization, vision.width

    def see_tokens(
        self, images: Float[Tensor, "b 3 *size"]
    ) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b n d"]]:
        """An embedding of every frame, and the tokens that the matching head looks at.

        A model of clips sees a picture as its first frame.
        """
        tokens, frames = seen_whole(self.vision, images)
        return self.joint.pooled(tokens, frames), tokens

    def take_frames(self, frames: int) -> None:
        self.num_frames = with_frames(self.vision, frames, self.origin)

    def see_frames(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b t e"]:
        return self.see_tokens(images)[0]

    def see(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b e"]:
        return nn.functional.normalize(self.see_frames(images), dim=-1).mean(dim=1)

    def read(self, sentences: Sequence[str]) -> Float[Tensor, "b e"]:
        return self.read_states(sentences).embeddings

    def read_states(self, sentences: Sequence[str]) -> Sentences:
        text, mask = self._tokenizer.cleaned(sentences)
        device = self.joint.temperature.device
        return self.read_ids(text.to(device), mask.to(device))

    def read_ids(self, text: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Sentences:
        """The same of token ids."""
        states, embeddings = self.joint.sentences(text, mask)
        return Sentences(embeddings, states, mask)

    def look(self, tokens: Float[Tensor, "1 n d"]) -> list[Looked]:
        return look(self.joint.text, tokens)

    def match(self, looked: list[Looked], sentences: Sentences) -> Float[Tensor, "b 2"]:
        fused = fuse_looked(self.joint.text, sentences.states, sentences.mask, looked)
        return self.joint.match_head(fused[:, 0])


def umt_joint(reference: str) -> UMTJoint:
    """`PATH,tokenizer=NAME`: a published file of the second stage, or one of its fine-tunings.

    Args:
        reference: the tokenizer is a name of the hub, a folder, or a `vocab.txt`; behind further
            commas `frames=N` (4), `image_size=N` (224), `num_heads=N`, `text_heads=N`,
            `fusion_layer=N` where they are not the released models'.

    Raises:
        UserError: the file holds no such model, or the tokenizer cannot be had.
    """
    path, tokenizer, numbers = umt_options(reference)
    made = UMTJoint(*umt_towers(path, numbers), Tokenizer(tokenizer, _LENGTH)).eval()
    made.origin = f"file {path}"
    return made


def umt_answers(reference: str) -> UMTAnswers:
    """The same of a published file that was fine-tuned on questions, which has no list of answers.

    Args:
        reference: as of `umt_joint`.

    Raises:
        UserError: as of `umt_joint`.
    """
    path, tokenizer, numbers = umt_options(reference)
    vision, answerer = asked_of_state(_state(path), path, numbers)
    question, answer = (Tokenizer(tokenizer, length) for length in (_QUESTION, _ANSWER))
    made = UMTAnswers(vision, answerer, question, answer, ()).eval()
    made.origin = f"file {path}"
    return made


def umt_options(reference: str) -> tuple[str, str, dict[str, int]]:
    """Path, tokenizer and numbers of `umt_joint`'s reference.

    Raises:
        UserError: there is another option, or one of them is none.
    """
    path, *words = reference.split(",")
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    known = ("tokenizer", *NUMBERS)
    for key in given:
        if key not in known:
            raise UserError(f"file:{reference}: {key!r} is none of {', '.join(known)}")
    numbers = {}
    for key in NUMBERS:
        if key in given:
            if not given[key].isdecimal():
                raise UserError(f"file:{reference}: {key} must be a number, not {given[key]!r}")
            numbers[key] = int(given[key])
    if "tokenizer" not in given:
        raise UserError(
            f"file:{reference}: say what cuts its sentences: file:{path},tokenizer=NAME, of the "
            "hub, a folder or a vocab.txt"
        )
    return path, given["tokenizer"], numbers


def umt_towers(path: str, numbers: Mapping[str, int]) -> Towers:
    """Both towers of a published file of the second stage.

    Raises:
        UserError: the file holds no such model.
    """
    return towers_of_state(_state(path), path, numbers)


def _state(path: str) -> dict[str, Tensor]:
    return read_weights(Path(path), prefixes=_whole).state


def _whole(_: Mapping[str, Tensor]) -> list[str]:
    """Nothing stands in front of the names of the parts."""
    return [""]
