"""The floor of a queue's latency: ``python -m … PORT LIST STAMPS``; BLPOP, note when it came, again."""

from __future__ import annotations

import os
import socket
import sys
import time


def main(port: int, name: str, stamps: str) -> None:
    command = f"*3\r\n$5\r\nBLPOP\r\n${len(name)}\r\n{name}\r\n$1\r\n0\r\n".encode()
    file = os.open(stamps, os.O_WRONLY | os.O_APPEND)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            connection.sendall(command)
            if not connection.recv(65536):
                return
            os.write(file, f"{time.monotonic()!r}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
