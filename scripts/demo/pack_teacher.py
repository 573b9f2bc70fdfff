"""Put a finished teacher run into the package: weights in half precision, configuration, log.

python scripts/demo/pack_teacher.py RUN src/vistill/assets/blood_cells/teacher photos.zip
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

EVERY = 20


def main(run: str, target: str, data: str) -> None:
    """Copy from the run folder `run` into `target`; `data` is what the package calls its data."""
    source, folder = Path(run), Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / "export" / "last" / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, folder / "model.safetensors")
    description = json.loads((source / "export" / "last" / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    config = (source / "config.yaml").read_text().splitlines()
    kept = [f"  train: {data}" if line.startswith("  train: ") else line for line in config]
    (folder / "config.yaml").write_text("\n".join(kept) + "\n")
    lines = (source / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    log = [row for row in rows if row["step"] % EVERY == 0 or "held_out_loss" in row]
    text = "".join(
        json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n"
        for row in log
    )
    (folder / "metrics.jsonl").write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
