"""Switches of what other methods are compared with: class scores, and relations to a queue."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vistill.config.section import MethodSection, Number, Positive, Share, Steps
from vistill.config.uses import GIVEN, needs

ColorJitter = Annotated[tuple[Positive, Positive, Positive], "bcs"] | None


class LogitKDConfig(MethodSection):
    """Logit distillation with labels (arXiv 1503.02531): class scores of a teacher that has its
    classifier, and the labels of the pictures."""

    name: Literal["logit_kd"] = "logit_kd"
    logits_weight: Positive = Field(default=1.0)
    """Factor of the KL between class scores; the student's classifier is thrown away."""
    logits_temperature: Positive = Field(default=4.0)
    """Of both sides' class scores."""
    logits_entropy: Share | None = Field(default=None)
    """Compare the scores of those pictures only where the teacher's entropy is at most this share
    of the largest possible one; default: of all."""
    labels_weight: Number = Field(default=1.0)
    """Factor of the cross-entropy with the labels of the pictures that have one; 0: the teacher
    alone. The classifier is that of the scores where both tell as many classes apart."""
    logits_activation: Literal["before", "after"] = Field(default="after")
    """Whether the classifiers of CNNs see the feature before or after its last activation."""
    color_jitter: ColorJitter = Field(default=(0.1, 0.1, 0.1))
    """Brightness, contrast and saturation jitter of the picture that both sides see; null: off."""
    lighting_std: Number = Field(default=0.05)
    """Std of the colour noise along ImageNet's principal directions."""


class RelationKDConfig(MethodSection):
    """Relations of a picture to others, and of its patches to one another, from any teacher."""

    name: Literal["relation_kd"] = "relation_kd"
    global_weight: Number = Field(default=1.0)
    """Factor of the KL between the similarities of a picture to other pictures."""
    global_temperature: Positive = Field(default=0.07, json_schema_extra=needs(global_weight=GIVEN))
    """Of these similarities, which are cosines."""
    queue_size: Steps = Field(default=4096, json_schema_extra=needs(global_weight=GIVEN))
    """Features of earlier pictures, the teacher's, that a picture is compared with beside those of
    its batch; the oldest leave first."""
    projector: Literal["linear", "mlp", "identity"] = Field(
        default="linear", json_schema_extra=needs(global_weight=GIVEN)
    )
    """From the student's pooled feature to the teacher's; it is not exported."""
    local_weight: Number = Field(default=1.0)
    """Factor of the KL between the similarities of a picture's patches to one another."""
    local_temperature: Positive = Field(default=0.07, json_schema_extra=needs(local_weight=GIVEN))
    """Of these similarities, which are cosines."""
    color_jitter: ColorJitter = Field(default=(0.4, 0.4, 0.4))
    """Brightness, contrast and saturation jitter of the picture that both sides see; null: off."""
    lighting_std: Number = Field(default=0.05)
    """Std of the colour noise along ImageNet's principal directions."""

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        if not (self.global_weight or self.local_weight):
            raise ValueError(
                "method.global_weight=0 and method.local_weight=0 leave nothing to learn"
            )
        return self
