#!/usr/bin/env bash
# torchvision 0.29.1: its detectors' parts take the places of maps from guesses, without a word. Of a map that lies 3.5 pixels
# apart (patches of 14 pixels, enlarged four times, on a picture of 224): AnchorGenerator divides whole numbers, so that
# anchors lie 3 pixels apart and the last ones 35 pixels before the picture's end; MultiScaleRoIAlign takes the nearest
# power of two, 1/4 instead of 1/3.5, so that what it cuts out lies up to 28 pixels beside the box. And it guesses once: a
# module that has seen a picture padded to a larger map cuts the next ones out by that one's scale.
# What follows: steps are computed and handed in (`scales`, `map_levels`, a generator of one's own).
# Exits with another code than 0 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6"
cat > "$folder/maps.py" <<'PY'
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

SIDE, PLACES = 224, 64

anchors = AnchorGenerator(((28.0,),), ((1.0,),))
pictures = ImageList(torch.zeros(1, 3, SIDE, SIDE), [(SIDE, SIDE)])
(boxes,) = anchors(pictures, [torch.zeros(1, 8, PLACES, PLACES)])
last = float((boxes[:, 0] + boxes[:, 2]).max() / 2)
print(f"the last anchor of {PLACES} on {SIDE} pixels: at {last:g}; the map's last place is at {(PLACES - 1) * SIDE / PLACES:g}")
assert last == 189.0

# A map that holds the column of every place, in pixels; the mean of what is cut out says where that was.
columns = torch.arange(PLACES) * SIDE / PLACES
map_ = columns.expand(1, 1, PLACES, PLACES).contiguous()
box = [torch.tensor([[172.0, 172.0, 196.0, 196.0]])]
pool = MultiScaleRoIAlign(["0"], 7, 2)
seen = float(pool({"0": map_}, box, [(SIDE, SIDE)]).mean())
print(f"a box whose middle is at 184: cut out around {seen:.1f} (scale {pool.scales[0]:g} instead of {PLACES / SIDE:.4f})")
assert pool.scales[0] == 0.25
assert abs(seen - 161) < 1

# A picture of 120 pixels in a batch padded to 256, whose map of 64 places is exactly 4 apart; then one that fills it.
wide = (torch.arange(PLACES) * 4.0).expand(1, 1, PLACES, PLACES).contiguous()
whole, after_small = MultiScaleRoIAlign(["0"], 7, 2), MultiScaleRoIAlign(["0"], 7, 2)
box = [torch.tensor([[40.0, 40.0, 60.0, 60.0]])]
after_small({"0": wide}, box, [(120, 120)])
places = [float(one({"0": wide}, box, [(256, 256)]).mean()) for one in (whole, after_small)]
print(f"a box whose middle is at 50: {places[0]:.1f}; by a module that saw a small picture first: {places[1]:.1f}")
assert abs(places[0] - 50) < 0.5
assert abs(places[1] - 100) < 1
PY
"$folder/venv/bin/python" "$folder/maps.py"
