"""The keeper: one process a group, parent of all its processes, and their end.

It is a subreaper, so nothing that a role starts can leave its tree. It takes the group down when it
is told to, when its launcher or its warden is gone (their descriptors reach end of file, whatever
killed them), and when it gets SIGTERM. A detached group has no launcher to lose, once all is ready.

One thread, one loop: descriptors, signals and timers change the state of roles, and after each
round replies are sent to whoever waits for a state.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback

from procgroup import processes
from procgroup.channel import Channel
from procgroup.forked import BecomeRole
from procgroup.readiness import NotifyProbe, Probe, probe_for
from procgroup.supervisors import (
    KEEPER_SIGNALS,
    SUPERVISORS,
    Supervisor,
    exit_text,
    fork_exec,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# Pauses before the n-th restart in a row of a role that did not get ready and live for a second. The
# first is none: a test that kills a role wants it back at once.
BACK_OFF = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
HEALTHY_AFTER = 1.0  # seconds of life that end a row of crashes, of a role that got ready
LOOK_AGAIN = 0.2  # seconds between looks at a process whose end the system does not report
CLEAR_LIMIT = 5.0  # seconds that what an ended incarnation left may take to die
WRITE_AGAIN = 1.0  # seconds until group.json, which could not be written, is tried again


class KeptRole:
    """One replica of a role: what is wanted of it, and what is so."""

    def __init__(self, keeper: Keeper, name: str, plan: dict[str, Any]) -> None:
        self.keeper = keeper
        self.name = name
        self.plan = plan
        self.state = "waiting"  # waiting starting ready paused back-off stopping stopped failed
        self.wanted: bool = plan["autostart"]
        if not self.wanted:
            self.state = "stopped"
        self.launched_once = False
        self.exit_status: str | None = None
        self.problem: str | None = None  # that keeps it from being ready, for a person
        self.crashes = 0
        self.restarts = 0
        self._unasked = False  # the last incarnation ended unasked: the next is a restart
        self.started_at: float = 0.0
        self.start_token: str | None = None
        self.pid: int | None = None
        self._was_ready = False
        self._deliberate = False
        self._deadline: float | None = None  # of the back-off, or of stop's patience
        self._cleaner: int | None = None  # the process that runs the plan's `cleanup`
        self._cleaner_ends = 0.0  # when its patience ends
        # Of an ended incarnation: its process group, while it has members; those of its processes
        # that were killed and are not seen gone; until when they are waited for.
        self._group: int | None = None
        self._left: set[int] = set()
        self._clear_ends: float | None = None
        self._probe: Probe | None = None
        self._next_probe = 0.0
        self._awaited: int | None = None  # a descriptor of the probe's that is watched
        self._pidfd: int | None = None  # of a process that is runsv's child
        self._look_again: float | None = None  # whether it has ended, where there is no pidfd
        self._lost_at: float | None = None  # when its end, which nobody has reported, counts
        kind = plan["ready"] and plan["ready"]["kind"]
        self._notify = NotifyProbe(plan["notify"]) if kind == "notify" else None
        if self._notify is not None:
            keeper.watch(self._notify.fileno(), self._notified)
        supervisor = SUPERVISORS[plan["supervisor"]]
        self.supervisor: Supervisor = supervisor(plan, self._started, self._exited)

    @property
    def label(self) -> str:
        return f"{self.name}.{self.plan['replica']}"

    # -- wishes ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Want the role to run, forgiving earlier crashes."""
        self.wanted = True
        self._deliberate = False
        if self.state == "paused":
            self.resume()
        elif self.state in ("stopped", "failed", "back-off", "stopping"):
            self.crashes = 0
            if self._clearing():
                self._become("back-off")  # it begins when all is clean
            elif self.state != "stopping":  # else it begins when it has ended
                self._begin()

    def stop(self, patience: float | None = None) -> None:
        """Signal the whole process group, and kill it when its patience ends.

        `patience` is in seconds, by default the role's `stop_timeout`.
        """
        self.wanted = False
        if self._clearing():
            self._become("stopping")
        elif self.state in ("waiting", "back-off", "failed"):
            self._become("stopped")
        elif self.state in ("starting", "ready", "paused"):
            if self.state == "paused" and self.plan["thaw"]:
                with contextlib.suppress(RuntimeError):  # then the stop's patience decides
                    self._run(self.plan["thaw"])
            self.close_probe()
            self._become("stopping")
            patience = self.plan["stop_timeout"] if patience is None else patience
            self._deadline = time.monotonic() + patience
            if self.pid is not None:
                # Never killpg before the role has its own group: the signal would go elsewhere.
                self._signal_tree(self.plan["stop_signal"])
                self._signal_tree(signal.SIGCONT)  # a paused role must wake to obey

    def kill(self) -> None:
        """SIGKILL the main process, as a crash would end it; it restarts at once."""
        if self.pid is not None:
            self._deliberate = True
            processes.send(self.pid, signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP the whole process group; returns when the main process has stopped."""
        runs = self.state in ("starting", "ready")
        if not self.plan["freeze"]:
            self._signal_tree(signal.SIGSTOP)
            if self.pid is not None:
                processes.wait_stopped(self.pid, 0.1)
        elif runs:  # an engine refuses what is paused, or does not run
            self._run(self.plan["freeze"])
        if runs:
            self._become("paused")

    def resume(self) -> None:
        """SIGCONT the whole process group."""
        if not self.plan["thaw"]:
            self._signal_tree(signal.SIGCONT)
        elif self.state == "paused":
            self._run(self.plan["thaw"])
        if self.state == "paused":
            self._become("ready" if self._was_ready else "starting")

    def kill_tree(self) -> None:
        """SIGKILL the role's process group."""
        self._signal_tree(signal.SIGKILL)

    def _signal_tree(self, number: int) -> None:
        """Signal the role's process group, or, before it leads one, the process alone."""
        if self.pid is None:
            return
        if processes.group_of(self.pid) == self.pid:
            processes.send_group(self.pid, number)
        else:
            processes.send(self.pid, number)

    # -- what happens ---------------------------------------------------------------------------

    def _become(self, state: str) -> None:
        if self.state != state:
            self.state = state
            self.keeper.stale = True

    def _begin(self) -> None:
        self._deadline = None
        self._was_ready = False
        self._deliberate = False
        self.problem = None
        self.close_probe()
        if self._notify is not None:
            self._notify.arm()
            self._probe = self._notify
        else:
            self._probe = probe_for(self.plan["ready"], self.plan["log"])
        self.started_at = time.monotonic()
        self._become("starting")
        if self._unasked:
            self._unasked = False
            self.restarts += 1
        self.supervisor.begin()
        self.launched_once = True
        descriptor = self.supervisor.descriptor()
        if descriptor is not None:
            self.keeper.watch(descriptor, self.supervisor.readable)

    def _started(self, pid: int) -> None:
        self.pid = pid
        self.start_token = processes.started(pid)
        self.keeper.dirty = True
        if not self.supervisor.sees_ends:
            self._pidfd = processes.open_pidfd(pid)
            if self._pidfd is None:
                self._look_again = 0.0
            else:
                self.keeper.watch(self._pidfd, self._ended)
        if self.state == "stopping":  # it was told to stop before runsv had begun it
            self._signal_tree(self.plan["stop_signal"])
        elif self._probe is None and self.state == "starting":
            self._was_ready = True
            self._become("ready")
        else:
            self._next_probe = 0.0

    def _ended(self) -> None:
        """Its process is gone, as the system says; its supervisor is about to say how."""
        self._unwatch_end()
        self._lost_at = time.monotonic() + self.supervisor.patience()

    def _unwatch_end(self) -> None:
        self._look_again = self._lost_at = None
        if self._pidfd is not None:
            self.keeper.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _await_end(self, now: float) -> float | None:
        """See to it that no end is missed; when to look again."""
        if self._look_again is not None and now >= self._look_again:
            self._look_again = now + LOOK_AGAIN
            if self.pid is not None and processes.group_of(self.pid) is None:
                self._ended()
        if self._lost_at is not None and now >= self._lost_at:
            self._lost_at = None
            self.supervisor.lost()
        return self._look_again if self._lost_at is None else self._lost_at

    def _exited(self, status: int | None) -> None:
        self._unwatch_end()
        lived = time.monotonic() - self.started_at
        self._group, self.pid, self.start_token = self.pid, None, None
        self.exit_status = exit_text(status)
        self.keeper.dirty = True
        self.close_probe()
        self._deadline = None
        self._left = set() if self._group is None else {self._group}
        self._unasked = self.wanted and self.state != "stopping"
        if self._unasked:
            healthy = self._deliberate or (self._was_ready and lived >= HEALTHY_AFTER)
            self.crashes = 0 if healthy else self.crashes + 1
        if not self._clear():
            self._clear_ends = time.monotonic() + CLEAR_LIMIT
        if self.plan["cleanup"]:
            self._cleaner = self.begin_cleanup()
            self._cleaner_ends = time.monotonic() + processes.CLEANUP_LIMIT
        self._settle()

    def _clear(self) -> bool:
        """Kill what the ended incarnation left; True when nothing of it is there any more.

        Killed is not gone: until the kernel has taken a process apart, its port is served. What it
        had forked may come to light only then.
        """
        if self._group is not None and not processes.send_group(self._group, signal.SIGKILL):
            self._group = None
        self._left |= self.keeper.kill_orphans(self)
        self._left = {pid for pid in self._left if processes.group_of(pid) is not None}
        return self._group is None and not self._left

    def _clearing(self) -> bool:
        return self._cleaner is not None or self._clear_ends is not None

    def begin_cleanup(self) -> int:
        """Start the plan's `cleanup`; its pid. What it says goes to the role's log."""
        return fork_exec(self.plan["cleanup"], {}, self.plan["directory"], self.plan["log"])

    def _run(self, command: list[str]) -> None:
        """Run one of the plan's short commands; the keeper waits for it, as it would for a call.

        Raises RuntimeError when it fails; it has told the role's log why.
        """
        directory, log = self.plan["directory"], self.plan["log"]
        pid = fork_exec(command, {}, directory, log)
        ends = time.monotonic() + processes.CLEANUP_LIMIT
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > ends:
                processes.send_group(pid, signal.SIGKILL)
            time.sleep(0.001)
        if ended[1]:
            raise RuntimeError(f"{' '.join(command)}: {exit_text(ended[1])}")

    def reaped(self, pid: int, status: int) -> bool:
        """A child of the keeper has ended; True when it belonged to this role."""
        if pid == self._cleaner:
            self._cleaner = None
            self._settle()
            return True
        return self.supervisor.reaped(pid, status)

    def own_pids(self) -> list[int]:
        """Direct children of the keeper that this role accounts for."""
        cleaner = [] if self._cleaner is None else [self._cleaner]
        return cleaner + self.supervisor.own_pids()

    def _settle(self) -> None:
        """Once everything of the incarnation is gone: stay down, or go on to the next one."""
        if self._clearing():
            self._become("back-off" if self.wanted else "stopping")
            return
        if not self.wanted:
            self._become("stopped")
            return
        if self.crashes >= len(BACK_OFF):
            self._become("failed")
            return
        pause = BACK_OFF[self.crashes - 1] if self.crashes else 0.0
        self._deadline = time.monotonic() + pause
        self._become("back-off")

    def close_probe(self) -> None:
        """Give back what looking for readiness holds."""
        self._await(None)
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _await(self, descriptor: int | None) -> None:
        if self._awaited is not None:
            self.keeper.unwatch(self._awaited)
        self._awaited = descriptor
        if descriptor is not None:
            self.keeper.watch(descriptor, self._look)

    def _notified(self) -> None:
        if self._probe is not None:
            self._look()
        elif self._notify is not None:
            self._notify.arm()  # a role that goes on writing must not block

    def _look(self) -> None:
        if self._probe is None or self.pid is None:
            return
        self._await(None)  # the probe may close what is watched
        if not self._probe.step():
            self._await(self._probe.awaits())
            return
        if not self._answered_itself():
            self.problem = f"port {self.plan['ready']['port']} is served by a stranger"
            return
        self.problem = None
        self.close_probe()
        self._was_ready = True
        if self.state == "starting":
            self._become("ready")

    def _answered_itself(self) -> bool:
        """Whether it is this group that listens on the port, as far as can be seen from here.

        The port was free when it was leased, but somebody without a lease may have been quicker.
        """
        port = self.plan["ready"].get("port")
        if port is None or self.pid is None or not processes.LINUX or self.plan["cleanup"]:
            return True  # what a container publishes may belong to the engine's own processes
        sockets = processes.listeners(port)
        if not sockets or processes.holds(self.pid, sockets) is not False:
            return True  # no sockets: there are systems that show none
        tree = processes.descendants(os.getpid())
        return any(processes.holds(pid, sockets) is not False for pid in tree)

    def _needs_met(self) -> bool:
        for name, condition in self.plan["needs"].items():
            for other in self.keeper.roles:
                if other.name != name or not other.plan["autostart"]:
                    continue
                if not (other.state == "ready" if condition == "ready" else other.launched_once):
                    return False
        return True

    def tick(self, now: float) -> float | None:
        """Do what is due; the time of the next thing to do, None when only events matter."""
        due = [at for at in (self._await_end(now), self._advance(now)) if at is not None]
        return min(due, default=None)

    def _advance(self, now: float) -> float | None:
        if self._clear_ends is not None:
            if not self._clear() and now < self._clear_ends:
                return now + 0.005  # sooner, should the keeper reap one of them
            self._clear_ends = None
            self._settle()
        if self._cleaner is not None:
            if now < self._cleaner_ends:
                return self._cleaner_ends
            processes.send_group(self._cleaner, signal.SIGKILL)
            return now + 0.01
        if self.state == "waiting":
            if self._needs_met():
                self._begin()
            else:
                return None
        if self.state == "back-off" and self._deadline is not None:
            if now < self._deadline:
                return self._deadline
            self._begin()
        if self.state == "stopping" and self._deadline is not None:
            if now < self._deadline:
                return self._deadline
            self._signal_tree(signal.SIGKILL)
            return now + 0.01  # again, should the role only now have come to its own group
        probe = self._probe
        if self.state != "starting" or probe is None:
            return None
        if now >= self._next_probe:
            self._look()
            if self.state != "starting":
                return None
            # A millisecond at first, and never more than a fiftieth of the time waited already.
            pause = min(max(0.001, (now - self.started_at) / 50), 0.025)
            self._next_probe = math.inf if probe.tells else now + pause
        return None if probe.tells else self._next_probe

    def end_at_once(self) -> None:
        """Stop wanting anything; the keeper kills the process with all the others."""
        self.wanted = False
        self._deadline = None

    def report(self) -> dict[str, Any]:
        """The role's state for replies."""
        return {
            "role": self.name,
            "replica": self.plan["replica"],
            "state": self.state,
            "pid": self.pid,
            "exit": self.exit_status,
            "problem": self.problem,
            "restarts": self.restarts,
        }

    def document(self) -> dict[str, Any]:
        """The role's entry in group.json."""
        return {
            "replica": self.plan["replica"],
            "state": self.state,
            "pid": self.pid,
            "started": self.start_token,
            **self.plan["public"],
        }


class _Waiter:
    """A request whose reply waits for a condition."""

    def __init__(
        self,
        channel: Channel,
        number: int,
        condition: Callable[[], bool],
        failure: Callable[[], str | None],
        deadline: float | None,
        result: Callable[[], Any],
    ) -> None:
        self.channel = channel
        self.number = number
        self.condition = condition
        self.failure = failure
        self.deadline = deadline
        self.result = result


class Keeper:
    """The keeper's loop and its requests."""

    def __init__(
        self, lease: socket.socket, warden: int | None, launcher: int | None, pid: int
    ) -> None:
        self.lease = Channel(lease)
        self.plan: dict[str, Any] = {}
        self.roles: list[KeptRole] = []
        # What group.json lacks. A sweep must find every process in it, so `dirty` (pids) is written at
        # once; `stale` (states) when somebody is answered who may look, or when nobody waits.
        self.dirty = self.stale = False
        self._write_again: float | None = None  # when, since it could not be written
        self._token = processes.started(pid)
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._waiters: list[_Waiter] = []
        self._listener: socket.socket | None = None
        self._channels: set[Channel] = set()  # of those who connected to `control`
        self._ending: list[list[KeptRole]] | None = None  # roles still to be stopped, in order
        self._after_end: tuple[Channel, int] | None = None
        self._patience: float | None = None  # with roles that are stopped at the end
        self._remove = True
        self._launcher = launcher
        self._detached = False
        self._deleted = False  # group.json, by somebody else
        # Signals arrive as bytes on this pipe, so that they wake the poll without a race.
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in KEEPER_SIGNALS:
            signal.signal(number, lambda *_: None)
        self._signals = reader
        self.watch(reader, self._on_signals)
        self.watch(self.lease.fileno(), lambda: self._on_channel(self.lease))
        for other in (warden, launcher):
            if other is not None:
                self.watch(other, lambda gone=other: self._on_lost(gone))  # type: ignore[misc]

    # -- descriptors ----------------------------------------------------------------------------

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable or at its end."""
        self._callbacks[descriptor] = callback
        self._poll.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching; unknown descriptors are ignored."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._signals, 512)
            if any(number != signal.SIGCHLD for number in numbers):
                self._end(graceful=True)
        self._reap()

    def _reap(self) -> None:
        for pid, status in processes.reap_exited():
            for role in self.roles:
                if role.reaped(pid, status):
                    break

    def _on_lost(self, descriptor: int) -> None:
        """The launcher or the warden is gone: so is the group."""
        self.unwatch(descriptor)  # it stays readable, and graceful roles may take their time
        self._end(graceful=False)

    def _on_channel(self, channel: Channel) -> None:
        for message in channel.receive():
            try:
                self._request(channel, message)
            except Exception as error:  # a bad request must not cost the group its keeper
                self._log(traceback.format_exc())
                channel.send({"id": message.get("id"), "error": str(error), "kind": "keeper"})
        if channel.closed:
            self.unwatch(channel.fileno())
            self._waiters = [each for each in self._waiters if each.channel is not channel]
            if channel is self.lease:
                if not self._detached:
                    self._end(graceful=False)
            else:
                channel.close()
                self._channels.discard(channel)

    def _on_connect(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.settimeout(5.0)
        channel = Channel(connection)
        self._channels.add(channel)
        self.watch(channel.fileno(), lambda: self._on_channel(channel))

    # -- the loop -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the group has ended."""
        while True:
            timeout = self._turn()
            if self._ending is not None and not self._ending:
                self._finish()
                return
            for descriptor, _ in self._poll.poll(timeout):
                callback = self._callbacks.get(descriptor)
                if callback is not None:
                    callback()

    def _turn(self) -> float | None:
        """Do what is due; milliseconds until something is due again, None for events only."""
        now = time.monotonic()
        due: list[float] = []
        before = None
        while before != (before := self._snapshot()):
            # One role's start or end may be what another waits for: settle before sleeping.
            self._advance_end()
            due = [at for role in self.roles if (at := role.tick(now)) is not None]
        if self.dirty or (self._write_again is not None and now >= self._write_again):
            self._write_document()
        self._answer(now)
        if self.stale and not self._waiters:
            self._write_document()
        due += [waiter.deadline for waiter in self._waiters if waiter.deadline is not None]
        if self._write_again is not None:
            due.append(self._write_again)
        if not due:
            return None
        return max(0.0, (min(due) - time.monotonic()) * 1000)

    def _snapshot(self) -> list[tuple[str, bool]]:
        return [(role.state, role.launched_once) for role in self.roles]

    def _answer(self, now: float) -> None:
        waiting, answers = [], []
        for waiter in self._waiters:
            failure = waiter.failure()
            answer: dict[str, Any] | None = None
            if failure is None and waiter.condition():
                answer = {"result": waiter.result()}
            elif failure is not None or (waiter.deadline is not None and now >= waiter.deadline):
                reports = [role.report() for role in self.roles]
                answer = {"error": failure or "timeout", "kind": "state", "roles": reports}
            if answer is None:
                waiting.append(waiter)
            else:
                answers.append((waiter.channel, {"id": waiter.number, **answer}))
        self._waiters = waiting
        if answers and (self.dirty or self.stale):
            self._write_document()
        for channel, message in answers:
            channel.send(message)

    def _write_document(self, *, last: bool = False) -> None:
        self.dirty = self.stale = False
        if not self.plan or self._deleted:
            return
        document = self.plan["document"]
        document["keeper"] = None if last else {"pid": os.getpid(), "started": self._token}
        for role in document["roles"].values():
            role["replicas"] = []
        for kept in self.roles:
            document["roles"][kept.name]["replicas"].append(kept.document())
        for role in document["roles"].values():
            role.update(role["replicas"][0] if role["replicas"] else {})
        path = self.plan["document"]["file"]
        try:
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                if any("container" in role for role in document["roles"].values()):
                    os.fchmod(file.fileno(), 0o644)  # whatever user it runs as
                file.write(json.dumps(document, indent=1))
            os.replace(f"{path}.new", path)
        except OSError as error:  # a full disk must not take the group down
            if self._write_again is None:
                self._log(f"cannot write {path}: {error}\n")
            self._write_again = time.monotonic() + WRITE_AGAIN
        else:
            self._write_again = None

    def _log(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the log may lie on a disk that is full
            print(text, end="", file=sys.stderr, flush=True)

    # -- requests -------------------------------------------------------------------------------

    def _request(self, channel: Channel, message: dict[str, Any]) -> None:
        call, number = message["call"], message["id"]
        if call == "begin":
            self._begin(channel, number, message)
        elif call == "status":
            channel.send({"id": number, "result": [role.report() for role in self.roles]})
        elif call == "teardown":
            self._remove = not message.get("keep", False)
            self._patience = message.get("patience")
            self._after_end = channel, number
            self._end(graceful=message.get("graceful", False))
        else:
            role = self._find(message["role"], message["replica"])
            if call == "signal":
                sent = role.pid is not None and processes.send(role.pid, message["number"])
                channel.send({"id": number, "result": sent})
            else:
                self._control(channel, number, role, call, message)

    def _find(self, name: str, replica: int) -> KeptRole:
        for role in self.roles:
            if role.name == name and role.plan["replica"] == replica:
                return role
        raise LookupError(f"the group has no role {name}.{replica}")

    def _control(
        self,
        channel: Channel,
        number: int,
        role: KeptRole,
        call: str,
        message: dict[str, Any],
    ) -> None:
        def no_failure() -> str | None:
            return None

        def crashed() -> str | None:
            if role.state == "failed":
                return "crash loop"
            return "stopped" if role.state == "stopped" and not role.wanted else None

        def started() -> str | None:
            return "started again" if role.wanted else None

        failure = no_failure
        condition: Callable[[], bool] = lambda: True  # noqa: E731
        if call == "stop":
            role.stop(message.get("patience"))
            failure, condition = started, lambda: role.state == "stopped"
        elif call in ("start", "restart"):
            if call == "restart":
                role.stop(message.get("patience"))
            role.start()
            failure, condition = crashed, lambda: role.state == "ready"
        elif call == "kill":
            dying = role.pid
            role.kill()
            condition = lambda: dying is None or role.pid != dying  # noqa: E731
        elif call == "pause":
            role.pause()
        elif call == "resume":
            role.resume()
        elif call == "wait_ready":
            failure, condition = crashed, lambda: role.state == "ready"
        else:
            raise LookupError(f"unknown request {call!r}")
        timeout = message.get("timeout")
        deadline = None if timeout is None else time.monotonic() + timeout
        self._waiters.append(_Waiter(channel, number, condition, failure, deadline, role.report))

    def _begin(self, channel: Channel, number: int, message: dict[str, Any]) -> None:
        self.plan = message["plan"]
        for name, value in self.plan["environment"].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        os.chdir(self.plan["document"]["directory"])
        self._listen()
        self.roles = [KeptRole(self, entry["name"], entry["plan"]) for entry in self.plan["roles"]]
        self.dirty = True
        wanted = [role for role in self.roles if role.plan["autostart"]]

        def failure() -> str | None:
            return "crash loop" if any(role.state == "failed" for role in wanted) else None

        self._waiters.append(
            _Waiter(
                channel,
                number,
                lambda: all(role.state == "ready" for role in wanted),
                failure,
                time.monotonic() + self.plan["timeout"],
                self._all_ready,
            )
        )

    def _all_ready(self) -> None:
        """From here on a detached group lives without its launcher."""
        if not self.plan["detach"]:
            return
        self._detached = True
        self.unwatch(self._launcher if self._launcher is not None else -1)
        deleted = processes.watch_directory(".", processes.DELETED)
        if deleted is not None:
            self.watch(deleted, lambda: self._on_deleted(deleted))
        if mark := self.plan.get("mark"):
            with contextlib.suppress(OSError):
                os.rename(f"{mark}.new", mark)

    def _on_deleted(self, descriptor: int) -> None:
        """Who removes the directory of a group that nobody owns has taken away all that leads to it."""
        os.read(descriptor, 4096)
        if not os.path.exists(self.plan["document"]["file"]):
            self._deleted = True
            self._end(graceful=False)

    def _listen(self) -> None:
        """Open `control` in the working directory: a relative path is never too long."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o177)
        try:
            listener.bind("control")
        finally:
            os.umask(old)
        listener.listen(16)
        self._listener = listener
        self.watch(listener.fileno(), self._on_connect)

    def abandon(self) -> None:
        """In a fork that becomes a role: close all that would close itself later, when its
        number may have come to mean something else."""
        self.lease.close()
        for channel in self._channels:
            channel.close()
        if self._listener is not None:
            self._listener.close()
        for role in self.roles:
            role.close_probe()

    # -- the end --------------------------------------------------------------------------------

    def kill_orphans(self, role: KeptRole) -> set[int]:
        """Kill what an ended incarnation left outside its process group (Linux); whom it has killed."""
        killed: set[int] = set()
        if not processes.LINUX:
            return killed
        accounted = {pid for each in self.roles for pid in each.own_pids()}
        for pid in processes.children(os.getpid()):
            if pid in accounted:
                continue
            environment = processes.environment_of(pid)
            if (
                environment.get(b"PROCGROUP_ROLE") == role.name.encode()
                and environment.get(b"PROCGROUP_REPLICA") == str(role.plan["replica"]).encode()
            ):
                killed.update(processes.descendants(pid), [pid])
        for pid in killed:
            processes.send(pid, signal.SIGKILL)
        return killed

    def _end(self, *, graceful: bool) -> None:
        """Begin to take the group down; a second call that is not graceful hurries the first."""
        if self._ending is not None:
            if not graceful:
                self._ending = []
            return
        self._ending = []
        for level in reversed(self._levels()):
            chosen = [role for role in level if graceful or role.plan["graceful"]]
            if chosen:
                self._ending.append(chosen)
        for role in self.roles:
            if role.state in ("waiting", "back-off", "failed"):
                role.stop()

    def _levels(self) -> list[list[KeptRole]]:
        """Roles by depth of their needs; the first level needs nothing."""
        needs = {role.name: set(role.plan["needs"]) for role in self.roles}
        depth: dict[str, int] = {}
        while len(depth) < len(needs):
            for name, needed in needs.items():
                if name not in depth and all(each in depth or each not in needs for each in needed):
                    depth[name] = 1 + max((depth.get(each, -1) for each in needed), default=-1)
        levels: list[list[KeptRole]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for role in self.roles:
            levels[depth[role.name]].append(role)
        return levels

    def _advance_end(self) -> None:
        """Stop the dependents first, then what they need."""
        while self._ending:
            for role in self._ending[0]:
                if role.wanted:
                    role.stop(self._patience)
            if any(role.state != "stopped" for role in self._ending[0]):
                return
            self._ending.pop(0)

    def _finish(self) -> None:
        """Kill what is left, remove the directory, say so."""
        for role in self.roles:
            role.end_at_once()
        if self._listener is not None:
            self._listener.close()
        self._clean_up()
        if processes.LINUX:
            processes.kill_descendants()
        else:
            self._kill_portably()
        document = self.plan.get("document")
        if document is not None:
            os.chdir("/")
            with contextlib.suppress(OSError):
                os.unlink(document["control"])
            if self._remove:
                try:
                    processes.remove_tree(document["directory"])
                except OSError as error:
                    self._remove = False  # it stays, and stays known
                    self._log(f"cannot remove {document['directory']}: {error}\n")
            else:
                for role in self.roles:
                    role.state, role.pid, role.start_token = "stopped", None, None
                self._write_document(last=True)
            if self.plan["detach"]:
                self._release(document["state_dir"], document["id"])
        if self._after_end is not None:
            channel, number = self._after_end
            channel.send({"id": number, "result": {"kept": not self._remove}})

    def _clean_up(self) -> None:
        """Run every role's `cleanup`, all at once, and wait for them within their limit.

        What the role itself runs ends first, or it might create anew what is cleaned up.
        """
        for role in self.roles:
            if role.plan["cleanup"] and role.pid is not None:
                role.kill_tree()
        cleaners = {role.begin_cleanup() for role in self.roles if role.plan["cleanup"]}
        ends = time.monotonic() + processes.CLEANUP_LIMIT
        while cleaners:
            cleaners -= {pid for pid, _ in processes.reap_exited()}
            if time.monotonic() > ends:
                for pid in cleaners:
                    processes.send_group(pid, signal.SIGKILL)
            time.sleep(0.002)

    def _release(self, state_dir: str, group_id: str) -> None:
        """A detached group is its keeper's to deregister, where there still is a registry."""
        from procgroup.registry import Registry

        registry = Registry.existing(state_dir)
        if registry is None:
            return
        if self._remove:
            registry.release(group_id)
        else:
            registry.keep(group_id)
        registry.close()

    def _kill_portably(self) -> None:
        """Without a subreaper: the whole tree as it hangs together now, and each role's group."""
        doomed: Iterable[int] = processes.freeze(lambda: processes.descendants(os.getpid()))
        for role in self.roles:
            if role.pid is not None:
                processes.send_group(role.pid, signal.SIGKILL)
        while doomed:
            for pid in doomed:
                processes.send(pid, signal.SIGKILL)
            processes.reap_exited()
            time.sleep(0.002)
            doomed = processes.descendants(os.getpid())
        processes.reap_exited()


def run_keeper(lease: socket.socket, warden: int | None, launcher: int | None) -> None:
    """Be a keeper until the group has ended. Called in a process just forked by the warden."""
    os.setsid()
    processes.become_subreaper()
    keeper = Keeper(lease, warden, launcher, os.getpid())
    keeper.lease.send({"hello": os.getpid()})
    try:
        keeper.run()
    except BecomeRole:
        keeper.abandon()
        raise
    except OSError as error:  # such as too few descriptors
        keeper.lease.send({"lost": str(error)})
        raise
