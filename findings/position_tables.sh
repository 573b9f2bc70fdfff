#!/usr/bin/env bash
# timm and transformers resample the same table of positions differently, both "bicubic": timm's
# resample_abs_pos_embed with antialias=True, transformers' interpolate_pos_encoding without. So the
# same ViT weights have other features in either at any size but their own. Not only where the grid
# shrinks: with antialias torch uses another cubic (a = -0.5 instead of -0.75), also to enlarge.
#
# Seen with torch 2.14.1, timm 1.0.31, transformers 5.24.0 (relative difference of the tables):
#   a table of noise: 0.57 at 112 pixels, 0.084 at 448; a smooth one: 0.29 and 0.051
# Exits with another code than 0 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.14.1" "torchvision==0.29.1" "timm==1.0.31" "transformers==5.24.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import timm
import torch
import transformers
from timm.layers import resample_abs_pos_embed
from transformers import ViTConfig, ViTModel

sizes = dict(hidden_size=192, num_hidden_layers=1, num_attention_heads=3, intermediate_size=768)
model = ViTModel(ViTConfig(**sizes), add_pooling_layer=False).eval()
torch.manual_seed(0)
noise = torch.randn(1, 197, 192)
place = torch.linspace(0, 3, 14)
rows = torch.sin(place[:, None, None] * torch.linspace(1, 8, 192))
columns = torch.cos(place[None, :, None] * torch.linspace(1, 8, 192))
smooth = torch.cat([torch.zeros(1, 1, 192), (rows + columns).reshape(1, 196, 192)], dim=1)


def apart(table, pixels):
    side = pixels // 16
    with torch.no_grad():
        model.embeddings.position_embeddings.copy_(table)
        tokens = torch.zeros(1, 1 + side * side, 192)
        theirs = model.embeddings.interpolate_pos_encoding(tokens, pixels, pixels)
        ours = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=1)
    return float((ours - theirs).norm() / theirs.norm())


found = {(n, p): apart(t, p) for n, t in (("noise", noise), ("smooth", smooth)) for p in (112, 448)}
print("torch", torch.__version__, "timm", timm.__version__, "transformers", transformers.__version__)
for (name, pixels), value in found.items():
    print(f"{name:6} table of 14 x 14, read at {pixels} pixels: {value:.2g} apart")
assert min(found["noise", 112], found["smooth", 112]) > 0.2
assert min(found["noise", 448], found["smooth", 448]) > 0.02
PYTHON
