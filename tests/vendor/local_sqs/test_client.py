"""What a client does while Redis is away."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from local_sqs import Client, ConnectionLost, Queue

from .conftest import ONE, PORTS, Server, binary, wait_until


def test_a_sender_says_that_redis_is_away_and_that_it_is_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = Server(binary(ONE), tmp_path)
    try:
        queue = Queue.open(f"redis://127.0.0.1:{server.port}/orders", retry_for=30)
        queue.send("before")
        server.kill()
        sender = threading.Thread(target=queue.send, args=("during",))
        sender.start()
        told = ""

        def away() -> bool:
            nonlocal told
            told += capfd.readouterr().err
            return "; trying for 30 s" in told

        wait_until(away, "a line that says so")
        assert server.start()
        sender.join(30)
        assert not sender.is_alive()
        assert [message.body for message in queue.receive()] == ["during"]
        told += capfd.readouterr().err
        assert told.count("trying for") == told.count("is back after") == 1
    finally:
        server.kill()


def test_a_client_that_reaches_itself_reaches_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it may while nobody listens on a port that the system gives to whoever connects."""

    def looped(address: Any, timeout: float) -> socket.socket:
        return create_connection(address, timeout, source_address=address)

    create_connection = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", looped)
    client = Client(port=next(PORTS), retry_for=0)
    with pytest.raises(ConnectionLost, match="connected to itself"):
        client.execute("PING")
