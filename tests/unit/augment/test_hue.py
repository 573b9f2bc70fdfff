import colorsys

import pytest
import torch

from vistill.augment.hue import apply_color_shift, color_shift

GENERATOR = torch.Generator().manual_seed(0)


def test_shift_agrees_with_the_standard_library():
    pixels = torch.rand(1, 3, 40, generator=GENERATOR)
    pixels[..., 0], pixels[..., 1] = 0.0, 0.5  # black and grey have no hue
    turn, saturation, value = (torch.tensor([[x]]) for x in (-0.21, 1.07, 0.93))
    found = apply_color_shift(pixels, turn, saturation, value)
    for column in range(40):
        h, s, v = colorsys.rgb_to_hsv(*pixels[0, :, column].tolist())
        wanted = colorsys.hsv_to_rgb((h - 0.21) % 1, min(1.07 * s, 1), 0.93 * v)
        assert found[0, :, column].tolist() == pytest.approx(wanted, abs=1e-5)


def test_all_frames_of_a_clip_are_shifted_alike_and_clips_differ():
    frame = torch.rand(1, 3, 1, 4, 4, generator=GENERATOR)
    shifted = color_shift(frame.expand(2, 3, 5, 4, 4), torch.tensor([3, 4]))
    torch.testing.assert_close(shifted, shifted[:, :, :1].expand_as(shifted))
    assert not torch.allclose(shifted[0], shifted[1])
    assert 0 <= shifted.min() <= shifted.max() <= 1
    torch.testing.assert_close(color_shift(frame, torch.tensor([3])), shifted[:1, :, :1])
