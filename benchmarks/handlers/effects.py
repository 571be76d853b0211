"""A greeting's effects with the standard library alone: claimed in Redis, written, completed.

Nothing is imported before the first job, so that a handler's own cost is all there is before it.
"""

from __future__ import annotations

import os


def greet(identifier: str, name: str) -> None:
    """Write a greeting down once, as the service's own job does."""
    import socket

    host, _, port = os.environ["REDIS"].partition(":")
    key = f"ledger:greeting-{identifier}"
    with socket.create_connection((host, int(port))) as redis:
        redis.sendall(f"SET {key} held NX PX 30000\r\n".encode())
        if not redis.recv(64).startswith(b"+OK"):
            return
        path = os.path.join(os.environ["DOCUMENTS"], f"{identifier}.txt")
        partial = f"{path}.{os.getpid()}.partial"
        with open(partial, "wb") as file:
            file.write(f"Hello, {name}!\n".encode())
        os.replace(partial, path)
        redis.sendall(f"SET {key} completed EX 1209600\r\n".encode())
        redis.recv(64)
