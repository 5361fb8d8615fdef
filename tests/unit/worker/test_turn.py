"""A recorded history of messages, replayed: the owner decides the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import msgspec

from midge.errors import Abort, MidgeError, chain
from midge.machine.spec import ExitStatus
from midge.operations.model import Outcome, Run
from midge.worker.edits import AcquireLease, Edit, SetCordon, SetMetadata
from midge.worker.inbox import Accepted, Ask, Call, Ended, Exit
from midge.worker.operations.context import Context
from midge.worker.operations.journal import decode_outputs
from midge.worker.parts import Parts
from midge.worker.record import Machine
from midge.worker.requests import Asked, NewVersion
from midge.worker.trace import PhaseTrace
from midge.worker.turn import Begin, Decision, Finish, Message, Situation, Write, decide_turn
from tests.unit.worker.records import IMAGE, machine

VECTORS = Path(__file__).parents[2] / "vectors" / "turns"
BEGUN_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
NEW_CONFIG = msgspec.json.encode({"image": "debian:13", "guest": {"cpus": 1, "memory_mb": 512}})
EDITS: dict[str, Edit] = {
    "cordon": SetCordon(True),
    "metadata": SetMetadata({"a": "1"}),
    "metadata of another version": SetMetadata({"a": "2"}, "01V0"),
    "lease": AcquireLease(3600, "alice"),
}


class Replay:
    """The owner's state, without its tasks, its disk and its clock: a second passes with each message."""

    def __init__(self) -> None:
        self.machine = machine(state="stopped", restart={"policy": "on-failure", "max_retries": 3})
        self.running: Run | None = None
        self.begun_with: Machine = self.machine  # what the running operation was given
        self.over: dict[str, Run] = {}
        self.now_ns = BEGUN_NS

    def message(self, told: dict[str, Any]) -> Message:
        if "ask" in told:
            given: Asked | NewVersion = Asked()
            if told["ask"] == "update":
                given = NewVersion(
                    version="01V2", config_json=NEW_CONFIG, image_ref=IMAGE, metadata={}, memory_mb=512
                )
            future = cast("asyncio.Future[Accepted]", None)
            return Ask(told["ask"], given, "", future, internal=told.get("internal", False))
        if "edit" in told:
            return Call(EDITS[told["edit"]], cast("asyncio.Future[Machine]", None))
        if "exit" in told:
            return Exit(told["exit"], ExitStatus(exit_code=told["code"], exited_at_ns=self.now_ns))
        run = self.over[told["late"]] if "late" in told else self.running
        assert run is not None
        run.outputs |= decode_outputs(json.dumps(told.get("ended", {})))
        context: Context[Any] = Context(cast(Parts, None), self.begun_with, run, PhaseTrace())
        return Ended(context, Outcome(Abort(told["error"]) if "error" in told else None))

    def hear(self, told: dict[str, Any]) -> str:
        self.now_ns += SECOND_NS
        now = Situation(self.machine, self.running, self.now_ns, told.get("free_mb"))
        try:
            decision = decide_turn(now, self.message(told))
        except MidgeError as error:
            return f"refuse: {chain(error)}"
        text = self.described(decision)
        match decision:
            case Begin(run, change):
                if self.running is not None:
                    self.over[self.running.kind] = self.running
                self.running, self.machine, self.begun_with = run, change.machine, change.machine
            case Finish(change):
                self.running, self.machine = None, change.machine
            case Write(changed, _):
                self.machine = changed
        return text

    def described(self, decision: Decision) -> str:
        name = type(decision).__name__.lower()
        change = decision.change if isinstance(decision, Begin | Finish | Write) else None
        if change is None:
            return name
        lines = [f"{name}: {change.machine.state}, version {change.machine.version}"]
        if isinstance(decision, Begin) and decision.cancel:
            lines.append("cancel what is under way")
        for run in change.runs:
            given = msgspec.json.decode(msgspec.json.encode(run.input))
            given.pop("old", None)
            lines.append(f"run {run.kind} {run.state} {run.step} {json.dumps(given)}".replace("  ", " "))
        lines += [f"event {event.type} {event.status} by {event.source}" for event in change.events]
        if change.forget_version:
            lines.append(f"forget version {change.forget_version}")
        if isinstance(decision, Finish) and decision.follow is not None:
            lines.append(f"follow {decision.follow[0]}")
        return "\n    ".join(lines)


def test_a_recorded_history_leads_to_the_same_decisions() -> None:
    replay = Replay()
    printed = ""
    for told in json.loads((VECTORS / "history.json").read_text()):
        state = replay.machine.state
        printed += f"{state} < {json.dumps(told)}\n    {replay.hear(told)}\n"
    assert printed == (VECTORS / "decisions.txt").read_text()
