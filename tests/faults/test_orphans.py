"""Worker processes end with the process that they work for, however that ends."""

import subprocess
import sys
import time

import pytest
from processes import alive

SCRIPT = """
import os, time
from vistill.data.parallel import in_parallel

def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(0.01)

for _ in in_parallel(work, range(100_000), 3):
    pass
"""


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_process():
    main = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    workers = {int(main.stdout.readline()) for _ in range(60)}
    main.kill()
    main.stdout.close()
    main.wait()
    assert len(workers) == 3
    patience = time.monotonic() + 300
    while any(map(alive, workers)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(alive, workers))
