"""Every command speaks alike: one object for programs, words for people, and the documented exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from console.hints import hint_for
from console.main import build_app
from console.output import ExitCode, UserError, exit_code_of, failure_of, printable, reporting
from tests.console.conftest import Cloister
from trusted.errors import AttestationError, DocumentError, Reason, RunError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.MALFORMED, 1),
        (Reason.MEASUREMENT, 4),
        (Reason.THRESHOLD, 3),
        (Reason.NONCE, 5),
        (Reason.BLOB_OPEN, 5),
        (Reason.DUPLICATE, 5),
        (Reason.UNREACHABLE, 6),
        (Reason.HANDSHAKE_TIMEOUT, 7),
        (Reason.ROUND_DEADLINE, 7),
        (Reason.APP_FAILED, 1),
        (Reason.TEE_DEVICE_MISSING, 4),
    ],
)
def test_the_family_of_a_refusal_decides_the_exit_code(reason: Reason, code: int) -> None:
    assert exit_code_of(reason) == code


@pytest.mark.parametrize("reason", list(Reason))
def test_every_refusal_says_what_to_do(reason: Reason) -> None:
    assert hint_for(reason).endswith(".")
    assert failure_of(RunError(reason, "field: rule")).to_json()["runbook"] == f"docs/runbook.md#{reason.code.lower()}"


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (AttestationError(Reason.MEASUREMENT, "report.measurement: rule"), "ATT-214", 4),
        (DocumentError(Reason.SITE_REFUSES, "site_policy.columns: rule"), "DOC-311", 3),
        (UserError("wrong", "Do this."), "CLI-001", 1),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "CLI-003", 1),
        (ConnectionRefusedError(111, "Connection refused"), "CLI-006", 6),
        (TimeoutError(), "CLI-007", 7),
        (RuntimeError("holds a secret"), "CLI-099", 1),
    ],
)
def test_an_error_becomes_one_object_and_one_exit_code(
    error: Exception, code: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as left, reporting(True):
        raise error
    assert left.value.exit_code == exit_code
    envelope = json.loads(capsys.readouterr().out)
    assert set(envelope) == {"schema_version", "status", "data", "error"}
    assert (envelope["schema_version"], envelope["status"], envelope["data"]) == ("1", "error", {})
    assert envelope["error"]["code"] == code
    assert all(envelope["error"][part] for part in ("message", "hint", "runbook"))
    assert "secret" not in json.dumps(envelope)


def test_with_json_sentences_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(True) as report:
        report.say("a sentence")
        report.data["answer"] = 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["data"] == {"answer": 1}
    assert printed.err == "a sentence\n"


def test_without_json_sentences_go_to_stdout_and_errors_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(False) as report:
        report.say("a sentence")
    with pytest.raises(typer.Exit), reporting(False):
        raise UserError("wrong", "Do this.")
    printed = capsys.readouterr()
    assert printed.out == "a sentence\n"
    assert "error CLI-001: wrong" in printed.err
    assert "Do this." in printed.err


def test_a_document_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in printable("\x1b[2Jclean\rhidden\N{RIGHT-TO-LEFT OVERRIDE}")
    assert printable("Müller & Söhne, 東京") == "Müller & Söhne, 東京"


@pytest.mark.parametrize(
    "arguments", [["charter", "show"], ["charter", "nothing"], ["plan", "new", "--rounds", "many"], ["--what"]]
)
def test_wrong_usage_is_exit_code_two_and_still_one_object(cloister: Cloister, arguments: list[str]) -> None:
    answer = cloister(*arguments)
    assert answer.code == ExitCode.USAGE
    assert answer.error["code"] == "CLI-002"
    assert "--help" in answer.error["hint"]


def test_a_missing_file_is_told_by_name(cloister: Cloister, tmp_path: Path) -> None:
    answer = cloister("charter", "show", tmp_path / "none.json")
    assert (answer.code, answer.error["code"]) == (1, "CLI-003")
    assert "none.json" in answer.error["message"]


def test_a_huge_file_is_not_read(cloister: Cloister, tmp_path: Path) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 32)
    assert cloister("charter", "show", tmp_path / "huge.json").code == 1


def leaves(command: click.Command, path: str = "cloister") -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, f"{path} {name}")
    else:
        yield path, command


OWN = ("member", "charter", "plan", "site-policy")
COMMANDS = [(path, leaf) for path, leaf in leaves(get_command(build_app())) if path.split()[1] in OWN]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_has_help_an_example_and_json(path: str, command: click.Command) -> None:
    assert command.help
    assert f"Example: {path}" in (command.epilog or "")
    assert any("--json" in parameter.opts for parameter in command.params)


def test_help_is_shown_for_nothing() -> None:
    result = CliRunner().invoke(build_app(), [])
    assert "site-policy" in result.output


def test_help_needs_no_cryptography() -> None:
    """What is imported decides how fast ``cloister --help`` is; the clock would say the same, less reliably."""
    script = (
        "import sys; from console.main import build_app; build_app(); "
        "print([name for name in ('cryptography', 'numpy', 'torch', 'flwr', 'grpc') if name in sys.modules])"
    )
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert time.monotonic() - started < 5
