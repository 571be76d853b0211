"""The examples in the README work."""

import json
import re
from pathlib import Path
from typing import Any

import local_sqs
from local_sqs import Queue, advance_clock, load_settings

README = (Path(local_sqs.__file__).parents[1] / "README.md").read_text()


def _block(language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def test_the_queue_example(server, client):
    example = _block("python").replace(":6379/", f":{server.port}/").replace("wait=20", "wait=0")
    names: dict[str, Any] = {}
    exec(example, names)
    advance_clock(client, 10)
    (message,) = names["queue"].receive()
    assert message.body == '{"type": "statement"}'
    names["queue"].close()


def test_the_pushed_examples(client):
    bodies = re.findall(r"RPUSH statements '(.*?)'", README, re.DOTALL)
    assert len(bodies) == 2
    client.execute("RPUSH", "statements", *bodies)
    queue = Queue(client, "statements")
    assert json.loads(queue.receive()[0].body) == {"type": "statement"}
    advance_clock(client, 10)
    (message,) = queue.receive()
    assert (message.body, message.group_id) == ("text", "g")
    assert message.attributes["trace"].string_value == "1"


def test_the_settings_example(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(_block("json"))
    settings = load_settings(path)
    assert settings.queue.dead_letter_queue == "statements-dead"
    assert settings.function.handler == "package.module.function"
