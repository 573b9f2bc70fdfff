"""An image model that looks at a clip frame by frame (UMT, section 3.1; spec umt 2, 16).

It stops where no loss reads further: of its last block the tokens that stay visible alone are
mixed, and only those are normed and projected.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.config.umt import AlignmentSection
from vistill.errors import UserError
from vistill.heads.alignment_decoder import unit
from vistill.losses.distances import at_least_fp32
from vistill.methods.frame_importance import importance_of, importance_tap
from vistill.methods.side import Side
from vistill.models.backbone import Backbone, Tap
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import gather_tokens

Choose = Callable[[Float[Tensor, "b s n"] | None], Int[Tensor, "b v"] | None]
"""From the importance of every token of every slot (None where none is read) to the tokens of the
clip that stay visible (None: all)."""


class FrameTeacher:
    """See `AlignmentSection` for the switches.

    Args:
        side: the teacher.
        slots: time slots S of the student's tokens.
        grid: its rows and columns.
        blocks: of the teacher that are aligned, ascending, counted from 1; the last one is read.
        config: the switches.
        masks: that are drawn for each clip.

    Raises:
        UserError: the teacher takes clips, tells no importance, or has another grid.
    """

    def __init__(
        self,
        side: Side,
        *,
        slots: int,
        grid: tuple[int, int],
        blocks: Sequence[int],
        config: AlignmentSection,
        masks: int = 1,
    ) -> None:
        model = side.model
        if model.num_frames > 1:
            raise UserError("umt's teacher looks at single frames, and this one takes clips")
        self.model, self.slots, self.blocks, self.config = model, slots, list(blocks), config
        self.masks = masks
        self.attention = importance_tap(model, config)
        if config.visible_only and not isinstance(model, VisionTransformer):
            raise UserError("method.visible_only needs a plain ViT as a teacher")
        theirs = model.shape(side.tap("block"))
        if theirs.grid != grid:
            patch = model.image_size[0] // theirs.grid[0], model.image_size[1] // theirs.grid[1]
            size = grid[0] * patch[0], grid[1] * patch[1]
            wanted = str(size[0]) if size[0] == size[1] else f"[{size[0]},{size[1]}]"
            raise UserError(
                f"the student has {grid[0]}x{grid[1]} patches a frame and the teacher "
                f"{theirs.grid[0]}x{theirs.grid[1]} (rows x columns): teacher.image_size={wanted} "
                "gives it as many"
            )
        self.positions, self.prefix = grid[0] * grid[1], model.num_prefix_tokens
        self.width = model.width if model.projection is None else model.projection.shape[1]

    def key(self, student: Backbone) -> dict[str, Any]:
        """What its words hang on besides its weights and the frames, shown as to `student`."""
        words = {"mask", "norm", "pixels", "slot", "visible_only"}
        shown = student.normalization, student.image_size
        return {
            "blocks": self.blocks,
            "slots": self.slots,
            "masks": self.masks,
            "shown": None if self.config.pixels == "own" else str(shown),
            **self.config.model_dump(include=words),
        }

    def shown(self, batch: Batch, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b 3 *size"]:
        """The clips as the teacher sees them: in the student's normalisation (`images`), or its
        own."""
        own = self.config.pixels == "own"
        return self.model.normalization(batch.unit_pixels()) if own else images

    def frames(self, clips: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "f 3 h w"]:
        """One picture for each time slot, at the teacher's size: of a slot of several frames the
        middle one, or their mean."""
        if clips.dim() == 4:
            frames = clips
        else:
            tubes = clips.transpose(1, 2).unflatten(1, (self.slots, -1))
            middle = self.config.slot == "middle"
            frames = (tubes[:, :, tubes.shape[2] // 2] if middle else tubes.mean(2)).flatten(0, 1)
        if tuple(frames.shape[-2:]) != tuple(self.model.image_size):
            frames = F.interpolate(frames, self.model.image_size, mode="bicubic")
        return frames.to(self.model.input_type)

    def look(
        self, clips: Float[Tensor, "b 3 *size"], choose: Choose
    ) -> tuple[Int[Tensor, "b v"] | None, Float[Tensor, "k b v c"]]:
        """What stays visible, and what the aligned blocks say about that.

        Args:
            clips: normalised as the teacher is to see them.
            choose: draws what stays visible.
        """
        frames, batch = self.frames(clips), len(clips)
        taps = [Tap("block", block) for block in self.blocks]
        if self.config.visible_only:
            visible = choose(None)
            rows = None if visible is None else visible.reshape(len(frames), -1) % self.positions
            found = self.model.tap(frames, taps, visible=rows)
            return visible, self._targets([found[tap] for tap in taps], None, batch)
        last = self.model.depth
        attention = [] if self.attention is None else [self.attention]

        def choice(found: Mapping[Tap, Tensor]) -> Tensor | None:
            return choose(self._importance(found, batch))

        if not attention or not isinstance(self.model, VisionTransformer) or last == 1:
            found = self.model.tap(frames, [*taps, *attention])
            visible = choice(found)
            return visible, self._targets([found[tap] for tap in taps], visible, batch)
        before, qkv = Tap("block", last - 1), Tap("qkv", last)
        found = self.model.tap(frames, [*{*taps[:-1], before, qkv, *attention}])
        visible = choice(found)
        tokens = [found[tap] for tap in taps[:-1]]
        finish = partial(self.model.finish_block, last, found[before], found[qkv])
        if visible is None or visible.shape[1] >= self.slots * self.positions:
            return visible, self._targets([*tokens, finish()], visible, batch)
        # Every mask shows as many tokens of every frame: [B, masks, slots, V] to [frames, masks V].
        shown = visible.reshape(batch, self.masks, self.slots, -1)
        rows = (shown % self.positions + self.prefix).transpose(1, 2)
        finished = finish(rows.flatten(2).flatten(0, 1)).unflatten(1, (self.masks, -1))
        chosen = finished.unflatten(0, (batch, -1)).transpose(1, 2).flatten(1, 3)
        return visible, self._targets(tokens, visible, batch, chosen)

    def _importance(self, found: Mapping[Tap, Tensor], batch: int) -> Float[Tensor, "b s n"] | None:
        if self.attention is None:
            return None
        told = importance_of(self.model, self.attention, found[self.attention])
        return told.unflatten(0, (batch, self.slots))

    def _targets(
        self,
        blocks: Sequence[Float[Tensor, "f n w"]],
        visible: Int[Tensor, "b v"] | None,
        batch: int,
        finished: Float[Tensor, "b v w"] | None = None,
    ) -> Float[Tensor, "k b v c"]:
        """Normed, projected tokens of the blocks; those of `finished` are chosen already."""
        chosen = []
        for tokens in blocks:
            clip = tokens[:, self.prefix :].reshape(batch, -1, tokens.shape[2])
            chosen.append(clip if visible is None else gather_tokens(clip, visible))
        if finished is not None:
            chosen.append(finished)
        said = at_least_fp32(self.model.project(self.model.final_norm(torch.stack(chosen))))
        return unit(said) if self.config.norm == "l2" else said
