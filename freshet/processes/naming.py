"""What a process of the cluster is called in its heartbeats and leases.

process_name("api")
"""

import re
import socket
from typing import Final

NAME_MAX: Final = 64


def process_name(kind: str) -> str:
    """Unlike that of another machine: process ids are only told apart within one. Long names of machines differ at their ends.

    >>> process_name("api").startswith("api-")
    True
    """
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    return f"{kind}-{host[-(NAME_MAX - 1 - len(kind)) :]}"
