"""The registry: unique ports from many processes at once, and clear errors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from procgroup import PortsExhausted, RegistryError
from procgroup.registry import Owner, PortRequest, Registry, port_range

from .conftest import PACKAGE


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    # A range of its own: real groups of this machine lease from the default one.
    monkeypatch.setenv("PROCGROUP_PORTS", "32100-32399")
    return Registry(tmp_path / "state")


def requests(count: int) -> list[PortRequest]:
    return [PortRequest("role", 0, f"p{number}") for number in range(count)]


def own() -> Owner:
    return Owner.of(os.getpid())


def test_ports_are_leased_once_and_freed_with_their_group(registry: Registry) -> None:
    first, ports = registry.register("a", "a.yaml", own(), requests(3))
    second, others = registry.register("b", "b.yaml", own(), requests(3))
    assert first != second
    assert len({*ports, *others}) == 6
    assert [port for port, _ in registry.ports(first)] == ports
    registry.release(first)
    assert registry.ports(first) == []
    assert [row.id for row in registry.groups()] == [second]


def test_a_freed_port_rests_before_it_is_leased_again(registry: Registry) -> None:
    group, ports = registry.register("a", "a.yaml", own(), requests(2))
    registry.release(group)
    _, again = registry.register("a", "a.yaml", own(), requests(2))
    assert not set(ports) & set(again)


def test_a_port_in_use_is_skipped(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        monkeypatch.setenv("PROCGROUP_PORTS", f"{taken}-{taken}")
        with pytest.raises(PortsExhausted, match="1 in use by others"):
            registry.register("a", "a.yaml", own(), requests(1))
    assert registry.groups() == [], "a failed registration leaves nothing"


def test_exhaustion_is_explained(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCGROUP_PORTS", "32390-32392")
    registry.register("a", "a.yaml", own(), requests(2))
    with pytest.raises(
        PortsExhausted, match=r"2 port\(s\) wanted, 1 free in 32390-32392: 2 leased"
    ):
        registry.register("b", "b.yaml", own(), requests(2))


@pytest.mark.parametrize("text", ["20000", "a-b", "30000-20000", "1-99999"])
def test_a_bad_range_is_explained(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PROCGROUP_PORTS", text)
    with pytest.raises(RegistryError, match="expected FIRST-LAST"):
        port_range()


def test_kept_groups_hold_no_ports(registry: Registry) -> None:
    group, _ = registry.register("a", "a.yaml", own(), requests(2))
    registry.keep(group)
    assert registry.ports(group) == []
    assert registry.groups()[0].kept is not None


def test_many_processes_get_different_ports(registry: Registry) -> None:
    code = (
        "import os; from pathlib import Path\n"
        "from procgroup.registry import Owner, PortRequest, Registry\n"
        f"registry = Registry(Path({str(registry.state_dir)!r}))\n"
        "wanted = [PortRequest('r', 0, str(n)) for n in range(4)]\n"
        "for _ in range(8):\n"
        "    print(*registry.register('g', 'g.yaml', Owner.of(os.getpid()), wanted)[1])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    ports = [port for process in processes for port in process.communicate(timeout=60)[0].split()]
    assert len(ports) == len(set(ports)) == 6 * 8 * 4


def test_owner_must_run(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="is not running"):
        Owner.of(2**22 - 1)
