"""How a process finds the other roles of its group: $PROCGROUP_GROUP_FILE names group.json.

Standard library only and cheap to import, since it runs in every role.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RoleInfo:
    """One replica of a role as group.json describes it."""

    def __init__(self, name: str, document: dict[str, Any]) -> None:
        self.name = name
        self.replica: int = document["replica"]
        self.host: str = document["host"]
        self.ports: dict[str, int] = document["ports"]
        self.directory = Path(document["directory"])
        self.configs = {key: Path(path) for key, path in document["configs"].items()}
        self.log_path = Path(document["log"])
        self.command: list[str] = document["command"]
        self.container: str | None = document.get("container")
        """The container's name, for `docker exec` and the like; None for other roles."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self.ports or ''}>"

    @property
    def label(self) -> str:
        """`worker.0`, as its directory is called."""
        return f"{self.name}.{self.replica}"

    @property
    def port(self) -> int:
        """The first port. Raises LookupError when the role has none."""
        for port in self.ports.values():
            return port
        raise LookupError(f"role {self.name!r} has no ports")

    @property
    def address(self) -> str:
        """`host:port` of the first port. Raises LookupError when the role has none."""
        return f"{self.host}:{self.port}"

    def log(self) -> str:
        """All that the role wrote to its standard output and error so far."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


class Discovery:
    """What group.json said when it was read. `roles` maps a name to its replica 0."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = Path(file)
        self.document: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        self.id: str = self.document["id"]
        self.name: str = self.document["name"]
        self.directory = Path(self.document["directory"])
        self.variables: dict[str, Any] = self.document["variables"]
        self.replicas = {
            name: [RoleInfo(name, replica) for replica in role["replicas"]]
            for name, role in self.document["roles"].items()
        }
        self.roles = {name: found[0] for name, found in self.replicas.items() if found}

    def all_roles(self) -> list[RoleInfo]:
        """Every replica of every role, in the blueprint's order."""
        return [role for replicas in self.replicas.values() for role in replicas]


def discover() -> Discovery:
    """The group this process runs in. Raises LookupError outside of a group."""
    file = os.environ.get("PROCGROUP_GROUP_FILE")
    if not file:
        raise LookupError("PROCGROUP_GROUP_FILE is not set: this process runs in no process group")
    return Discovery(file)
