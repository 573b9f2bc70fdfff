"""Tests run in as many processes as there are processors, so that each has one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
