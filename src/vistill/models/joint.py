"""Models that put pictures (or clips) and sentences into one space, in which near means alike."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Normalization

if TYPE_CHECKING:
    from vistill.models.text.video_text import VideoText


class Sentences(NamedTuple):
    """What a model with a matching head reads.

    Attributes:
        embeddings: in the common space, of any length.
        states: of all tokens.
        mask: True where there is a token.
    """

    embeddings: Float[Tensor, "b e"]
    states: Float[Tensor, "b l h"]
    mask: Bool[Tensor, "b l"]


class JointModel(nn.Module, ABC):
    """A tower that sees and one that reads, both projected to one space.

    Attributes:
        width: dimensions E of the space.
        image_size: height and width of its pictures.
        num_frames: frames of its clips; 1 for a model of pictures.
        normalization: what its inputs are normalised with.
        origin: where the weights came from.
        untrained: whether they are random ones that nobody trained.
        matches: whether a head looks at both together, by the four functions below.
        token_width: channels of the tokens that it looks at.
        temperature: of the softmax over similarities.
    """

    width: int
    image_size: tuple[int, int]
    num_frames: int = 1
    normalization: Normalization
    origin: str
    untrained: bool = False
    matches: bool = False
    token_width: int = 0
    temperature: float = 0.07

    @abstractmethod
    def see(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b e"]:
        """Embeddings of normalised pictures or clips, of any length."""

    def take_frames(self, frames: int) -> None:
        """Take clips of so many frames; a model of pictures takes each by itself.

        Raises:
            UserError: it cannot.
        """
        if self.num_frames not in (1, frames):
            raise UserError(
                f"frames={frames}: {self.origin} takes clips of {self.num_frames} frames"
            )

    def see_frames(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b t e"]:
        """Embeddings of pictures, or of every frame of clips `[B, 3, T, H, W]`; a model of clips
        may have one for all of a clip."""
        if images.dim() == 4 or self.num_frames > 1:
            return self.see(images)[:, None]
        frames = images.transpose(1, 2)
        return self.see(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    @abstractmethod
    def read(self, sentences: Sequence[str]) -> Float[Tensor, "b e"]:
        """Embeddings of sentences, of any length; what is too long is cut."""

    def see_tokens(
        self, images: Float[Tensor, "b 3 *size"]
    ) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b n d"]]:
        """Embeddings of frames, and the tokens that the matching head looks at."""
        raise NotImplementedError

    def read_states(self, sentences: Sequence[str]) -> Sentences:
        """Sentences as the matching head takes them."""
        raise NotImplementedError

    def look(self, tokens: Float[Tensor, "1 n d"]) -> Any:
        """What is computed of one picture or clip once, however many sentences follow."""
        raise NotImplementedError

    def match(self, looked: Any, sentences: Sentences) -> Float[Tensor, "b 2"]:
        """Logits that each sentence does not belong to it, and that it does."""
        raise NotImplementedError


def load_joint(reference: str) -> JointModel | None:
    """The model with its text tower that a reference names; None where it has none.

    Args:
        reference: `run:DIR` of UMT's second stage, or `file:PATH,tokenizer=NAME` of its published
            files; `open_clip/NAME:TAG` or `:FILE`, `hf/NAME:pretrained` or `hf/FOLDER` of CLIP,
            SigLIP and the like, see `vistill.models.build.load_backbone`.

    Raises:
        UserError: there is no such model, or its weights do not fit.
    """
    if reference.startswith("file:") and ",tokenizer=" in reference:
        from vistill.models.joint_umt import umt_joint

        return umt_joint(reference.removeprefix("file:"))
    if reference.startswith("run:"):
        from vistill.models.text.saved import load_video_text

        return load_video_text(Path(reference.removeprefix("run:").partition(",")[0]))
    library, _, rest = reference.partition("/")
    name, _, weights = rest.partition(":")
    if library == "open_clip":
        from vistill.models.adapters.joint_open_clip import open_clip_joint

        return open_clip_joint(name, weights)
    if library == "hf" and weights in ("", "pretrained"):
        from vistill.models.adapters.joint_transformers import transformers_joint

        return transformers_joint(name, pretrained=weights == "pretrained")
    return None


def trained_joint(reference: str) -> "VideoText":
    """What reads and joins in a second stage of UMT, without the tower that sees.

    Args:
        reference: `run:DIR`, or `file:PATH,tokenizer=NAME` of a published file.

    Raises:
        UserError: there is no such model.
    """
    from vistill.models.joint_umt import umt_options, umt_towers
    from vistill.models.text.saved import load_video_text

    kind, _, place = reference.partition(":")
    if kind == "file":
        path, _, numbers = umt_options(place)
        return umt_towers(path, numbers).joint
    found = load_video_text(Path(place))
    if found is None:
        raise UserError(
            f"{reference} has no tower that reads; give a run of umt_multimodal or umt_retrieval"
        )
    return found.joint
