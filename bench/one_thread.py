"""One numeric thread in a bench that runs the product in its own process, as the `freshet` command gives itself.

A second thread that loses its core to another process is waited for, spinning: with a training beside it, a look-up of 1 ms took 50.
Set at run time, for these libraries are loaded before a bench's first line; a child process of ours is told by its environment.
"""

import scipy.linalg  # noqa: F401  # numba multiplies by scipy's BLAS, and loads it at the first product otherwise
import torch
from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """From now on torch, and BLAS in numpy and scipy, use one."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
