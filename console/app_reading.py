"""What an app's source says about itself, read and never run. Trust zone: the author's or a member's own machine.

A ServerApp is somebody's program: it is not imported here. Its syntax tree tells which strategy it starts, from what
arrays, for how many rounds and with which messages, as long as that stands there plainly; what is computed in another
way is not guessed.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trusted.documents.terms import Scalar
from trusted.errors import AppError, Reason

_STRATEGIES = ("flwr.serverapp.strategy", "flwr.server.strategy")
# What asks the network for something; the values are what a reader knows it as.
_NETWORK = {
    "flwr_datasets": "flwr-datasets downloads data",
    "datasets": "Hugging Face datasets downloads data",
    "huggingface_hub": "huggingface_hub downloads models",
    "torchvision.datasets": "torchvision.datasets downloads data",
    "requests": "requests calls other machines",
    "httpx": "httpx calls other machines",
    "aiohttp": "aiohttp calls other machines",
    "urllib.request": "urllib.request calls other machines",
    "wandb": "wandb reports to a server",
    "mlflow": "mlflow reports to a server",
    "boto3": "boto3 calls a cloud",
    "kagglehub": "kagglehub downloads data",
    "fetch_openml": "fetch_openml downloads data",
    "load_dataset": "load_dataset downloads data",
    "from_pretrained": "from_pretrained downloads a model",
    "subprocess": "subprocess starts other programs",
}


# What stands in a plan for each of Flower's strategies; the rest has no rule of ours.
RULES = {
    "FedAvg": "weighted-mean",
    "FedProx": "weighted-mean, with --proximal-mu",
    "FedAvgM": "weighted-mean, with --server momentum",
    "FedAdam": "weighted-mean, with --server adam",
    "FedYogi": "weighted-mean, with --server yogi",
    "FedAdagrad": "weighted-mean, with --server adagrad",
    "FedMedian": "median",
    "FedTrimmedAvg": "trimmed-mean",
    "Krum": "krum",
    "MultiKrum": "multi-krum",
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the app's ServerApp says that it aggregates; what it does not say plainly is absent.

    Attributes:
        names: Flower's strategy classes that it makes, or an own class that derives from one.
        own: the names that are classes of the app itself.
        numbers: the keyword arguments of those, and of ``start``, that are plain or from the run config.
        train_config, evaluate_config: what ``start`` is given for messages; None: given, but not plainly.
        initial: the expression that the initial arrays are made of.
        sources: where each came from, ``file:line``.
    """

    names: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    numbers: Mapping[str, Scalar] = field(default_factory=dict)
    train_config: Mapping[str, Scalar] | None = field(default_factory=dict)
    evaluate_config: Mapping[str, Scalar] | None = field(default_factory=dict)
    initial: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppSource:
    """An app's files as a worker would unpack them.

    Attributes:
        components: ``serverapp`` and ``clientapp``, each ``package.module:name``.
        config: ``[tool.flwr.app.config]``, flattened; values that are no scalars are left out.
        unusual: keys of the run config whose values are no scalars.
        trees: the syntax tree of each source file by its path.
        broken: the files that do not parse.
    """

    components: Mapping[str, str]
    config: Mapping[str, Scalar]
    unusual: tuple[str, ...]
    trees: Mapping[str, ast.Module] = field(repr=False)
    broken: tuple[str, ...] = ()

    @classmethod
    def read(cls, app_dir: Path) -> AppSource:
        """The app in ``app_dir``, from ``unpack_bundle``.

        Raises:
            AppError: BUNDLE_MALFORMED: no Flower app.
        """
        try:
            project = tomllib.loads((app_dir / "pyproject.toml").read_text("utf-8"))
            app = project["tool"]["flwr"]["app"]
            components = {kind: str(app["components"].get(kind, "")) for kind in ("serverapp", "clientapp")}
            flat = dict(_flattened(app.get("config", {})))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise AppError(Reason.BUNDLE_MALFORMED, "app bundle: pyproject.toml: no [tool.flwr.app]") from None
        config = {key: value for key, value in flat.items() if isinstance(value, bool | int | float | str)}
        trees, broken = {}, []
        for path in sorted(app_dir.rglob("*.py")):
            name = str(path.relative_to(app_dir))
            try:
                trees[name] = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                broken.append(name)
        return cls(components, config, tuple(sorted(set(flat) - set(config))), trees, tuple(broken))

    def component(self, kind: str) -> tuple[str, ast.Module] | None:
        """The file that ``serverapp`` or ``clientapp`` names, and its tree; None where there is none."""
        module = self.components.get(kind, "").partition(":")[0].replace(".", "/")
        for path in (f"{module}.py", f"{module}/__init__.py"):
            if path in self.trees:
                return path, self.trees[path]
        return None

    def mods(self) -> tuple[str, ...]:
        """What stands in ``mods=[...]`` anywhere in the ClientApp's file."""
        found = self.component("clientapp")
        lists = [] if found is None else [k.value for c in _calls(found[1]) for k in c.keywords if k.arg == "mods"]
        return tuple(ast.unparse(mod) for listed in lists if isinstance(listed, ast.List) for mod in listed.elts)

    def reads_its_data(self) -> str:
        """Where ``data-path`` is read, ``file:line``; empty: nowhere."""
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and node.value == "data-path":
                    return f"{path}:{node.lineno}"
        return ""

    def network(self) -> Iterator[tuple[str, str]]:
        """Each place, ``file:line``, that will ask for a network or a program; the ServerApp's file is not one."""
        server = self.component("serverapp")
        for path, tree in self.trees.items():
            if server is None or path != server[0]:
                yield from ((f"{path}:{line}", _NETWORK[name]) for line, name in _asking(tree))

    def strategy(self) -> Strategy:
        """What the ServerApp's file says."""
        found = self.component("serverapp")
        return Strategy() if found is None else _StrategyReading(found[0], found[1], self.config).read()


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    """The last part of ``a.b.c``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _asking(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and _name(node.func) in ("fetch_openml", "load_dataset", "from_pretrained"):
            names = [_name(node.func)]
        for name in names:
            known = next((known for known in _NETWORK if name == known or name.startswith(f"{known}.")), None)
            if known is not None:
                yield getattr(node, "lineno", 0), known
                break


class _StrategyReading:
    """Walks one ServerApp's file, with the values of the run config in the place of what is read from it."""

    def __init__(self, path: str, tree: ast.Module, config: Mapping[str, Scalar]) -> None:
        self._path, self._tree, self._config = path, tree, config
        self._assigned: dict[str, ast.expr] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._assign(node.targets[0].id, node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self._assign(node.target.id, node.value)

    def _assign(self, name: str, value: ast.expr) -> None:
        # Twice assigned: nobody knows which one holds.
        self._assigned[name] = ast.Name("?") if name in self._assigned else value

    def read(self) -> Strategy:
        """All that stands there plainly."""
        imported = {
            alias.asname or alias.name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_STRATEGIES)
            for alias in node.names
        }
        own = {
            node.name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ClassDef) and any(_name(base) in imported for base in node.bases)
        }
        made = [call for call in _calls(self._tree) if _name(call.func) in imported | own]
        started = [call for call in _calls(self._tree) if _name(call.func) == "start" and call.keywords]
        numbers: dict[str, Scalar] = {}
        sources: dict[str, str] = {}
        for call in (*made, *started):
            for keyword in call.keywords:
                value = self._value(keyword.value)
                if keyword.arg and value is not None:
                    numbers[keyword.arg] = value
                    sources[keyword.arg] = self._source(keyword.value)
        given = {k.arg: k.value for call in started for k in call.keywords if k.arg}
        messages = {name: self._record(given[name]) if name in given else {} for name in _MESSAGES}
        for name in messages.keys() & given.keys():
            sources[name] = f"{self._path}:{given[name].lineno}"
        initial = ast.unparse(self._resolved(given["initial_arrays"])) if "initial_arrays" in given else ""
        names = tuple(dict.fromkeys(_name(call.func) for call in made))
        return Strategy(names, tuple(sorted(own)), numbers, **messages, initial=initial, sources=sources)

    def _resolved(self, node: ast.expr) -> ast.expr:
        seen = 0
        while isinstance(node, ast.Name) and node.id in self._assigned and seen < 8:
            node, seen = self._assigned[node.id], seen + 1
        return node

    def _key(self, node: ast.expr) -> str:
        """The key of ``….run_config["key"]`` or ``….run_config.get("key", …)``."""
        holder, key = None, None
        if isinstance(node, ast.Subscript):
            holder, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            holder, key = node.func.value, node.args[0] if node.args else None
        named = holder is not None and _name(self._resolved(holder)) == "run_config"
        return key.value if named and isinstance(key, ast.Constant) and isinstance(key.value, str) else ""

    def _value(self, node: ast.expr) -> Scalar | None:
        node = self._resolved(node)
        if isinstance(node, ast.Call) and _name(node.func) in ("int", "float", "str", "bool") and len(node.args) == 1:
            node = self._resolved(node.args[0])
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            return node.value
        return self._config.get(self._key(node))

    def _source(self, node: ast.expr) -> str:
        resolved = self._resolved(node)
        if isinstance(resolved, ast.Call) and _name(resolved.func) in ("int", "float", "str", "bool"):
            resolved = self._resolved(resolved.args[0])
        key = self._key(resolved)
        return f"{key} in pyproject.toml" if key else f"{self._path}:{node.lineno}"

    def _record(self, node: ast.expr) -> dict[str, Scalar] | None:
        """``ConfigRecord({...})`` with plain keys and values; None where something is computed."""
        node = self._resolved(node)
        if isinstance(node, ast.Constant) and node.value is None:
            return {}
        if isinstance(node, ast.Call) and _name(node.func) == "ConfigRecord":
            if not node.args:
                return {}
            node = self._resolved(node.args[0])
        if not isinstance(node, ast.Dict):
            return None
        record: dict[str, Scalar] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            found = self._value(value)
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str) or found is None:
                return None
            record[key.value] = found
        return record


_MESSAGES = ("train_config", "evaluate_config")
