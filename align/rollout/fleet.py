"""Work dealt to actors that may die, hang or fail, and gathered in order.

Calls are dealt a few to an actor. A lost or silent actor is replaced and its calls dealt anew: since randomness
is addressed, the answers are those it would have given. Code that raises would raise again, so its error is
surfaced at once. The work under way is bounded, whatever waits.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from align.errors import AlignError, RolloutError
from align.rollout import actors

PREPARE = -1  # the number of a call that is no part of the work: making the object, loading weights


@dataclass(slots=True)
class _Call:
    future: actors.Future
    number: int
    what: str  # named in messages
    limit: float  # seconds, from when it is its actor's first


@dataclass(slots=True, eq=False)
class _Member:
    actor: Any
    calls: deque[_Call] = field(default_factory=deque)  # in the order they run
    since: float = 0.0  # when the first of them came first, monotonic seconds


class Fleet:
    """Actors around equal objects, held open."""

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        size: int,
        placement: actors.Placement,
        timeout: float,
        start_timeout: float,
        retries: int,
        in_flight: int,
    ) -> None:
        """Start the actors; they come up while the first work is dealt.

        Args:
            make: makes the object an actor holds, in the actor's process.
            size: actors.
            placement: what each asks of the cluster.
            timeout: seconds a call may take once it is its actor's first.
            start_timeout: seconds an actor may take to come up and make its object.
            retries: how often a call is dealt anew after its actor was lost or silent.
            in_flight: calls an actor holds at once.
        """
        self.make, self.placement = make, placement
        self.timeout, self.start_timeout = timeout, start_timeout
        self.retries, self.in_flight = retries, in_flight
        self.preparation: tuple[str, tuple[Any, ...]] | None = None
        self.replaced = 0
        self.lost: Counter[int] = Counter()
        self.members = [self._start() for _ in range(size)]

    def prepare(self, method: str, *args: Any) -> None:
        """Call a method on every actor, and on every later one before its work, in place of what was prepared."""
        for member in self.members:
            self._submit(member, PREPARE, method, method, *args)
        before, self.preparation = self.preparation, (method, args)
        with ExitStack() as undo:
            undo.callback(self._restart, self.members)
            undo.callback(setattr, self, "preparation", before)
            self._deal(method, [])
            undo.pop_all()

    def run(
        self,
        method: str,
        work: Sequence[tuple[Any, ...]],
        on_done: Callable[[int, Any], None] | None = None,
        what: Callable[[int], str] | None = None,
    ) -> list[Any]:
        """Call a method once for each piece of work.

        Args:
            method: of the objects.
            work: arguments of each call.
            on_done: sees number and value of each call as it is done.
            what: names a call in messages.

        Returns:
            The calls' values in the order of the work.

        Raises:
            AlignError: what the first call that raised an AlignError raised.
            RolloutError: a call raised something else, or lost its actor or timed out too often; with the cause.
        """
        with ExitStack() as undo:
            undo.callback(self.abandon)
            values = self._deal(method, work, on_done, what)
            undo.pop_all()
        return values

    def abandon(self) -> None:
        """Leave all calls under way: kill and restart the actors that have any."""
        self._restart([member for member in self.members if member.calls])

    def close(self) -> None:
        """End the actors."""
        for member in self.members:
            actors.kill(member.actor)
        self.members = []

    def _deal(
        self,
        method: str,
        work: Sequence[tuple[Any, ...]],
        on_done: Callable[[int, Any], None] | None = None,
        what: Callable[[int], str] | None = None,
    ) -> list[Any]:
        waiting = deque(range(len(work)))
        values: dict[int, Any] = {}
        self.lost.clear()
        while waiting or any(member.calls for member in self.members):
            for member in self.members:
                while waiting and len(member.calls) < self.in_flight:
                    number = waiting.popleft()
                    name = f"{method}({what(number) if what else number})"
                    self._submit(member, number, name, method, *work[number])
            for place, member in enumerate(self.members):
                again = self._gather(place, member, values, on_done)
                waiting.extendleft(reversed(again))
            self._wait()
        return [values[number] for number in range(len(work))]

    def _gather(
        self, place: int, member: _Member, values: dict[int, Any], on_done: Callable[[int, Any], None] | None
    ) -> list[int]:
        """Take what an actor has done; where it was lost or is silent, the numbers of calls to deal anew."""
        while member.calls and actors.wait([member.calls[0].future], 0):
            call = member.calls[0]
            try:
                value = actors.result(call.future)
            except actors.CallFailedError as error:
                self._fail(place, call, error.__cause__)
            except actors.ActorLostError as error:
                return self._replace(place, f"was lost: {error}")
            member.calls.popleft()
            member.since = time.monotonic()
            if call.number != PREPARE:
                values[call.number] = value
                if on_done:
                    on_done(call.number, value)
        if member.calls and time.monotonic() > member.since + member.calls[0].limit:
            return self._replace(place, f"did not answer within {member.calls[0].limit:g} s")
        return []

    def _wait(self) -> None:
        """Until an actor's first call is done or the next is due."""
        busy = [member for member in self.members if member.calls]
        if busy:
            due = min(member.since + member.calls[0].limit for member in busy)
            actors.wait([member.calls[0].future for member in busy], due - time.monotonic() + 0.01)

    def _fail(self, place: int, call: _Call, cause: BaseException | None) -> None:
        if isinstance(cause, AlignError):
            raise cause
        name = type(cause).__name__
        raise RolloutError(f"actor {place}: {call.what}: {name}: {' '.join(str(cause).split())}") from cause

    def _replace(self, place: int, why: str) -> list[int]:
        """Put a new actor in a lost one's place; its first call, the suspect, is dealt anew only so often."""
        member = self.members[place]
        suspect = member.calls[0]
        actors.kill(member.actor)
        # a call that never ran because its actor did not come up counts against the place, not the call
        key = suspect.number if suspect.number != PREPARE else -2 - place
        self.lost[key] += 1
        if self.lost[key] > self.retries:
            raise RolloutError(f"actor {place} {why}, at {suspect.what}; {self.lost[key]} actors were lost so")
        self.replaced += 1
        self.members[place] = self._start()
        return [call.number for call in member.calls if call.number != PREPARE]

    def _restart(self, members: Sequence[_Member]) -> None:
        for place, member in enumerate(self.members):
            if member in members:
                actors.kill(member.actor)
                self.members[place] = self._start()

    def _start(self) -> _Member:
        actor, coming = actors.start(self.make, self.placement)
        member = _Member(actor, deque([_Call(coming, PREPARE, "starting", self.start_timeout)]), time.monotonic())
        if self.preparation:
            method, args = self.preparation
            self._submit(member, PREPARE, method, method, *args)
        return member

    def _submit(self, member: _Member, number: int, what: str, method: str, *args: Any) -> None:
        if not member.calls:
            member.since = time.monotonic()
        member.calls.append(_Call(actors.submit(member.actor, method, *args), number, what, self.timeout))
