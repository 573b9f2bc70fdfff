"""UMT's second stage on 1,000 pictures of Flickr8k with five captions each: pictures find their
captions and the reverse, with and without the first stage before. Finished steps are skipped, so
the same command goes on where it stopped.

    OMP_NUM_THREADS=1 python scripts/experiments/umt_flickr.py --flickr flickr8k_1k.zip \\
        --teacher deit_tiny_patch16_224.safetensors --out runs/umt_flickr
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from experiment import ONE_CORE, unpacked
from tokenizers import BertWordPieceTokenizer

import vistill
from vistill.text_cleanup import clean

TRAINED = 900


def lists(flickr: Path, out: Path) -> dict[str, str]:
    """The first names for training, the others for tests; and the former's vocabulary."""
    head, *lines = (flickr / "captions.csv").read_text().splitlines()
    names = sorted({line.partition(",")[0] for line in lines})
    first, found = set(names[:TRAINED]), {}
    for part in ("train", "test"):
        mine = [line for line in lines if (line.partition(",")[0] in first) == (part == "train")]
        where = (flickr / "images").absolute()
        text = "".join(f"{where}/{line}\n" for line in mine)
        (out / f"{part}.csv").write_text(f"{head}\n{text}")
        found[part] = str(out / f"{part}.csv")
        if part == "train":
            tool = BertWordPieceTokenizer(lowercase=True)
            captions = [clean(line.partition(",")[2]) for line in mine]
            tool.train_from_iterator(captions, vocab_size=2000, min_frequency=2)
            tool.save_model(str(out))
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flickr", type=Path, required=True, help="folder or archive")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of an image ViT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="*", default=["with-stage-1", "without"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12, help="of stage 2")
    parser.add_argument("--first-epochs", type=int, default=12, help="of stage 1")
    parser.add_argument("--image-size", type=int, default=64)
    given = parser.parse_args(words)

    given.out.mkdir(parents=True, exist_ok=True)
    flickr = unpacked(given.flickr, given.out)
    data = lists(flickr, given.out)
    student = {
        "student.model": "vit",
        "student.embed_dim": 96,
        "student.depth": 6,
        "student.num_heads": 3,
        "student.class_token": False,
        "data.image_size": given.image_size,
        "data.held_out": 0.0,
        "optim.lr": 1e-3,
        "optim.warmup_epochs": 1,
        "train.global_batch_size": 32,
    }
    text = {
        "method.text.tokenizer": str(given.out / "vocab.txt"),
        "method.text.depth": 4,
        "method.text.embed_dim": 128,
        "method.text.num_heads": 4,
        "method.text.dropout": 0.0,
        "method.embedding": 128,
    }
    teacher = f"file:{given.teacher}"

    def pretrain(method: str, name: str, seed: int, **own: Any) -> Path:
        run = given.out / f"{name}-{seed}"
        if not (run / "result.json").exists():
            began = time.process_time()
            vistill.pretrain(
                method,
                data=data["train"],
                out=run,
                teacher=teacher,
                overrides=ONE_CORE | student | {"seed": seed} | own,
            )
            (run / "cpu_seconds").write_text(f"{time.process_time() - began:.0f}\n")
        return run

    rows: dict[str, Any] = {}
    for seed in given.seeds:
        for arm in given.arms:
            start = {}
            if arm == "with-stage-1":
                before = pretrain("umt", "stage-1", seed, **{"train.epochs": given.first_epochs})
                start = {"student.init": f"run:{before}"}
            run = pretrain(
                "umt_multimodal", arm, seed, **text, **start, **{"train.epochs": given.epochs}
            )
            file = run / "retrieval.json"
            if not file.exists():
                vistill.evaluate(
                    f"run:{run}",
                    data=data["test"],
                    protocols=["retrieval"],
                    out=file,
                    overrides={"device": "cpu", "workers": 0},
                )
            told = json.loads(file.read_text())
            spent = float((run / "cpu_seconds").read_text())
            rows[f"{arm}-{seed}"] = {"retrieval": told["retrieval"], "cpu_seconds": spent}
        (given.out / "summary.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
