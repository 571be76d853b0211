"""A worker as small as one can be: greets a Redis server in its own protocol, says so, waits."""

import _socket
import os
import sys
import time


def main() -> None:
    host, port, greeting = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    deadline = time.monotonic() + 1000  # longer than any test waits for it to be gone
    while True:
        connection = _socket.socket()
        if connection.connect_ex((host, port)) == 0:
            break
        if time.monotonic() > deadline:
            raise SystemExit("no server")
        connection.close()
        time.sleep(0.0005)
    connection.send(f"SET greeting {greeting}\r\n".encode())
    assert connection.recv(64) == b"+OK\r\n"
    print(f"greeted {time.time():.6f}", flush=True)
    descriptor = os.open(os.environ["PROCGROUP_NOTIFY"], os.O_WRONLY)
    os.write(descriptor, b"ready\n")
    os.close(descriptor)
    while connection.recv(64):
        pass


main()
