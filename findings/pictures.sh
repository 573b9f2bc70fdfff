#!/usr/bin/env bash
# Pillow 13.0.0 opens two valid kinds of 16-bit TIFF without an error or a warning and gives other numbers than they
# hold: RGB with a plane per colour (every 16-bit number is taken for two of 8 bits), and grey whose zero is white
# (left as stored, so that it is a negative; the same picture with 8 bits is turned right).
# Exits with another code than 0 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pillow==13.0.0" "numpy==2.4.6" "tifffile==2026.3.3"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import PIL
import tifffile
from PIL import Image

rows, columns = np.mgrid[:24, :40]
grey = (columns * 1500 + rows * 250).astype(np.uint16)
rgb = np.stack([grey, grey[::-1], 65535 - grey], axis=2)


def off(name, expected):
    with Image.open(name) as picture:
        found = np.asarray(picture).astype(int)
        print(f"  {name}: mode {picture.mode}, off by {np.abs(found - expected).max()}")
        return np.abs(found - expected).max()


print(f"Pillow {PIL.__version__}, tifffile {tifffile.__version__}")
print("RGB of 16 bits, compared with its upper 8 bits:")
tifffile.imwrite("chunky.tif", rgb, photometric="rgb")
tifffile.imwrite("planar.tif", rgb.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
tifffile.imwrite("planar8.tif", (rgb >> 8).astype(np.uint8).transpose(2, 0, 1), photometric="rgb",
                 planarconfig="separate")
assert (tifffile.imread("planar.tif").transpose(1, 2, 0) == rgb).all()
assert off("chunky.tif", rgb >> 8) == 0
assert off("planar8.tif", rgb >> 8) == 0
assert off("planar.tif", rgb >> 8) > 200

print("grey whose zero is white, compared with what it shows:")
tifffile.imwrite("white8.tif", (grey >> 8).astype(np.uint8), photometric="miniswhite")
tifffile.imwrite("white16.tif", grey, photometric="miniswhite")
assert off("white8.tif", 255 - (grey >> 8)) == 0
assert off("white16.tif", 65535 - grey.astype(int)) == 65535
PY
