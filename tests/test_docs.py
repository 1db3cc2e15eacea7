"""What the documentation says is held to the code: every reason, every claim, and no promise that nobody can keep."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from trusted.errors import Reason

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
RUNBOOK = ROOT / "docs" / "runbook.md"
THREAT_MODEL = ROOT / "docs" / "threat-model.md"
CODE = ("trusted", "coordinator", "worker", "recipient", "broker", "softtee", "console")

_ENTRY = re.compile(
    r'^<a id="(?P<anchor>[^"]+)"></a>\n### (?P<code>\S+) (?P<name>\S+)\n(?P<text>(?:.+\n)+)', re.MULTILINE
)
_CLAIM = re.compile(r"^- \*\*C(?P<number>\d+)\*\* (?P<text>(?:.+\n)+?)(?=- |\n|$)", re.MULTILINE)
_TEST = re.compile(r"tests/[\w/]+\.py::\w+")
# Words that no technology can honour; see the claims in docs/threat-model.md for what may be said instead.
_BANNED = re.compile(r"\bcompliant\b|\bguarantee\w*|\bunhackable\b|\bfully anonymous\b", re.IGNORECASE)


@cache
def entries() -> dict[str, re.Match[str]]:
    """The entries of the runbook by the code in their heading."""
    return {match["code"]: match for match in _ENTRY.finditer(RUNBOOK.read_text())}


@cache
def claims() -> dict[int, str]:
    """The claims of the threat model by their number."""
    return {int(match["number"]): match["text"] for match in _CLAIM.finditer(THREAT_MODEL.read_text())}


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The names of all functions that a test file defines."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def reasons_in(*folders: str) -> frozenset[str]:
    """Every ``Reason.NAME`` that the Python files below ``folders`` spell, this file excepted."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
                found.add(node.attr)
    return frozenset(found)


def written_for_people() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_every_reason_has_a_runbook_entry_under_its_anchor(reason: Reason) -> None:
    entry = entries().get(reason.code)
    assert entry is not None
    assert (entry["name"], entry["anchor"]) == (reason.name, reason.code.lower())
    assert 30 < len(entry["text"]) < 500


def test_every_runbook_entry_is_a_reason() -> None:
    assert set(entries()) == {reason.code for reason in Reason}
    headings = re.findall(r"^### .+$", RUNBOOK.read_text(), re.MULTILINE)
    assert len(headings) == len(Reason)


def test_runbook_entries_stand_in_the_order_of_their_numbers() -> None:
    assert list(entries()) == [reason.code for reason in Reason]


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_every_reason_is_asserted_by_a_test(reason: Reason) -> None:
    """A refusal that no test provokes is not known to work."""
    assert reason.name in reasons_in("tests")


def test_every_reason_stands_in_the_code() -> None:
    assert {reason.name for reason in Reason} <= reasons_in(*CODE)


def test_claims_are_numbered_without_gaps_and_none_is_lost() -> None:
    assert list(claims()) == list(range(1, len(claims()) + 1))
    assert len(claims()) == len(re.findall(r"\*\*C\d", THREAT_MODEL.read_text()))


@pytest.mark.parametrize("number", sorted(claims()))
def test_every_claim_names_a_test_that_exists(number: int) -> None:
    named = _TEST.findall(claims()[number])
    assert named
    for path, name in (test.split("::") for test in named):
        assert (ROOT / path).is_file(), path
        assert name.startswith("test_")
        assert name in functions_of(ROOT / path), name


def test_every_test_that_a_document_names_exists() -> None:
    for document in written_for_people():
        for path, name in (test.split("::") for test in _TEST.findall(document.read_text())):
            assert name in functions_of(ROOT / path), f"{document.name}: {name}"


def test_no_document_promises_what_nobody_can_keep() -> None:
    for document in written_for_people():
        for number, line in enumerate(document.read_text().splitlines(), start=1):
            assert not _BANNED.search(line), f"{document.name}:{number}"


@pytest.mark.parametrize(
    "line", ["GDPR-compliant", "We guarantee it", "guaranteed", "Unhackable.", "The data is fully anonymous"]
)
def test_a_promise_that_nobody_can_keep_would_be_found(line: str) -> None:
    assert _BANNED.search(line)
