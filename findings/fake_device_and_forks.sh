#!/usr/bin/env bash
# PyTorch 2.12.1 (the wheel of PyPI): on a machine without any accelerator, one torch.compile(backend="eager") call, whose
# tracing makes a FakeTensorMode, leaves behind a stand-in CUDA device that counts as one. If that comes before the
# process's first backward pass, autograd starts with a thread for that device, and from then on every forked child
# (os.fork, a fork-started multiprocessing worker, a test runner's forked command) fails in its own first backward pass
# with "Unable to handle autograd's threading in combination with fork-based multiprocessing", although no device was
# ever used. The same lines work if one backward pass came first: what breaks is the order of two things that have
# nothing to do with each other. Seen the same with 2.14.1 (cu130 build).
# Exits with another code than 0 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.12.1" "numpy==2.4.6"
cd "$folder"
cat > order.py <<'PY'
import os
import sys

import torch


def backward():
    torch.ones(2, requires_grad=True).sum().backward()


def compiled():
    torch.compile(lambda x: x * 2, backend="eager")(torch.ones(2))


def code_of_a_fork():
    pid = os.fork()
    if pid == 0:
        try:
            backward()
        except RuntimeError as error:
            print("  ", str(error).split(". ")[0], flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


for step in sys.argv[1:]:
    {"backward": backward, "compile": compiled}[step]()
sys.exit(code_of_a_fork())
PY
export CUDA_VISIBLE_DEVICES=""
status() { "$folder/venv/bin/python" order.py "$@" && echo "$*: a fork computes gradients" && return 0 || return 1; }
status backward
status compile
status backward compile
if status compile backward; then echo "changed: compile, then backward, no longer breaks forks"; exit 1; fi
echo "compile, then backward: a fork fails"
