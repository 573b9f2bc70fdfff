"""The typed configuration of robustness to corruptions (Hendrycks and Dietterich, arXiv
1903.12261; spec 10)."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from vistill.config.section import Pixels, Section, Seed, unique
from vistill.config.suggest import did_you_mean

COMMON = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 of the benchmark."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Four that its authors kept for validation."""
_GROUPS = {"common": COMMON, "extra": EXTRA, "all": COMMON + EXTRA}
Severity = Annotated[int, Field(ge=1, le=5)]


class RobustnessConfig(Section):
    """Errors of a trained classifier on corrupted pictures, as on ImageNet-C."""

    corruptions: Annotated[tuple[str, ...], AfterValidator(unique)] = Field(
        default=COMMON, min_length=1
    )
    """Names, or `common` (the 15 of ImageNet-C), `extra` (the four besides) or `all`."""
    severities: Annotated[tuple[Severity, ...], AfterValidator(unique)] = Field(
        default=(1, 2, 3, 4, 5), min_length=1
    )
    """Which of the five."""
    size: Pixels = Field(default=224)
    """Side of the view that is corrupted, the shorter one of a rectangle, before it is resized for
    the model. The corruptions' lengths in pixels are published for 224 and are not scaled."""
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(default=85)
    """Corrupted pictures are kept as JPEG of this quality, as the published ones are; `null`: as
    they are."""
    frost: str | None = Field(default=None)
    """Folder of photographs of frost; default: the published ones where imagecorruptions or
    corrupt-tta is installed, else frost is drawn."""
    reference: str | None = Field(default=None)
    """Relative to whose errors the mean corruption error is told: a model, the `--out` file of one
    that was measured, or `alexnet`, as published for ImageNet's 1,000 classes."""
    seed: Seed = Field(default=0)
    """Of everything that a corruption draws, for each picture, corruption and severity by itself.
    """

    @field_validator("corruptions", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        given = (given,) if isinstance(given, str) else given
        if not isinstance(given, list | tuple):
            return given
        found: list[Any] = []
        for name in given:
            if not isinstance(name, str) or name not in (*_GROUPS, *_GROUPS["all"]):
                near = did_you_mean(str(name), (*_GROUPS, *_GROUPS["all"]))
                raise ValueError(f"unknown corruption {name!r}{near}")
            found += _GROUPS.get(name, (name,))
        return tuple(found)
