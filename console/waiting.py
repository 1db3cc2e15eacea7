"""What a run waits for, in sentences: for whom, at what, since when, and who is waited for no longer and why.

Trust zone: a member's machine. By the host's word, which proves nothing: good for finding out whom to call.
"""

from __future__ import annotations

from datetime import UTC, datetime

from coordinator.host.run_status import MemberStatus, RunState, RunStatus
from trusted.errors import Reason

_QUIET_S = 15  # what is slower than this between two signs of work is worth a word
_WORDS = {
    Reason.LEASE_EXPIRED: "its connection is gone",
    Reason.MEMBER_SILENT: "its work stands still",
    Reason.SITE_PAUSED: "its operator paused it",
    Reason.SITE_WITHDRAWS: "its operator withdrew it",
    Reason.SITE_LEAVES: "its worker was asked to end",
}
_BY_CODE = {reason.code: words for reason, words in _WORDS.items()}


def waits(status: RunStatus, now: datetime) -> list[str]:
    """Sentences about ``status`` at the time ``now``; none where all goes well and nothing is waited for."""
    if status.state.is_over:
        return []
    told = [_refused(status)] if status.refused else []
    if status.state is RunState.PAUSED:
        told.append("paused: no further round opens; cloister run resume lets it go on")
    if status.waits_on == "round":
        told += [_at_work(name, status.members.get(name), now) for name in status.waiting_for]
    elif status.waits_on == "members":
        told.append(f"the run waits for members to come: {', '.join(status.waiting_for)}")
    elif status.waits_on == "witnesses":
        told.append(f"the run waits for witnesses to sign its log: {', '.join(status.waiting_for)}")
    elif status.waits_on == "evaluation":
        told.append(f"the final model is judged; waiting for: {', '.join(status.waiting_for)}")
    return told + [_away(member, now) for _, member in sorted(status.members.items()) if member.away_since]


def standing(member: MemberStatus) -> str:
    """What a member does, for a column: its work, or its last event."""
    at_work = member.last_event in ("progress", "awaited", "silent")
    return member.work if at_work and member.work else member.last_event


def _at_work(name: str, member: MemberStatus | None, now: datetime) -> str:
    doing = f": {_at(member.work)}" if member is not None and member.work else ""
    silent_s = _since(None if member is None else member.moved, now)
    silence = f"silent {silent_s} s, " if silent_s is not None and silent_s >= _QUIET_S else ""
    return f"{silence}round waits on {name}{doing}"


def _at(work: str) -> str:
    """``upload 62 %`` as ``upload at 62 %``; training knows no percent."""
    stage, _, percent = work.partition(" ")
    return stage if stage == "train" and percent.startswith("0 ") else f"{stage} at {percent}" if percent else stage


def _away(member: MemberStatus, now: datetime) -> str:
    reason = member.away_reason or ""
    known = _BY_CODE.get(reason)
    because = f": {known} ({reason})" if known else f" ({reason})" if reason else ""
    since_s = _since(member.away_since, now)
    return f"not waited for since {member.away_since} ({since_s or 0} s): {member.member}{because}"


def _refused(status: RunStatus) -> str:
    logs = f": a witness holds {_short(status.held)}, the host offers {_short(status.offered)}" if status.held else ""
    return f"the run cannot go on from what its host offers ({status.refused}){logs}"


def _short(head: str | None) -> str:
    """``size:root`` with as much of the root as people compare."""
    size, _, root = (head or "").partition(":")
    return f"{size} leaves, {root[:16]}…"


def _since(ts: str | None, now: datetime) -> int | None:
    try:
        then = datetime.fromisoformat(ts or "")
    except ValueError:
        return None
    return max(0, int((now - then.replace(tzinfo=then.tzinfo or UTC)).total_seconds()))
