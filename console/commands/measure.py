"""``cloister measure``: the reference value of an enclave, predicted without starting it. Trust zone: operator."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from console.output import JsonOption, UserError, reporting
from trusted.evidence.boot import Role


def command(
    role: Annotated[Role, typer.Argument(help="Which enclave.", show_default=False)],
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever is cached.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Tell what `cloister aggregator serve` or `cloister worker join` would start here, as the charter must name it.

    Two machines agree when they have the same interpreter, the same locked packages and the same Cloister.

    Example: cloister measure worker
    """
    with reporting(json_output) as report:
        from softtee.digests import DigestCache
        from softtee.measure import default_state, measure

        try:
            measured = measure(role, cache=DigestCache(default_state(), rehash=rehash))
        except ValueError as error:  # its words for what is missing, or changed while it was read
            raise UserError(f"nothing was measured: {error}", "Run `cloister doctor` on this machine.") from None
        report.say(f"{role.value} {measured.value.hex()}")
        report.rows((name, f"{value[:24]}…") for name, value in asdict(measured.parts).items())
        report.data |= {"role": role.value, "measurement": measured.value.hex(), "parts": asdict(measured.parts)}
