"""The registry: unique ports from many processes at once, and clear errors."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from procgroup import PortsExhausted, RegistryError
from procgroup.registry import (
    Owner,
    PortRequest,
    Registry,
    port_is_free,
    port_range,
    state_directory,
)

from .conftest import PACKAGE


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    # A range of its own: real groups of this machine lease from the default one.
    monkeypatch.setenv("PROCGROUP_PORTS", "32100-32399")
    return Registry(tmp_path / "state")


def test_where_the_state_directory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("PROCGROUP_STATE_DIR", raising=False)
    for base in ("", "relative", "./relative"):
        monkeypatch.setenv("XDG_STATE_HOME", base)
        assert state_directory() == Path("/home/me/.local/state/procgroup")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_directory() == Path("/var/state/procgroup")
    monkeypatch.setenv("PROCGROUP_STATE_DIR", "relative")
    assert state_directory() == tmp_path / "relative"
    assert state_directory("~/other") == Path("/home/me/other")


def requests(count: int) -> list[PortRequest]:
    return [PortRequest("role", 0, f"p{number}") for number in range(count)]


def own() -> Owner:
    return Owner.of(os.getpid())


def test_ports_are_leased_once_and_freed_with_their_group(registry: Registry) -> None:
    first, ports = registry.register("a", "a.yaml", own(), requests(3))
    second, others = registry.register("b", "b.yaml", own(), requests(3))
    assert first != second
    assert len({*ports, *others}) == 6
    assert {port for port, _ in registry.ports(first)} == {*ports}
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


def test_a_port_whose_connections_go_elsewhere_is_skipped(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed container engine leaves such rules behind: a server would listen in vain."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    rule = f"OUTPUT -d 127.0.0.1 -p tcp --dport {port} -j DNAT --to-destination 127.0.0.1:1"
    try:
        subprocess.run(["iptables", "-w", "-t", "nat", "-I", *rule.split()], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs iptables, and root: {error}")
    try:
        monkeypatch.setenv("PROCGROUP_PORTS", f"{port}-{port}")
        with pytest.raises(PortsExhausted, match="1 in use by others"):
            registry.register("a", "a.yaml", own(), requests(1))
    finally:
        subprocess.run(["iptables", "-w", "-t", "nat", "-D", *rule.split()], check=True)
    registry.register("a", "a.yaml", own(), requests(1))


def test_looking_at_a_port_leaves_it_to_a_server_at_once() -> None:
    """A server need not set SO_REUSEADDR for the sake of the look."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    for _ in range(50):
        assert port_is_free(port)
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
            server.listen()
            assert not port_is_free(port)


def test_exhaustion_is_explained(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCGROUP_PORTS", "32390-32392")
    registry.register("a", "a.yaml", own(), requests(2))
    with pytest.raises(
        PortsExhausted, match=r"2 port\(s\) wanted, 1 free in 32390-32392: 2 leased"
    ):
        registry.register("b", "b.yaml", own(), requests(2))
    monkeypatch.setenv("PROCGROUP_PORTS", "32380-32381")
    with pytest.raises(PortsExhausted, match=r"2 free in 32380-32381: 0 leased"):
        registry.register("b", "b.yaml", own(), requests(3))


@pytest.mark.parametrize("text", ["20000", "a-b", "30000-20000", "1-99999"])
def test_a_bad_range_is_explained(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PROCGROUP_PORTS", text)
    with pytest.raises(RegistryError, match="expected FIRST-LAST"):
        port_range()


@pytest.mark.parametrize(
    ("chosen", "system", "warned"),
    [
        ("40000-40010", "32768 60999", True),
        ("32000-32768", "32768 60999", True),
        ("60999-61100", "32768 60999", True),
        ("32000-32767", "32768 60999", False),
        (None, "1024 65535", True),
        (None, None, False),
    ],
)
def test_ports_that_any_connection_may_take_are_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    chosen: str | None, system: str | None, warned: bool,
) -> None:  # fmt: skip
    file = tmp_path / "ip_local_port_range"
    if system:
        file.write_text(system.replace(" ", "\t") + "\n")
    monkeypatch.setattr("procgroup.registry._EPHEMERAL", file)
    monkeypatch.setattr("procgroup.registry._compared", set())
    monkeypatch.delenv("PROCGROUP_PORTS", raising=False)
    if chosen:
        monkeypatch.setenv("PROCGROUP_PORTS", chosen)
    assert port_range() == port_range()
    said = capfd.readouterr().err
    assert said.count("\n") == warned
    assert ("set PROCGROUP_PORTS to others" in said) == warned


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


def test_additions_of_a_later_version_do_no_harm(registry: Registry) -> None:
    """Tables and columns with a default may be added without a new schema version."""
    with closing(sqlite3.connect(registry.path)) as later:
        later.execute("ALTER TABLE groups ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'")
        later.execute("ALTER TABLE ports ADD COLUMN protocol TEXT NOT NULL DEFAULT 'tcp'")
        later.execute("CREATE TABLE notes (text TEXT)")
        later.commit()
    group, ports = registry.register("a", "a.yaml", own(), requests(2))
    assert [row.id for row in registry.groups()] == [group]
    assert {port for port, _ in registry.ports(group)} == {*ports}
    registry.keep(group)
    registry.release(group)
    assert Registry(registry.state_dir).groups() == []


def test_a_change_of_the_schema_under_an_open_registry_is_noticed(registry: Registry) -> None:
    """A newer version has migrated the file meanwhile: this one must not write to it any more."""
    group, _ = registry.register("a", "a.yaml", own(), requests(1))
    with closing(sqlite3.connect(registry.path)) as newer:
        newer.execute("PRAGMA user_version = 2")
        newer.commit()
    with pytest.raises(RegistryError, match="has schema version 2, this procgroup knows 1"):
        registry.register("b", "b.yaml", own(), requests(1))
    with pytest.raises(RegistryError, match="set PROCGROUP_STATE_DIR"):
        registry.release(group)
    assert [row.id for row in registry.groups()] == [group]


def damage(registry: Registry) -> None:
    """Overwrite everything behind the header's page."""
    registry.register("a", "a.yaml", own(), requests(50))
    registry.close()
    size = registry.path.stat().st_size
    with registry.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def test_damage_behind_a_sound_header_is_found(
    registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(registry)
    again = Registry(registry.state_dir)
    assert again.groups() == []
    message = capfd.readouterr().err
    (aside,) = registry.state_dir.glob("registry.sqlite3.damaged-*[0-9]")
    assert f"{registry.path} is damaged" in message
    assert f"set aside as {aside}" in message
    assert message.count("\n") == 1
    group, _ = again.register("b", "b.yaml", own(), requests(1))
    assert [row.id for row in again.groups()] == [group]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE groups SET blueprint = CAST(x'2fff' AS TEXT)",
        "UPDATE ports SET role = CAST(x'ff' AS TEXT)",
        "DROP TABLE groups",
        "DROP TABLE ports",
        "DROP TABLE cursor",
        "PRAGMA user_version = 0",
    ],
)
@pytest.mark.parametrize("opened", [False, True])
def test_damage_to_what_a_sound_file_holds_is_found(
    registry: Registry, capfd: pytest.CaptureFixture[str], statement: str, opened: bool
) -> None:
    group, _ = registry.register("a", "a.yaml", own(), requests(2))
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as other:
        other.execute(statement)
    again = registry if opened else Registry(registry.state_dir)

    def use() -> None:
        again.groups()
        again.ports(group)
        again.register("b", "b.yaml", own(), requests(1))

    with suppress(RegistryError):  # what was to change it is not repeated for its caller
        use()
    again = Registry(registry.state_dir)
    use()
    message = capfd.readouterr().err
    (aside,) = registry.state_dir.glob("registry.sqlite3.damaged-*[0-9]")
    assert f"set aside as {aside}" in message
    assert message.count("\n") == 1
    assert not again.replaced()
    assert {row.name for row in again.groups()} == {"b"}


def test_damage_that_sqlite_describes_in_what_is_no_utf_8_is_found(registry: Registry) -> None:
    """It names the table whose definition it cannot read."""
    registry.close()
    with closing(sqlite3.connect(registry.path, isolation_level=None)) as other:
        other.execute("PRAGMA writable_schema = ON")
        other.execute(
            "UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT), sql = 'CREATE TABLE x (' "
            "WHERE name = 'cursor'"
        )
    assert Registry(registry.state_dir).groups() == []


BEGIN = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from procgroup.registry import Registry
directory, begin = Path(sys.argv[1]), float(sys.argv[2])
with ThreadPoolExecutor(4) as threads:
    for place in range(40):
        time.sleep(max(0, begin + place * 0.03 - time.time()))
        opened = threads.map(Registry, [directory / str(place)] * 4)
        print(sum(len(each.groups()) for each in opened))
"""


def test_many_begin_a_registry_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(tmp_path), str(time.time() + 0.5)],
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["0\n" * 40] * 4


@pytest.mark.parametrize("emptied", [False, True])
def test_many_find_the_damage_at_once(registry: Registry, emptied: bool) -> None:
    if emptied:
        registry.register("a", "a.yaml", own(), requests(1))
        os.truncate(registry.path, 0)
    else:
        damage(registry)
    code = (
        "from pathlib import Path\nfrom procgroup.registry import Registry\n"
        f"print(len(Registry(Path({str(registry.state_dir)!r})).groups()))"
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
    assert [process.communicate(timeout=60)[0] for process in processes] == ["0\n"] * 6
    assert len(list(registry.state_dir.glob("registry.sqlite3.damaged-*[0-9]"))) == 1


@pytest.mark.parametrize("others", [1, 3])
def test_a_file_that_is_emptied_while_it_is_in_use_is_set_aside(
    registry: Registry, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    others: int,
) -> None:  # fmt: skip
    """Whoever has it open would keep all others from beginning it anew."""
    monkeypatch.setattr("procgroup.registry.PATIENCE", 0.5)
    registry.register("a", "a.yaml", own(), requests(1))
    os.truncate(registry.path, 0)
    for _ in range(others):
        again = Registry(registry.state_dir)
        again.register("b", "b.yaml", own(), requests(1))
        again.close()
    message = capfd.readouterr().err
    (aside,) = registry.state_dir.glob("registry.sqlite3.damaged-*[0-9]")
    assert f"set aside as {aside}" in message
    assert message.count("\n") == 1
    assert registry.replaced()
    assert len(Registry(registry.state_dir).groups()) == others


def test_a_file_that_was_emptied_and_looked_at_is_set_aside(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite removes what was written ahead when it is first read."""
    monkeypatch.setattr("procgroup.registry.PATIENCE", 0.5)
    registry.register("a", "a.yaml", own(), requests(1))
    os.truncate(registry.path, 0)
    with closing(sqlite3.connect(registry.path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (0,)
    assert not Path(f"{registry.path}-wal").exists()
    assert Registry(registry.state_dir).groups() == []
    assert registry.replaced()


def test_an_empty_file_that_nobody_uses_is_begun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registry.sqlite3").touch()
    assert Registry(tmp_path).groups() == []
    assert capfd.readouterr().err == ""


def test_a_replaced_file_is_noticed(registry: Registry) -> None:
    assert not registry.replaced()
    damage(registry)
    Registry(registry.state_dir).close()
    assert registry.replaced()


def test_a_file_that_is_replaced_while_it_is_opened_is_noticed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found wrong with the old one is not the new one's fault."""
    registry.close()
    prepare = Registry._prepare

    def slow(self: Registry, database: sqlite3.Connection) -> None:
        prepare(self, database)
        if aside.exists():
            return
        self.path.rename(aside)
        Registry(self.state_dir).close()

    aside = registry.path.with_name("aside")
    monkeypatch.setattr(Registry, "_prepare", slow)
    assert Registry(registry.state_dir).replaced()
    assert not Registry(registry.state_dir).replaced()


def test_a_change_that_sqlite_has_rolled_back_by_itself_is_no_damage(registry: Registry) -> None:
    """As it may on a full disk; the former words were of the rollback that was then refused."""
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode, full.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"

    def change() -> None:
        with registry._transaction() as database:
            database.execute("ROLLBACK")
            raise full

    with pytest.raises(RegistryError, match="database or disk is full"):
        change()
    assert not registry.replaced()


def test_a_registry_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="cannot create the state directory"):
        Registry(tmp_path / "file" / "state")


def test_a_directory_in_the_registrys_place_is_explained(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite3").mkdir()
    with pytest.raises(RegistryError, match=r"registry.sqlite3: unable to open database file"):
        Registry(tmp_path)


def test_a_registry_that_cannot_be_locked_is_explained(tmp_path: Path) -> None:
    (tmp_path / "registry.lock").mkdir()
    with pytest.raises(RegistryError, match=r"registry.sqlite3: .*registry.lock"):
        Registry(tmp_path)


def test_a_cursor_that_is_lost_is_made_anew(registry: Registry) -> None:
    with closing(sqlite3.connect(registry.path)) as other:
        other.execute("DELETE FROM cursor")
        other.commit()
    group, ports = registry.register("a", "a.yaml", own(), requests(2))
    registry.release(group)
    _, again = registry.register("a", "a.yaml", own(), requests(2))
    assert not set(ports) & set(again)


def test_owner_must_run(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="is not running"):
        Owner.of(2**22 - 1)
