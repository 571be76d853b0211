"""What a launch would make of a blueprint, without starting anything or leasing ports."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import Any

from procgroup.launching import Builder, choose_supervisor, port_requests
from procgroup.registry import port_range, state_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procgroup.blueprint import Blueprint


def resolve(blueprint: Blueprint, supervisor: str | None = None) -> dict[str, Any]:
    """The blueprint with everything rendered; ports and the group's directory are examples.

    Plain data, keyed by role label (`worker.0`). Raises BlueprintError.
    """
    chosen, programs = choose_supervisor(supervisor, state_directory())
    requests = port_requests(blueprint)
    first = port_range()[0]
    with tempfile.TemporaryDirectory(prefix="procgroup-") as scratch:
        ports = range(first, first + len(requests))
        builder = Builder(blueprint, "example", Path(scratch), ports, chosen, programs)
        plan = builder.build(detach=False, timeout=1.0)
        roles = {
            f"{entry['name']}.{entry['plan']['replica']}": _described(entry["plan"])
            for entry in plan["roles"]
        }
        resolved = {
            "name": blueprint.name,
            "supervisor": chosen,
            "variables": dict(blueprint.variables),
            "roles": roles,
        }
        hint = builder.hint()
        if hint is not None:
            resolved["hint"] = hint
        found: dict[str, Any] = _replaced(resolved, scratch, "<state dir>")
        return found


def _described(plan: dict[str, Any]) -> dict[str, Any]:
    public = plan["public"]
    configs = {
        name: Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        for name, path in public["configs"].items()
    }
    environment = {
        name: value
        for name, value in plan["environment"].items()
        if not name.startswith("PROCGROUP_")
    }
    shown = {
        "command": plan["argv"],
        "ports": public["ports"],
        "environment": environment,
        "working_directory": plan["working_directory"],
        "needs": plan["needs"],
        "ready": plan["ready"],
        "stop_signal": signal.Signals(plan["stop_signal"]).name.removeprefix("SIG"),
        "stop_timeout": plan["stop_timeout"],
        "graceful": plan["graceful"],
        "autostart": plan["autostart"],
        "configs": configs,
    }
    return {name: value for name, value in shown.items() if value not in (None, {}, [])}


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(each, old, new) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, old, new) for each in value]
    return value.replace(old, new) if isinstance(value, str) else value
