"""A tower that reads a question while it looks at a clip, and one that writes the answer (UMT,
section 4.3; spec umt 11)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vistill.losses.answers import answer_losses, first_words, ranked
from vistill.models.text.bert import SplitBert
from vistill.models.text.seeing import seen_whole, with_frames
from vistill.models.vit import VisionTransformer
from vistill.tokenizing import Tokenizer


class Answerer(nn.Module):
    """Both towers.

    Args:
        text: reads the question, all of its layers, and gives the writer its start: the layers that
            look, the embeddings, and its head of words, if it has one.
    """

    def __init__(self, text: SplitBert) -> None:
        super().__init__()
        sizes = text.sizes
        own = replace(
            sizes,
            layers=sizes.layers - sizes.fusion_layer,
            fusion_layer=0,
            vision_width=sizes.width,
            words=True,
        )
        self.writer = SplitBert(own)
        start = {}
        for name, value in text.state_dict().items():
            if name.startswith("encoder.layer."):
                number, _, rest = name.removeprefix("encoder.layer.").partition(".")
                name = f"encoder.layer.{int(number) - sizes.fusion_layer}.{rest}"
            start[name] = value
        mine = self.writer.state_dict()
        # What looked at tokens of clips looks at states of the question now, where these are as
        # wide.
        fitting = {k: v for k, v in start.items() if k in mine and mine[k].shape == v.shape}
        self.writer.load_state_dict(fitting, strict=False)
        text.guess_no_words()
        self.text = text

    def read(
        self,
        question: Int[Tensor, "b l"],
        mask: Bool[Tensor, "b l"],
        tokens: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b l h"]:
        """Token states of questions beside what they ask of."""
        return self.text.fuse(self.text.read(question, mask), mask, tokens)

    def losses(
        self,
        states: Float[Tensor, "b l h"],
        mask: Bool[Tensor, "b l"],
        answers: Int[Tensor, "b a"],
        pad: int,
    ) -> Float[Tensor, " b"]:
        """How unlikely each answer is to its question."""
        written = self.writer.write(answers, answers != pad, states, mask)
        return answer_losses(self.writer.words(written), answers, pad)

    def choose(
        self,
        states: Float[Tensor, "b l h"],
        mask: Bool[Tensor, "b l"],
        answers: Int[Tensor, "a l"],
        pad: int,
        k: int = 128,
    ) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
        """The likeliest of a list of answers, the best first: by their first word `k` of them, then
        by all words.

        Args:
            states, mask: of the questions.
            answers: the list.
            pad: fills them up.
            k: how many are written to their end.

        Returns:
            Chance and number in the list.
        """
        k = min(k, len(answers))
        begun = answers[:1, :1].expand(len(states), 1)
        written = self.writer.write(begun, torch.ones_like(begun).bool(), states, mask)
        first, numbers = first_words(self.writer.words(written)[:, 0], answers, k)
        rows = torch.arange(len(states), device=states.device).repeat_interleave(k)
        losses = self.losses(states[rows], mask[rows], answers[numbers.flatten()], pad)
        return ranked(first, losses.unflatten(0, (-1, k)), numbers)


class UMTAnswers(nn.Module):
    """A tower that sees, and what answers questions about it.

    Args:
        vision: without class token, tubes of one frame; or of pictures.
        answerer: reads and writes.
        question, answer: cut sentences.
        answers: that it chooses from where nobody gives others.

    Attributes:
        image_size, num_frames, normalization: of the vision.
        origin, untrained: where the weights came from, and whether nobody trained them.
    """

    origin: str
    untrained: bool = False

    def __init__(
        self,
        vision: VisionTransformer,
        answerer: Answerer,
        question: Tokenizer,
        answer: Tokenizer,
        answers: Sequence[str],
    ) -> None:
        super().__init__()
        self.vision, self.answerer, self.answers = vision, answerer, tuple(answers)
        self._question, self._answer = question, answer
        self.image_size, self.num_frames = vision.image_size, vision.num_frames
        self.normalization = vision.normalization

    def see(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b n d"]:
        """Tokens of normalised pictures or clips."""
        return seen_whole(self.vision, images).tokens

    def take_frames(self, frames: int) -> None:
        """Take clips of so many frames.

        Raises:
            UserError: it cannot.
        """
        self.num_frames = with_frames(self.vision, frames, self.origin)

    def answer(
        self,
        tokens: Float[Tensor, "b n d"],
        questions: Sequence[str],
        answers: Sequence[str],
        k: int = 128,
    ) -> list[str]:
        """The likeliest of `answers` to each question about the clip whose tokens stand beside it;
        by their first word `k` of them are written to their end."""
        device = tokens.device
        asked, mask = (part.to(device) for part in self._question.cleaned(questions))
        listed = self._answer.cleaned(answers)[0].to(device)
        states = self.answerer.read(asked, mask, tokens)
        pad = self._answer.special("[PAD]")
        _, numbers = self.answerer.choose(states, mask, listed, pad, k)
        return [answers[i] for i in numbers[:, 0].tolist()]
