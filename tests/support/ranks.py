"""Ranks that are forks of a test's process, which has loaded torch."""

import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

import torch
import torch._dynamo


def session(words, ranks, main):
    """`main` on ranks that are forks of this process, which need not import torch again."""
    place = {}
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    said = Path(tempfile.mkdtemp(dir=Path(words[0]).parent))
    pids = []
    for rank in range(ranks):
        known = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks} if ranks > 1 else {}
        pids.append(os.fork())
        if not pids[-1]:
            code = 70
            try:
                torch.set_num_threads(1)  # those of the parent are not there
                sys.stdout = sys.stderr = (said / str(rank)).open("w", buffering=1)
                os.environ |= place | {name: str(value) for name, value in known.items()}
                sys.argv = ["main", *map(str, words)]
                code = main()
            except SystemExit as end:
                code = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    text = "".join((said / str(rank)).read_text() for rank in range(ranks))
    return SimpleNamespace(returncode=max(codes, key=abs), stderr=text)
