"""A worker that imports next to nothing: ``python -m … PORT DIRECTORY``; greets until it is stopped.

What a group costs with it is the group's cost; any other worker adds its own imports.
"""

import os
import sys
import time
from _socket import (  # `socket` alone doubles a bare interpreter's start
    AF_INET,
    SOCK_STREAM,
    socket,
)


def connected(port: int) -> socket:
    """The server starts at the same time as this worker does."""
    while True:
        connection = socket(AF_INET, SOCK_STREAM)
        try:
            connection.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            connection.close()
            time.sleep(0.0005)
        else:
            return connection


def main(port: int, directory: str) -> None:
    connection = connected(port)
    with open(os.environ["PROCGROUP_NOTIFY"], "w") as notify:
        notify.write("ready\n")
    while True:
        connection.send(b"*3\r\n$5\r\nBLPOP\r\n$9\r\ngreetings\r\n$1\r\n0\r\n")
        reply = b""
        while reply.count(b"\r\n") < 5:  # *2, $9, greetings, $n, body
            reply += connection.recv(65536)
        words = reply.decode().split('"')
        greeting, name = (words[words.index(key) + 2] for key in ("id", "name"))
        path = f"{directory}/{greeting}.txt"
        with open(f"{path}.partial", "w") as file:
            file.write(f"Hello, {name}!\n")
        os.replace(f"{path}.partial", path)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
