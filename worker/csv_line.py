"""How a row is spelled in the tables that an app reads. Trust zone: worker, and the console."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r'[",\r\n]')


def csv_line(row: Sequence[str]) -> str:
    """The one spelling of a row: ``read_table`` gives back exactly it. (``csv.writer`` leaves a lone CR unquoted.)"""
    fields = (f'"{text.replace(chr(34), chr(34) * 2)}"' if _SPECIAL.search(text) else text for text in row)
    return (",".join(fields) or '""') + "\n"
