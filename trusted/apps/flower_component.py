"""A component of a Flower app, imported from its unpacked bundle. Trust zone: the confined child of a TEE that runs it.

Importing this module imports flwr, which imports gRPC: ``worker.flower`` and the aggregator's ``server_flower`` alone
may, and before anything else of flwr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trusted.errors import AppError, Reason

# Read by flwr when it is imported (supercore/telemetry.py, update_check.py): nothing may call home from inside a TEE.
OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
os.environ.update(OFF)

from flwr.supercore.object_ref import load_app  # noqa: E402

T = TypeVar("T")


def import_component(reference: str, app_dir: Path, kind: type[T], *, raised: Callable[[BaseException], AppError]) -> T:
    """Import ``package.module:attribute``, a ClientApp or ServerApp, from ``app_dir`` and from nowhere else.

    The folder goes to the *end* of the path: Flower puts it first, where a file of the app named ``torch.py`` or
    ``trusted`` would take the place of measured code. ``raised`` says what becomes of an app whose own code raises.

    Raises:
        AppError: BUNDLE_MALFORMED: no such component, or its package is an installed one. What ``raised`` returns.
    """
    component = f"components.{kind.__name__.lower()}"  # as pyproject.toml spells it
    if str(app_dir) not in sys.path:
        sys.path.append(str(app_dir))
    try:
        found = load_app(reference, AttributeError, app_dir)
    except AttributeError:
        raise AppError(Reason.BUNDLE_MALFORMED, f"app bundle: {component} names nothing in the app") from None
    except (Exception, SystemExit) as error:  # the app's own top-level code
        raise raised(error) from None
    source = getattr(sys.modules[reference.partition(":")[0]], "__file__", None)
    if source is None or not Path(source).resolve().is_relative_to(app_dir.resolve()):
        raise AppError(Reason.BUNDLE_MALFORMED, "app bundle: its package has the name of an installed one; rename it")
    if not isinstance(found, kind):
        raise AppError(Reason.BUNDLE_MALFORMED, f"app bundle: {component} is not a {kind.__name__}")
    return found
