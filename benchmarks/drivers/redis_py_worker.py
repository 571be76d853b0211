"""A worker as one writes it with redis-py: ``python … PORT DIRECTORY``; greets until it is stopped."""

import json
import os
import sys

import redis


def main(port: int, directory: str) -> None:
    server = redis.Redis(host="127.0.0.1", port=port)
    while True:
        _, body = server.blpop(["greetings"])
        greeting = json.loads(body)
        path = os.path.join(directory, f"{greeting['id']}.txt")
        with open(f"{path}.partial", "w") as file:
            file.write(f"Hello, {greeting['name']}!\n")
        os.replace(f"{path}.partial", path)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
