"""Models that put pictures (or clips) and sentences into one space, in which near means alike."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vistill.models.backbone import Normalization


class JointModel(nn.Module, ABC):
    """A tower that sees and one that reads, both projected to one space.

    Attributes:
        width: dimensions E of the space.
        image_size: height and width of its pictures.
        num_frames: frames of its clips; 1 for a model of pictures.
        normalization: what its inputs are normalised with.
        origin: where the weights came from.
        untrained: whether they are random ones that nobody trained.
    """

    width: int
    image_size: tuple[int, int]
    num_frames: int = 1
    normalization: Normalization
    origin: str
    untrained: bool = False

    @abstractmethod
    def see(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b e"]:
        """Embeddings of normalised pictures or clips, of any length."""

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


def load_joint(reference: str) -> JointModel | None:
    """The model with its text tower that a reference names; None where it has none.

    Args:
        reference: `open_clip/NAME:TAG` or `:FILE`, `hf/NAME:pretrained` or `hf/FOLDER` of CLIP,
            SigLIP and the like; see `vistill.models.build.load_backbone`.

    Raises:
        UserError: there is no such model, or its weights do not fit.
    """
    library, _, rest = reference.partition("/")
    name, _, weights = rest.partition(":")
    if library == "open_clip":
        from vistill.models.adapters.joint_open_clip import open_clip_joint

        return open_clip_joint(name, weights)
    if library == "hf" and weights in ("", "pretrained"):
        from vistill.models.adapters.joint_transformers import transformers_joint

        return transformers_joint(name, pretrained=weights == "pretrained")
    return None
