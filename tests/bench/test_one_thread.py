"""A bench that runs the product in its own process counts threads as the product does."""

import subprocess
import sys

PROGRAM = """
import torch
from threadpoolctl import threadpool_info
from bench.one_thread import one_thread
def blas():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
before = blas()
one_thread()
import scipy.linalg
print(before, blas(), torch.get_num_threads())
"""


def test_one_thread_is_one_in_numpy_scipy_and_torch() -> None:
    told = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": "."}
    ended = subprocess.run([sys.executable, "-c", PROGRAM], env=told, capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[0] == "[2, 2] [1, 1] 1"
