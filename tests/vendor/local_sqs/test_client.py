"""What a client does while Redis is away."""

import threading
from pathlib import Path

import pytest
from local_sqs import Queue

from .conftest import ONE, Server, binary, wait_until


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
