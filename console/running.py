"""Watching an enclave that this command started: its log lines become sentences, its end the exit code.

Trust zone: operator. The log is the enclave's own word to its operator; nothing is decided by it.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from softtee.enclave import Enclave
from trusted.errors import Reason

_POLL_S = 0.2
Entry = Mapping[str, Any]
Say = Callable[[str], None]

NO_HARDWARE_PROTECTION = "NO HARDWARE PROTECTION"
_PROTECTION = {
    "none": NO_HARDWARE_PROTECTION,
    "provider": "on a provider's word alone",
    "hardware": "hardware attested",
    "possession": "hardware attested, a machine that members vouch for",
}
_WAITS = {
    Reason.NO_AGGREGATOR.code: "The host has no aggregator for this plan yet",
    Reason.UNREACHABLE.code: "The coordinator cannot be reached",
    Reason.STORE_AWAY.code: "The coordinator cannot reach its database or blob store",
    Reason.HOST_SHORT.code: "The coordinator is short of disk, descriptors or memory",
}


class _Stopped(Exception):
    """The operator asked this command to end."""


def run_to_end(enclave: Enclave, log: Path, say: Say) -> int:
    """Follow ``enclave`` until it ends; Ctrl-C and SIGTERM end it, and it alone.

    Its exit status, 1 where somebody else's signal ended it: a shell would take the number of a signal for our codes.
    """
    previous = signal.signal(signal.SIGTERM, _stop)
    say = _unrepeated(say)
    seen = 0
    try:
        while True:
            seen = _tell(log, seen, say)
            try:
                status = enclave.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue
            _tell(log, seen, say)
            if status < 0:
                say(f"The enclave was ended by signal {-status}, from outside: by a person, or for want of memory.")
            return status if status >= 0 else 1
    except (KeyboardInterrupt, _Stopped):
        enclave.terminate()
        say("Stopped.")
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _unrepeated(say: Say) -> Say:
    """``say`` without saying the same thing twice in a row: what is tried again and again is told once."""
    last = ""

    def say_new(sentence: str) -> None:
        nonlocal last
        if sentence != last:
            say(sentence)
        last = sentence

    return say_new


def _stop(number: int, frame: object) -> None:
    raise _Stopped


def _tell(log: Path, seen: int, say: Say) -> int:
    """Say what the log holds behind ``seen`` bytes; whole lines only."""
    with log.open("rb") as file:
        file.seek(seen)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    for entry in entries(whole):
        sentence = sentence_of(entry)
        if sentence:
            say(sentence)
    return seen + len(whole)


def entries(data: bytes) -> Iterator[Entry]:
    """The JSON lines in ``data``; anything else an enclave may have printed is left to the log file."""
    for line in data.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("event"), str):
            yield entry


def sentence_of(entry: Entry) -> str:
    """What an entry means to a person; nothing for those that only help in finding faults."""
    reason = entry.get("reason")
    match entry["event"]:
        case "aggregator-started":
            return f"Aggregator of plan {str(entry.get('plan'))[:16]}… runs, and waits at the door."
        case "data-admitted":
            rows = f": {entry['rows']} rows" if "rows" in entry else ""
            where = "in memory only" if entry.get("in_memory") else "on the worker's disk"
            stands = f"The ledger will hold {str(entry.get('commitment'))[:16]}…"
            return f"Data meets the plan's contract{rows}; in clear it lies {where}. {stands} for it."
        case "release-verified":
            return f"The release holds: the model after {entry.get('rounds')} rounds, {str(entry.get('model'))[:16]}…"
        case "model-opened":
            return f"The broker granted the key, until {entry.get('until')}; the model is open in memory alone."
        case "serving":
            return f"Serves on port {entry.get('port')}."
        case "grant-not-renewed":
            return f"The broker did not confirm the grant ({reason}); trying again while its time lasts."
        case "model-wiped":
            return f"The model is wiped{_because(reason)}, after {entry.get('requests')} requests."
        case "trainer-started" | "scorer-started":
            return "The app runs in a process of its own, without network."
        case "nothing-remembered":
            return f"Remembers nothing across restarts{_because(reason)}: {entry.get('detail')}."
        case "admitted":
            protection = protection_in_words(str(entry.get("assurance")))
            return f"Admitted. The aggregator proved measurement {str(entry.get('measurement'))[:16]}… ({protection})."
        case "receipt":
            return f"Round {entry.get('round')}: this site's update {entry.get('outcome')}" + _because(reason) + "."
        case "work-failed":
            return f"This round failed here: {reason} {entry.get('detail')}."
        case "session-lost" if reason == Reason.PEER_REFUSED.code:
            return f"Refused by the aggregator, which need not be true: {entry.get('detail')}; trying again."
        case "session-lost":
            why = _WAITS.get(str(reason), f"Connection lost{_because(reason)}")
            return f"{why}; trying again."
        case "worker-refused" | "recipient-refused":
            return f"Refused: {reason} {entry.get('name')}: {entry.get('detail')} (docs/runbook.md#{_anchor(reason)})"
        case "worker-failed" | "recipient-failed":
            return f"Failed: {entry.get('detail')}"
        case "site-paused":
            return "Takes no further task, as `cloister worker pause` said; what is under way is finished."
        case "site-resumed":
            return "Takes tasks again."
        case "site-withdrawn":
            return f"This site is withdrawn from the plan{_because(reason)}; take it back: cloister worker resume."
        case "worker-left":
            return "Asked to end: the aggregator knows, and nothing trains here any more."
        case "clock-jumped":
            return f"The clock was set by {entry.get('seconds')} seconds; everybody proves itself anew."
        case "run-over":
            return f"The run is over: {entry.get('outcome')} after {entry.get('rounds')} rounds."
        case "door-unreachable" | "door-broken":
            return f"No way through the host's door ({entry.get('detail')}); trying again."
    return ""


def protection_in_words(assurance: str) -> str:
    """What an assurance level means; nothing is made of a word that nobody knows."""
    return _PROTECTION.get(assurance, "of an unknown assurance")


def _because(reason: object) -> str:
    return f" ({reason})" if reason else ""


def _anchor(reason: object) -> str:
    return str(reason).lower()
