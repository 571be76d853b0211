"""Every error that this package raises on purpose."""

from __future__ import annotations


class ProcgroupError(Exception):
    """Base of the package's errors; its text is meant for a person."""


def refuse_other_than_utf8(path: str, what: str, error: type[ProcgroupError]) -> None:
    """The registry, group.json and scripts hold paths as text. Raises `error`."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise error(f"{path!r}: the {what}'s path must be UTF-8") from None


class BlueprintError(ProcgroupError):
    """A blueprint or one of its templates is wrong; names file, line, key and what was expected."""


class RegistryError(ProcgroupError):
    """The node's registry cannot be used."""


class PortsExhausted(RegistryError):
    """No free port is left in the registry's range."""


class UnknownGroup(ProcgroupError):
    """No group of that name, id or file exists."""


class GroupLost(ProcgroupError):
    """The group's keeper is gone, and with it every process of the group."""


class LaunchError(ProcgroupError):
    """A group did not become ready; names each role's command, exit status and log tail."""


class NotReady(ProcgroupError):
    """A role did not reach the state that was waited for in time."""
