"""What SEV-SNP evidence must say to be good enough (docs/protocol.md §3.3). Trust zone: every TEE.

``KNOBS`` is the table of its knobs; what each one means for claims stands in ``snp_checks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trusted.attestation.claims import AbiVersion, FirmwareVersion, Tcb
from trusted.attestation.policies import rules
from trusted.attestation.policies.knob import (
    ASSURANCE,
    Knob,
    KnobbedPolicy,
    hexadecimal,
    integer,
    listed,
    measurements,
    number,
    octets,
    octets_list,
    value_of,
)
from trusted.attestation.policies.rules import (
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
from trusted.attestation.products import LINES, PRODUCTS
from trusted.attestation.roots import Assurance
from trusted.wire import Fields

_KEY_DIGEST_BYTES = 48
_MAX_SVN = (1 << 32) - 1


def _read_products(fields: Fields, key: str) -> tuple[str, ...]:
    return rules.read_names(fields, key, PRODUCTS)


_CHIPS = octets_list(rules.HARDWARE_ID_BYTES)
_KEYS = octets_list(_KEY_DIGEST_BYTES)

# name, meaning, how the value reads, how it is written. Values are those of rules.py.
KNOBS: tuple[Knob, ...] = (
    Knob("products", "processor generations that may take part: [Milan, Genoa, Turin]", _read_products, listed),
    measurements(rules.MEASUREMENT_BYTES, "SHA-384"),
    Knob("minimum_version", "lowest report version, 2 to 5; 2 does not name its product", integer(2, 5), number),
    Knob(
        "minimum_tcb",
        "lowest TCB the report's key is bound to, for each silicon line, or for a product's lines without one: "
        "{line: {component: 0..255}}",
        rules.read_tcb_floor,
        rules.write_tcb_floor,
    ),
    Knob(
        "minimum_launch_tcb",
        "lowest TCB at the moment of launch, likewise",
        rules.read_tcb_floor,
        rules.write_tcb_floor,
    ),
    Knob("minimum_guest_svn", "lowest security version that the image's signer gave it", integer(0, _MAX_SVN), number),
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
        value_of,
    ),
    Knob("debug", "refuse guests whose memory the host may read; or allow", rules.read_permission, value_of),
    Knob("migration", "refuse guests that a migration agent may move; or allow", rules.read_permission, value_of),
    Knob("smt", "refuse guests that may share a core with another; or allow", rules.read_permission, value_of),
    Knob("single_socket", "require guests to stay on one socket; or any", rules.read_demand, value_of),
    Knob("vmpl", "the privilege level that must have asked for the report, 0 to 3", integer(0, 3), number),
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
    Knob("family_id", "the ID block's family, 16 bytes", octets(16), hexadecimal),
    Knob("image_id", "the ID block's image, 16 bytes", octets(16), hexadecimal),
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
    ASSURANCE,
)


@dataclass(frozen=True, slots=True)
class SnpPolicy(KnobbedPolicy):
    """What SEV-SNP evidence must say. The knobs, one field each, are explained in :data:`KNOBS`."""

    KNOBS: ClassVar[tuple[Knob, ...]] = KNOBS

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


# Microcode: the first that is mended against EntrySign (AMD-SB-3019; for Turin AMD-SB-7033), in each line's counting.
# All else: the lowest seen on patched machines in 2025 and 2026. The bulletins since then (AMD-SB-3016, 3020, 3030) ask
# for more than any public evidence shows: docs/platforms.md.
_TCB_FLOORS = {
    "Bergamo": Tcb((("bl", 10), ("tee", 0), ("snp", 23), ("ucode", 25))),
    "Genoa": Tcb((("bl", 10), ("tee", 0), ("snp", 23), ("ucode", 84))),
    "Genoa-X": Tcb((("bl", 10), ("tee", 0), ("snp", 23), ("ucode", 79))),
    "Milan": Tcb((("bl", 4), ("tee", 0), ("snp", 23), ("ucode", 219))),
    "Milan-X": Tcb((("bl", 4), ("tee", 0), ("snp", 23), ("ucode", 68))),
    "Turin": Tcb((("fmc", 0), ("bl", 1), ("tee", 0), ("snp", 2), ("ucode", 71))),
    "Turin-Dense": Tcb((("fmc", 0), ("bl", 1), ("tee", 0), ("snp", 2), ("ucode", 71))),
}


def strict_snp_policy(
    measurements: Sequence[bytes | ReferenceValue],
    *,
    products: Sequence[str] = ("Genoa", "Turin"),
    assurance: Assurance | str = Assurance.HARDWARE,
    chip_ids: Sequence[bytes] | None = None,
    providers: Sequence[str] = (),
) -> SnpPolicy:
    """A policy to start a charter from: everything refused that a current cloud guest does not need.

    Args:
        measurements: what may run, 48 bytes each.
        products: Milan is left out: its chip keys can be extracted in software, so it needs ``chip_ids`` (6.5).
        assurance: ``possession``, ``hardware`` or ``none``.
        chip_ids: the only processors that may take part, 64 bytes each; None allows every chip of ``products``.
        providers: cloud providers whose VLEKs are trusted.

    Raises:
        WireError: a value that a policy cannot hold.
    """
    floor = TcbFloor(tuple((line, tcb) for line, tcb in _TCB_FLOORS.items() if LINES[line].name in products))
    no_id_block = Skip("the image is pinned by its measurement and carries no ID block")
    policy = SnpPolicy(
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
    return SnpPolicy.from_json(policy.to_json())


def development_snp_policy(
    measurements: Sequence[bytes | ReferenceValue], *, products: Sequence[str] = ("Genoa",)
) -> SnpPolicy:
    """A policy that the software TEE can meet, with no hardware behind the root. NO HARDWARE PROTECTION.

    In all else it is :func:`strict_snp_policy`: the software root issues a revocation list too.
    """
    return strict_snp_policy(measurements, products=products, assurance=Assurance.NONE)
