"""Groups of processes, described by a blueprint, that live and die together.

The names below are imported when first used: the warden and every role that calls
`notify_ready` import this package, and must not pay for YAML, Jinja2 or SQLite.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from procgroup.discovery import Discovery, RoleInfo, discover
    from procgroup.errors import (
        BlueprintError,
        GroupLost,
        LaunchError,
        NotReady,
        PortsExhausted,
        ProcgroupError,
        RegistryError,
        UnknownGroup,
    )
    from procgroup.group import ProcessGroup, Role
    from procgroup.notify import notify_ready

__all__ = [
    "BlueprintError",
    "Discovery",
    "GroupLost",
    "LaunchError",
    "NotReady",
    "PortsExhausted",
    "ProcessGroup",
    "ProcgroupError",
    "RegistryError",
    "Role",
    "RoleInfo",
    "UnknownGroup",
    "discover",
    "notify_ready",
]

_HOMES = {
    "Discovery": "discovery",
    "RoleInfo": "discovery",
    "discover": "discovery",
    "notify_ready": "notify",
    "ProcessGroup": "group",
    "Role": "group",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'procgroup' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"procgroup.{_HOMES.get(name, 'errors')}"), name)
