"""A worker on hiredis and a socket: ``python -m … PORT DIRECTORY``; greets until it is stopped."""

import json
import os
import socket
import sys
import time

import hiredis
from procgroup.discovery import notify_ready


def connected(port: int) -> socket.socket:
    """The server starts at the same time as this worker does."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.0005)


def main(port: int, directory: str) -> None:
    connection, reader = connected(port), hiredis.Reader()
    notify_ready()
    while True:
        connection.sendall(b"*3\r\n$5\r\nBLPOP\r\n$9\r\ngreetings\r\n$1\r\n0\r\n")
        while (reply := reader.gets()) is False:
            reader.feed(connection.recv(65536))
        greeting = json.loads(reply[1])
        path = os.path.join(directory, f"{greeting['id']}.txt")
        with open(f"{path}.partial", "w") as file:
            file.write(f"Hello, {greeting['name']}!\n")
        os.replace(f"{path}.partial", path)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
