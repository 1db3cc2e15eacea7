"""The tools that are compared, each at the setting that measured best on all cores. Trust zone: developer's machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.peers.environments import Requirement
from benchmarks.simulation.work import Work

LOOP, POOL, SMALL = "loop", "cloister-pool", "cloister-pool-of-ten"
_TORCH = ("torch==2.13.0",)  # its exact version first: nothing asks for another build then
# What its workflow API imports, in the versions that its tutorials name, and what those call of setuptools and numpy.
_OPENFL_BESIDE = (
    "numpy<2.1", "dill==0.3.6", "metaflow==2.7.15", "nbformat==5.10.4", "ray==2.43.0", "tabulate==0.9.0", "matplotlib",
    "setuptools<81",
)  # fmt: skip
_NVFLARE_SITES, _OPENFL_SITES, _FEW_ROUNDS = 8, 10, 4


@dataclass(frozen=True, slots=True)
class Tool:
    """One simulator, or one setting of it.

    Attributes:
        setting: how it is run, in words.
        module: of :mod:`benchmarks.simulation.tools`.
        requirement: None: this environment has it.
        settings: for the module.
        models: of which works it takes part.
        processes: how many; None: one for each core.
        shrink: to the federation that this tool can hold, or does best with.
        launcher: words before the module, beside the interpreter.
    """

    name: str
    setting: str
    module: str
    requirement: Requirement | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ("cnn", "mlp")
    processes: int | None = None
    shrink: Callable[[Work], Work] = lambda work: work
    launcher: tuple[str, ...] = ()

    @property
    def is_peer(self) -> bool:
        """Whether somebody else made it."""
        return self.requirement is not None

    @property
    def is_ours(self) -> bool:
        """Whether it is Cloister."""
        return self.module == "ours"


def _everyone(sites: int) -> Callable[[Work], Work]:
    """A small federation, all of it in every round."""
    return lambda work: replace(
        work, sites=min(sites, work.sites), cohort=min(sites, work.sites), rounds=min(_FEW_ROUNDS, work.rounds)
    )


def _peers() -> tuple[Tool, ...]:
    flower = Requirement("flwr[simulation]", ("1.42.*", "1.41.*"), first=_TORCH)
    openfl = Requirement("openfl", ("1.9.*",), _OPENFL_BESIDE, _TORCH)
    return (
        Tool(
            "pfl",
            "torchrun, a process of one thread for each core; judging switched off but for the first round",
            "pfl",
            Requirement("pfl[pytorch]", ("0.6.0",), first=_TORCH),
            launcher=("-m", "torch.distributed.run", "--standalone", "--nnodes=1", f"--nproc_per_node={cores()}"),
        ),
        Tool("flower", "run_simulation on Ray, an actor for each core that keeps its model", "flower", flower),
        Tool(
            "nvflare",
            f"simulator, {_NVFLARE_SITES} sites, all in each round, each in a process that is kept",
            "nvflare",
            Requirement("nvflare", ("2.9.0",), first=_TORCH),
            shrink=_everyone(_NVFLARE_SITES),
        ),
        Tool(
            "openfl",
            f"workflow API, local runtime in one process on all cores, {_OPENFL_SITES} sites, all in each round",
            "openfl",
            openfl,
            shrink=_everyone(_OPENFL_SITES),
        ),
    )


def _ours() -> tuple[Tool, ...]:
    pool = {"engine": "pool", "together": 1}
    return (
        Tool(POOL, "one site after the other in a process for each core", "ours", settings=pool),
        Tool(
            "cloister-pool-batched",
            "several sites in one product, as many as measured fastest",
            "ours",
            settings={"engine": "pool"},
            models=("mlp",),
        ),
        Tool(
            "cloister-pool-channels-last",
            "opt-in: channels innermost",
            "ours",
            settings=pool | {"channels_last": True},
            models=("cnn",),
        ),
        Tool(
            "cloister-pool-bfloat16",
            "opt-ins: channels innermost and bfloat16",
            "ours",
            settings=pool | {"channels_last": True, "bfloat16": True},
            models=("cnn",),
        ),
        Tool(
            SMALL,
            f"the pool with the federation that OpenFL is given: {_OPENFL_SITES} sites, all in each round",
            "ours",
            settings=pool,
            shrink=_everyone(_OPENFL_SITES),
        ),
        Tool(
            "cloister-in-process", "one process of one thread", "ours", settings={"engine": "in-process", "together": 1}
        ),
    )


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; without, the opt-in is many times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


_LOOP = Tool(LOOP, "bare hand-written PyTorch, a process of one thread for each core", "loop")
TOOLS: Mapping[str, Tool] = MappingProxyType({tool.name: tool for tool in (_LOOP, *_ours(), *_peers())})
