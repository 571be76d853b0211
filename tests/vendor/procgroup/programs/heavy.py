"""A server whose child, in a session of its own if told so, shares its port and is large: the kernel
needs a while to take it apart."""

import os
import socket
import sys
import time

from procgroup import notify_ready

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
reader, writer = os.pipe()
if os.fork() == 0:
    if "session" in sys.argv:
        os.setsid()
    weight = b"x" * (150 << 20)
    os.write(writer, b"x")
    time.sleep(1000)
os.read(reader, 1)
notify_ready()
time.sleep(1000)
