"""What stands behind a tower that sees and one that reads, so that both come into one space (UMT,
section 3.2; spec umt 9)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vistill.models.text.bert import SplitBert

_COLDEST, _HOTTEST = 0.001, 0.5


class VideoText(nn.Module):
    """Pooling and projection of visual tokens, the text tower, and the head that says what fits.

    Args:
        text: the tower that reads.
        embedding: dimensions E of the space.
        temperature: of the contrast, at the start.
        decay_temperature: give it a shape that optimisers decay.
    """

    def __init__(
        self,
        text: SplitBert,
        embedding: int,
        temperature: float = 0.07,
        *,
        decay_temperature: bool = True,
    ) -> None:
        super().__init__()
        width, vision_width = text.sizes.width, text.sizes.vision_width
        self.pool_norm = nn.LayerNorm(vision_width, eps=1e-6)
        self.text = text
        self.vision_proj = nn.Linear(vision_width, embedding)
        self.text_proj = nn.Linear(width, embedding)
        self.match_head = nn.Linear(width, 2)
        self.set_temperature(temperature, decays=decay_temperature)

    def set_temperature(self, temperature: float, *, decays: bool) -> None:
        """Start from it, in a shape that optimisers decay or leave."""
        # Groups tell what decays by its number of dimensions.
        self.temperature = nn.Parameter(torch.full((1, 1) if decays else (), temperature))

    def clamp_temperature(self) -> Float[Tensor, ""]:
        """The temperature, in bounds again after the last update."""
        with torch.no_grad():
            self.temperature.clamp_(_COLDEST, _HOTTEST)
        return self.temperature.reshape(())

    def pooled(
        self, tokens: Float[Tensor, "b n d"], frames: int | None = None
    ) -> Float[Tensor, "b t e"]:
        """The place of clips in the space.

        Args:
            tokens: of all frames, or those that are visible, behind the final norm.
            frames: pool each of so many by itself, as in tests; None: all tokens together, as in
                training, where T is 1.
        """
        parts = tokens[:, None] if frames is None else tokens.unflatten(1, (frames, -1))
        return self.vision_proj(self.pool_norm(parts.mean(dim=2)))

    def sentences(
        self, text: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l h"], Float[Tensor, "b e"]]:
        """Token states of sentences, and their place in the space."""
        states = self.text.read(text, mask)
        return states, self.text_proj(states[:, 0])

    def match(
        self,
        states: Float[Tensor, "b l h"],
        mask: Bool[Tensor, "b l"],
        tokens: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b 2"]:
        """Scores of every sentence not to fit, and to fit, the clip beside it."""
        return self.match_head(self.text.fuse(states, mask, tokens)[:, 0])
