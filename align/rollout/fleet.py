"""Work dealt to actors that may die, hang or fail.

Calls are dealt a few to an actor that is up. A lost or silent actor is replaced and its calls dealt anew: since
randomness is addressed, the answers are those it would have given. Code that raises would raise again, so its
error is surfaced at once. The work under way is bounded, whatever waits.
"""

from __future__ import annotations

import sys
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
    place: int
    actor: Any
    calls: deque[_Call] = field(default_factory=deque)  # in the order they run, those that prepare first
    since: float = 0.0  # when the first of them came first, monotonic seconds
    where: str | None = None  # process and node, once it is up

    @property
    def ready(self) -> bool:
        """It is up and prepared."""
        return not self.calls or self.calls[0].number != PREPARE

    def __str__(self) -> str:
        return f"actor {self.place} ({self.where or 'not up yet'})"


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
        """Start the actors; whoever is up first gets the first work.

        Args:
            make: makes the object an actor holds, in the actor's process.
            size: actors.
            placement: what each asks of the cluster.
            timeout: seconds a call may take once it is its actor's first.
            start_timeout: seconds an actor may take to come up and make its object.
            retries: how often a call is dealt anew after its actor was lost or silent.
            in_flight: calls an actor holds at once.
        """
        self.make, self.size, self.placement = make, size, placement
        self.timeout, self.start_timeout = timeout, start_timeout
        self.retries, self.in_flight = retries, in_flight
        self.preparation: tuple[str, str, tuple[Any, ...]] | None = None
        self.replaced = 0
        self.lost: Counter[int] = Counter()
        self.members: list[_Member] = []
        self._fill()

    share = staticmethod(actors.share)

    def prepare(self, method: str, *args: Any, what: str | None = None) -> None:
        """Call a method on every actor, and on every later one before its work, in place of what was prepared.

        Returns when one actor at least and all that are up have done it.
        """
        what = what or method
        for member in self.members:
            self._submit(member, PREPARE, what, method, *args)
        before, self.preparation = self.preparation, (what, method, args)
        with ExitStack() as undo:
            undo.callback(self._restart, lambda member: True)
            undo.callback(setattr, self, "preparation", before)
            self._fill()
            while not self._prepared():
                self._wait()
                for member in list(self.members):
                    self._gather(member, None)
            undo.pop_all()

    def run(
        self,
        method: str,
        work: Sequence[tuple[Any, ...]],
        on_done: Callable[[int, Any], None],
        what: Callable[[int], str] | None = None,
    ) -> None:
        """Call a method once for each piece of work.

        Args:
            method: of the objects.
            work: arguments of each call.
            on_done: takes number and value of each call as it is done, in no order; nothing else keeps them.
            what: names a call in messages.

        Raises:
            AlignError: what the first call that raised an AlignError raised.
            RolloutError: a call raised something else, or lost its actor or timed out too often; with the cause.
        """
        self._fill()
        waiting = deque(range(len(work)))
        left = len(work)
        with ExitStack() as undo:
            undo.callback(self.abandon)
            while left:
                for member in self.members:
                    while waiting and member.ready and len(member.calls) < self.in_flight:
                        number = waiting.popleft()
                        name = f"{method}({what(number) if what else number})"
                        self._submit(member, number, name, method, *work[number])
                self._wait()
                for member in list(self.members):
                    done, again = self._gather(member, on_done)
                    left -= done
                    waiting.extendleft(reversed(again))
            undo.pop_all()

    def abandon(self) -> None:
        """Leave all work under way: kill and restart the actors that have any."""
        self._restart(lambda member: bool(member.calls))

    def close(self) -> None:
        """End the actors."""
        for member in self.members:
            actors.kill(member.actor)
        self.members = []

    def _prepared(self) -> bool:
        """One actor at least is up, and all that are up have done what prepares them."""
        up = [member for member in self.members if member.where]
        return bool(up) and all(member.ready for member in up)

    def _gather(self, member: _Member, on_done: Callable[[int, Any], None] | None) -> tuple[int, list[int]]:
        """Take what an actor has done: how many pieces of work; where it was lost or is silent, which to deal anew."""
        done = 0
        while member.calls and actors.wait([member.calls[0].future], 0):
            call = member.calls[0]
            try:
                value = actors.result(call.future)
            except actors.CallFailedError as error:
                self._fail(member, call, error.__cause__)
            except actors.ActorLostError as error:
                return done, self._replace(member, f"was lost: {error}")
            member.calls.popleft()
            member.since = time.monotonic()
            if call.number != PREPARE:
                done += 1
                assert on_done
                on_done(call.number, value)
            elif not member.where:
                member.where = value
        if member.calls and time.monotonic() > member.since + member.calls[0].limit:
            why = f"did not answer within {member.calls[0].limit:g} s"
            if not member.where:
                why += f" (it asks for {self.placement}; {actors.room()})"
            return done, self._replace(member, why)
        return done, []

    def _wait(self) -> None:
        """Until an actor's first call is done or the next is due."""
        busy = [member for member in self.members if member.calls]
        due = min(member.since + member.calls[0].limit for member in busy)
        actors.wait([member.calls[0].future for member in busy], due - time.monotonic() + 0.01)

    def _fail(self, member: _Member, call: _Call, cause: BaseException | None) -> None:
        if isinstance(cause, AlignError):
            raise cause
        name = type(cause).__name__
        raise RolloutError(f"{member}: {call.what}: {name}: {' '.join(str(cause).split())}") from cause

    def _replace(self, member: _Member, why: str) -> list[int]:
        """Put a new actor in a lost one's place; its first call, the suspect, is dealt anew only so often."""
        suspect = member.calls[0]
        actors.kill(member.actor)
        self.members.remove(member)
        again = [call.number for call in member.calls if call.number != PREPARE]
        # a call that never ran because its actor did not come up counts against the place, not the call
        key = suspect.number if suspect.number != PREPARE else -2 - member.place
        self.lost[key] += 1
        if self.lost[key] <= self.retries:
            self.replaced += 1
            self.members.append(self._start(member.place))
            _say(f"{member} {why}, at {suspect.what}; another takes its place")
        elif suspect.number == PREPARE and any(other.where for other in self.members):
            # the node that it was on may be gone: the work goes on with fewer actors
            _say(f"{member} {why}, at {suspect.what}, {self.lost[key]} times; {len(self.members)} actors go on")
        else:
            raise RolloutError(f"{member} {why}, at {suspect.what}; {self.lost[key]} actors were lost so")
        return again

    def _restart(self, which: Callable[[_Member], bool]) -> None:
        for member in list(self.members):
            if which(member):
                actors.kill(member.actor)
                self.members.remove(member)
        self._fill()

    def _fill(self) -> None:
        """Start an actor for each place that has none; losses are counted anew."""
        self.lost.clear()
        for place in sorted(set(range(self.size)) - {member.place for member in self.members}):
            self.members.append(self._start(place))

    def _start(self, place: int) -> _Member:
        actor, coming = actors.start(self.make, self.placement)
        call = _Call(coming, PREPARE, "starting", self.start_timeout)
        member = _Member(place, actor, deque([call]), time.monotonic())
        if self.preparation:
            what, method, args = self.preparation
            self._submit(member, PREPARE, what, method, *args)
        return member

    def _submit(self, member: _Member, number: int, what: str, method: str, *args: Any) -> None:
        if not member.calls:
            member.since = time.monotonic()
        member.calls.append(_Call(actors.submit(member.actor, method, *args), number, what, self.timeout))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
