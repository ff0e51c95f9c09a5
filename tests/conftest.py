"""Side by side, workers of pytest-xdist share the cores: one thread each, here and in the commands that tests start."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
