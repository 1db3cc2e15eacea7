"""The appraisal policy: what evidence must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

Unset refuses: a policy without one of its knobs does not read. Not using a knob is written down, ``{"skip": "why"}``,
and reported in every result (the idea is Oak's). ``KNOBS`` is the table of them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trusted.attestation import rules
from trusted.attestation.claims import AbiVersion, FirmwareVersion, Tcb
from trusted.attestation.products import PRODUCTS
from trusted.attestation.roots import Assurance
from trusted.attestation.rules import (
    Demand,
    MitigationRule,
    Permission,
    PlatformRule,
    ProviderRule,
    ReferenceValue,
    RevocationRule,
    Skip,
    TcbFloor,
)
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json, encode_json, sha256

_KEY_DIGEST_BYTES = 48
_MAX_SVN = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class AppraisalPolicy:
    """What one role must prove. The knobs, one field each, are explained in :data:`KNOBS`."""

    products: tuple[str, ...] | Skip
    measurements: tuple[ReferenceValue, ...]
    minimum_version: int | Skip
    minimum_tcb: TcbFloor | Skip
    minimum_launch_tcb: TcbFloor | Skip
    minimum_guest_svn: int | Skip
    minimum_firmware: FirmwareVersion | Skip
    provisional_firmware: Permission | Skip
    debug: Permission | Skip
    migration: Permission | Skip
    smt: Permission | Skip
    single_socket: Demand | Skip
    vmpl: int | Skip
    platform_info: PlatformRule | Skip
    chip_ids: tuple[bytes, ...] | Skip
    denied_chip_ids: tuple[bytes, ...] | Skip
    vlek: ProviderRule | Skip
    author_keys: tuple[bytes, ...] | Skip
    id_keys: tuple[bytes, ...] | Skip
    family_id: bytes | Skip
    image_id: bytes | Skip
    minimum_abi: AbiVersion | Skip
    mitigations: MitigationRule | Skip
    revocation: RevocationRule | Skip
    assurance: Assurance

    @classmethod
    def from_json(cls, value: Any, name: str = "policy") -> AppraisalPolicy:
        """The policy in the JSON object ``value``; ``name`` leads the errors.

        Raises:
            WireError: MISSING_FIELD, a knob is unset; POLICY_UNSET, a knob is skipped that cannot be;
                UNKNOWN_FIELD, WRONG_TYPE, MALFORMED.
        """
        with Fields(value, name) as fields:
            return cls(**{knob.name: knob.read_from(fields, value) for knob in KNOBS})

    def to_json(self) -> dict[str, Json]:
        """The JSON object that :meth:`from_json` reads."""
        return {knob.name: knob.write(getattr(self, knob.name)) for knob in KNOBS}

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: names this policy in results."""
        return sha256(encode_json(self.to_json()))


@dataclass(frozen=True, slots=True)
class Knob:
    """One field of a policy: its meaning, and how its value reads and writes.

    Two knobs cannot be skipped, for an appraisal without them would say nothing: ``measurements`` and ``assurance``.
    """

    name: str
    meaning: str
    read: Callable[[Fields, str], Any]
    write_value: Callable[[Any], Json]
    may_skip: bool = True

    def read_from(self, fields: Fields, value: Any) -> Any:
        """The knob's value, or its skip, in ``fields``, which reads the object ``value``."""
        skip = rules.read_skip(value.get(self.name), fields.path(self.name))
        if skip is None:
            return self.read(fields, self.name)
        if not self.may_skip:
            raise WireError(Reason.POLICY_UNSET, f"{fields.path(self.name)}: cannot be skipped; set a value")
        fields.take(self.name, dict)
        return skip

    def write(self, value: Any) -> Json:
        """The JSON form of a value or a skip."""
        return {"skip": value.why} if isinstance(value, Skip) else self.write_value(value)


def _integer(low: int, high: int) -> Callable[[Fields, str], int]:
    return lambda fields, key: fields.integer(key, low=low, high=high)


def _octets(size: int) -> Callable[[Fields, str], bytes]:
    return lambda fields, key: fields.octets(key, size)


def _octets_list(size: int) -> Callable[[Fields, str], tuple[bytes, ...]]:
    return lambda fields, key: rules.read_octets(fields, key, size)


def _read_products(fields: Fields, key: str) -> tuple[str, ...]:
    return rules.read_names(fields, key, PRODUCTS)


def _read_assurance(fields: Fields, key: str) -> Assurance:
    return Assurance(fields.choice(key, [item.value for item in Assurance]))


def _number(value: int) -> Json:
    return value


def _list(value: tuple[str, ...]) -> Json:
    return list(value)


def _value(item: Permission | Demand | Assurance) -> Json:
    return str(item.value)


def _hex(value: bytes) -> Json:
    return value.hex()


_CHIPS = _octets_list(rules.HARDWARE_ID_BYTES)
_KEYS = _octets_list(_KEY_DIGEST_BYTES)

# name, meaning, how the value reads, how it is written. Values are those of rules.py.
KNOBS: tuple[Knob, ...] = (
    Knob("products", "processor generations that may take part: [Milan, Genoa, Turin]", _read_products, _list),
    Knob(
        "measurements",
        "what may run: [{value: SHA-384, until: null or the end of an overlap window}]",
        rules.read_measurements,
        rules.write_measurements,
        may_skip=False,
    ),
    Knob("minimum_version", "lowest report version, 2 to 5; 2 does not name its product", _integer(2, 5), _number),
    Knob(
        "minimum_tcb",
        "lowest TCB the report's key is bound to, for each product: {product: {component: 0..255}}",
        rules.read_tcb_floor,
        rules.write_tcb_floor,
    ),
    Knob(
        "minimum_launch_tcb",
        "lowest TCB at the moment of launch, for each product",
        rules.read_tcb_floor,
        rules.write_tcb_floor,
    ),
    Knob(
        "minimum_guest_svn", "lowest security version that the image's signer gave it", _integer(0, _MAX_SVN), _number
    ),
    Knob(
        "minimum_firmware",
        "lowest version of the security processor's firmware: {major, minor, build}",
        rules.read_firmware,
        rules.write_firmware,
    ),
    Knob(
        "provisional_firmware",
        "refuse: what runs is committed, so nobody can roll it back; or allow",
        rules.read_permission,
        _value,
    ),
    Knob("debug", "refuse guests whose memory the host may read; or allow", rules.read_permission, _value),
    Knob("migration", "refuse guests that a migration agent may move; or allow", rules.read_permission, _value),
    Knob("smt", "refuse guests that may share a core with another; or allow", rules.read_permission, _value),
    Knob("single_socket", "require guests to stay on one socket; or any", rules.read_demand, _value),
    Knob("vmpl", "the privilege level that must have asked for the report, 0 to 3", _integer(0, 3), _number),
    Knob(
        "platform_info",
        "platform flags that must be on and off: {require: [flag], refuse: [flag]}",
        rules.read_platform,
        rules.write_platform,
    ),
    Knob(
        "chip_ids", "the only processors that may take part, 64 bytes each; Milan needs it", _CHIPS, rules.write_octets
    ),
    Knob("denied_chip_ids", "processors that may not take part, 64 bytes each", _CHIPS, rules.write_octets),
    Knob(
        "vlek",
        "cloud providers whose keys stand in for a chip's: {providers: [name]}, nobody when empty",
        rules.read_providers,
        rules.write_providers,
    ),
    Knob("author_keys", "digests of author keys, one of which must be in the ID block", _KEYS, rules.write_octets),
    Knob("id_keys", "digests of ID keys, one of which must have signed the ID block", _KEYS, rules.write_octets),
    Knob("family_id", "the ID block's family, 16 bytes", _octets(16), _hex),
    Knob("image_id", "the ID block's image, 16 bytes", _octets(16), _hex),
    Knob(
        "minimum_abi", "lowest firmware ABI that the guest insists on: {major, minor}", rules.read_abi, rules.write_abi
    ),
    Knob(
        "mitigations",
        "bits of the mitigation vectors that must be set: {launch: [bit], current: [bit]}",
        rules.read_mitigations,
        rules.write_mitigations,
    ),
    Knob(
        "revocation",
        "a current revocation list is required, at most this old: {max_age_days}",
        rules.read_revocation,
        rules.write_revocation,
    ),
    Knob(
        "assurance",
        "what must stand behind the root: hardware, or none (software TEE, no protection)",
        _read_assurance,
        _value,
        may_skip=False,
    ),
)

# The lowest levels seen on patched machines in 2025 and 2026; AMD-SB-3015, 3019 and 3020 are the bulletins to go by.
_TCB_FLOORS = {
    "Milan": Tcb((("bl", 4), ("tee", 0), ("snp", 23), ("ucode", 213))),
    "Genoa": Tcb((("bl", 10), ("tee", 0), ("snp", 23), ("ucode", 84))),
    "Turin": Tcb((("fmc", 0), ("bl", 1), ("tee", 0), ("snp", 2), ("ucode", 71))),
}


def strict_snp_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    products: Sequence[str] = ("Genoa", "Turin"),
    assurance: Assurance | str = Assurance.HARDWARE,
    chip_ids: Sequence[bytes] | None = None,
    providers: Sequence[str] = (),
) -> AppraisalPolicy:
    """A policy to start a charter from: everything refused that a current cloud guest does not need.

    Args:
        measurements: what may run, 48 bytes each.
        products: Milan is left out: its chip keys can be extracted in software, so it needs ``chip_ids`` (6.5).
        assurance: ``hardware`` or ``none``.
        chip_ids: the only processors that may take part, 64 bytes each; None allows every chip of ``products``.
        providers: cloud providers whose VLEKs are trusted.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    floor = TcbFloor(tuple((product, _TCB_FLOORS[product]) for product in products if product in _TCB_FLOORS))
    no_id_block = Skip("the image is pinned by its measurement and carries no ID block")
    policy = AppraisalPolicy(
        products=tuple(products),
        measurements=tuple(item if isinstance(item, ReferenceValue) else ReferenceValue(item) for item in measurements),
        minimum_version=3,
        minimum_tcb=floor,
        minimum_launch_tcb=floor,
        minimum_guest_svn=no_id_block,
        minimum_firmware=FirmwareVersion(1, 55, 29),
        provisional_firmware=Permission.REFUSE,
        debug=Permission.REFUSE,
        migration=Permission.REFUSE,
        smt=Permission.ALLOW,  # every cloud launches its guests so
        single_socket=Demand.ANY,
        vmpl=0,
        platform_info=PlatformRule(require=("alias_check_complete",), refuse=()),
        chip_ids=Skip("every processor of the listed products may take part") if chip_ids is None else tuple(chip_ids),
        denied_chip_ids=(),
        vlek=ProviderRule(tuple(providers)),
        author_keys=no_id_block,
        id_keys=no_id_block,
        family_id=no_id_block,
        image_id=no_id_block,
        minimum_abi=Skip("minimum_firmware stands above what the guest insists on"),
        mitigations=Skip("the vendor has published no list of the bits to require"),
        revocation=RevocationRule(max_age_days=366),
        assurance=Assurance(assurance),
    )
    return AppraisalPolicy.from_json(policy.to_json())


def development_snp_policy(
    measurements: Sequence[bytes | ReferenceValue], *, products: Sequence[str] = ("Genoa",)
) -> AppraisalPolicy:
    """A policy that the software TEE can meet, with no hardware behind the root. NO HARDWARE PROTECTION.

    In all else it is :func:`strict_snp_policy`: the software root issues a revocation list too.
    """
    return strict_snp_policy(measurements, products=products, assurance=Assurance.NONE)
