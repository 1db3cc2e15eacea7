"""The Arm CCA attestation token, bytes to fields. Trust zone: every TEE.

Two COSE_Sign1 in one collection: the platform's, signed by the platform's key (CPAK), and the realm's, signed by a key
(RAK) whose hash the platform's claims hold. Each profile has one form of that key and one set of claims.
Sources: Arm DEN0137 (RMM 1.0 and 2.0), A7.2; draft-ffm-rats-cca-token-00 to -03; TF-RMM before its first release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType

from trusted.attestation.formats import cbor
from trusted.attestation.formats.cbor import Tagged, Value
from trusted.attestation.formats.claim_map import ClaimMap
from trusted.attestation.formats.cose import UnverifiedSign1, parse_sign1
from trusted.errors import AttestationError, Reason

HASH_BYTES: Mapping[str, int] = MappingProxyType({"sha-256": 32, "sha-384": 48, "sha-512": 64})
PERSONALIZATION_BYTES = 64
INSTANCE_ID_BYTES = 33
IMPLEMENTATION_ID_BYTES = 32
REALM_REGISTERS = 4

_COLLECTION_TAG = 399  # RMM 1.0, draft -00 and -01: the tokens as byte strings
_WRAPPED_TAG = 907  # RMM 2.0, draft -02 and later: each wrapped with its content format
_EAT_CWT = 263
_PLATFORM_TOKEN, _REALM_TOKEN = 44234, 44241
_DIGEST_SIZES = tuple(HASH_BYTES.values())
_MAX_COMPONENTS = 64
_UEID_RANDOM = 1  # the first byte of both instance ids
_COORDINATE_BYTES = 48
_UNCOMPRESSED = b"\x04"
_LIFECYCLE_MAX = 0x60FF
_CLIENT_RMSD = 1  # the Realm Management Security Domain, the only client there is


@unique
class Profile(Enum):
    """The profiles that this release reads, by the platform token's claim (265)."""

    LEGACY = "http://arm.com/CCA-SSD/1.0.0"
    V1 = "tag:arm.com,2023:cca_platform#1.0.0"
    V2 = "tag:arm.com,2024:cca_platform#2.0.0"


_REALM_PROFILES = {
    Profile.LEGACY: None,
    Profile.V1: "tag:arm.com,2023:realm#1.0.0",
    Profile.V2: "tag:arm.com,2024:realm#2.0.0",
}


@unique
class Lifecycle(Enum):
    """Bits 8 to 15 of the lifecycle claim; the others are the implementation's."""

    UNKNOWN = 0x00
    ASSEMBLY_AND_TEST = 0x10
    PROVISIONING = 0x20
    SECURED = 0x30
    NON_PLATFORM_DEBUG = 0x40
    RECOVERABLE_PLATFORM_DEBUG = 0x50
    DECOMMISSIONED = 0x60


@dataclass(frozen=True, slots=True)
class SoftwareComponent:
    """Firmware that the platform measured before any realm ran.

    Attributes:
        kind, version: the maker's words; empty when it says nothing.
        measurement: of the platform's hash algorithm.
        signer: hash of the key that signed it, 32, 48 or 64 bytes.
    """

    kind: str
    version: str
    measurement: bytes
    signer: bytes


@dataclass(frozen=True, slots=True)
class UnverifiedPlatformToken:
    """What the platform says, in the words of DEN0137, A7.2.3.2."""

    profile: Profile
    challenge: bytes
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    lifecycle: int
    hash_algorithm: str
    components: tuple[SoftwareComponent, ...]
    envelope: UnverifiedSign1

    @property
    def lifecycle_state(self) -> Lifecycle:
        """The state that ``lifecycle`` stands for."""
        return Lifecycle(self.lifecycle >> 8)


@dataclass(frozen=True, slots=True)
class UnverifiedRealmToken:
    """What the realm management monitor says, in the words of DEN0137, A7.2.3.1.

    Attributes:
        public_key: the claim's bytes, over which the platform's challenge is the hash.
        point: the same key as an uncompressed point of P-384, 97 bytes.
    """

    challenge: bytes
    personalization: bytes
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    hash_algorithm: str
    public_key: bytes
    public_key_hash_algorithm: str
    point: bytes
    envelope: UnverifiedSign1


@dataclass(frozen=True, slots=True)
class UnverifiedCcaToken:
    """Two well-formed tokens that anybody may have written, and that may have nothing to do with each other."""

    platform: UnverifiedPlatformToken
    realm: UnverifiedRealmToken


def parse(report: bytes) -> UnverifiedCcaToken:
    """The fields of ``report``, whose sender may be lying about all of them.

    Raises:
        AttestationError: EVIDENCE_FORMAT, REPORT_VERSION for a profile of another release; the detail names the field.
    """
    platform_bytes, realm_bytes = _collection(cbor.decode(report, "token"))
    platform = _platform(parse_sign1(platform_bytes, "token.platform", tagged=True))
    return UnverifiedCcaToken(platform, _realm(parse_sign1(realm_bytes, "token.realm", tagged=True), platform.profile))


def _collection(value: Value) -> tuple[bytes, bytes]:
    if not isinstance(value, Tagged) or value.tag not in (_COLLECTION_TAG, _WRAPPED_TAG):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "token: a collection under tag 399 or 907 expected")
    with ClaimMap(value.value, "token") as entries:
        found = [entries.take(key, f"entry {key}") for key in (_PLATFORM_TOKEN, _REALM_TOKEN)]
        if value.tag == _WRAPPED_TAG:
            found = [_unwrapped(entry, entries) for entry in found]
        platform, realm = found
        if not isinstance(platform, bytes) or not isinstance(realm, bytes):
            entries.refuse("two tokens as byte strings expected")
        return platform, realm


def _unwrapped(entry: Value, entries: ClaimMap) -> Value:
    if not isinstance(entry, tuple) or len(entry) != 2 or entry[0] != _EAT_CWT:
        entries.refuse(f"entries of the content format {_EAT_CWT} expected")
    return entry[1]


def _platform(envelope: UnverifiedSign1) -> UnverifiedPlatformToken:
    value = cbor.decode(envelope.payload, "token.platform", streamed=True)
    with ClaimMap(value, "token.platform") as claims:
        profile = _profile(claims.text(265, "profile"))
        algorithm = _hash_algorithm(claims, 2402, "hash algorithm")
        lifecycle = claims.unsigned(2395, "lifecycle", high=_LIFECYCLE_MAX)
        if lifecycle >> 8 not in {state.value for state in Lifecycle}:
            claims.refuse("lifecycle: a state that the format has expected")
        claims.optional_text(2400, "verification service")
        if profile is Profile.V2:
            _platform_additions(claims)
        return UnverifiedPlatformToken(
            profile=profile,
            challenge=claims.octets(10, "challenge", _DIGEST_SIZES),
            implementation_id=claims.octets(2396, "implementation id", (IMPLEMENTATION_ID_BYTES,)),
            instance_id=_instance_id(claims),
            config=claims.octets(2401, "config", range(4097)),
            lifecycle=lifecycle,
            hash_algorithm=algorithm,
            components=_components(claims, algorithm),
            envelope=envelope,
        )


def _profile(text: str) -> Profile:
    if text not in {profile.value for profile in Profile}:
        raise AttestationError(Reason.REPORT_VERSION, "token.platform.profile: one that this release knows expected")
    return Profile(text)


def _platform_additions(claims: ClaimMap) -> None:
    """What version 2 adds. Devices that the platform took in after boot have measurements of their own, which nobody
    here could judge: a token with such an extension (2404) is left with a claim too many, and refused."""
    if claims.unsigned(2394, "client id", high=_CLIENT_RMSD) != _CLIENT_RMSD:
        claims.refuse("client id: the realm management security domain expected")
    claims.optional_octets(2403, "manufacturing config", range(4097))


def _hash_algorithm(claims: ClaimMap, key: int, name: str) -> str:
    algorithm = claims.text(key, name)
    if algorithm not in HASH_BYTES:
        claims.refuse(f"{name}: one of {', '.join(HASH_BYTES)} expected")
    return algorithm


def _instance_id(claims: ClaimMap) -> bytes:
    instance = claims.octets(256, "instance id", (INSTANCE_ID_BYTES,))
    if instance[0] != _UEID_RANDOM:
        claims.refuse("instance id: a UEID of the random kind expected")
    return instance


def _components(claims: ClaimMap, algorithm: str) -> tuple[SoftwareComponent, ...]:
    return tuple(_component(item, algorithm) for item in claims.items(2399, "components", max_items=_MAX_COMPONENTS))


def _component(value: Value, algorithm: str) -> SoftwareComponent:
    with ClaimMap(value, "token.platform.components") as entry:
        if entry.optional_text(6, "hash algorithm") not in (None, algorithm):
            entry.refuse("hash algorithm: the platform's own expected")
        entry.optional_flag(7, "live activation")
        return SoftwareComponent(
            kind=entry.optional_text(1, "type") or "",
            version=entry.optional_text(4, "version") or "",
            measurement=entry.octets(2, "measurement", (HASH_BYTES[algorithm],)),
            signer=entry.octets(5, "signer", _DIGEST_SIZES),
        )


def _realm(envelope: UnverifiedSign1, profile: Profile) -> UnverifiedRealmToken:
    with ClaimMap(cbor.decode(envelope.payload, "token.realm", streamed=True), "token.realm") as claims:
        if claims.optional_text(265, "profile") != _REALM_PROFILES[profile]:
            claims.refuse("profile: the one that belongs to the platform's expected")
        if profile is Profile.V2:
            _realm_additions(claims)
        algorithm = _hash_algorithm(claims, 44236, "hash algorithm")
        public_key = claims.octets(44237, "public key", range(1, 257))
        return UnverifiedRealmToken(
            challenge=claims.octets(10, "challenge", (64,)),
            personalization=claims.octets(44235, "personalization value", (PERSONALIZATION_BYTES,)),
            initial_measurement=claims.octets(44238, "initial measurement", (HASH_BYTES[algorithm],)),
            extensible_measurements=_registers(claims, algorithm),
            hash_algorithm=algorithm,
            public_key=public_key,
            public_key_hash_algorithm=_hash_algorithm(claims, 44240, "public key hash algorithm"),
            point=_raw_point(public_key) if profile is Profile.LEGACY else _point(public_key),
            envelope=envelope,
        )


def _realm_additions(claims: ClaimMap) -> None:
    """What version 2 adds. Its claim of assigned devices (44257) is refused as a claim too many, as above; and so is
    the permission to exchange firmware under a running realm."""
    _instance_id(claims)
    if claims.take(44243, "MEC policy") not in (0, 1, "shared", "private"):
        claims.refuse("MEC policy: shared or private expected")
    if claims.take_any(44244) not in (None, 0):
        claims.refuse("LFA policy: no live firmware activation expected")


def _registers(claims: ClaimMap, algorithm: str) -> tuple[bytes, ...]:
    registers: list[bytes] = []
    for value in claims.items(44239, "extensible measurements", max_items=REALM_REGISTERS):
        if not isinstance(value, bytes) or len(value) != HASH_BYTES[algorithm]:
            claims.refuse("extensible measurements: of the realm's hash algorithm expected")
        registers.append(value)
    if len(registers) != REALM_REGISTERS:
        claims.refuse(f"extensible measurements: {REALM_REGISTERS} expected")
    return tuple(registers)


def _raw_point(point: bytes) -> bytes:
    if len(point) != 1 + 2 * _COORDINATE_BYTES or point[:1] != _UNCOMPRESSED:
        raise AttestationError(Reason.EVIDENCE_FORMAT, "token.realm.public_key: an uncompressed point expected")
    return point


def _point(cose_key: bytes) -> bytes:
    """The uncompressed point of a COSE_Key: EC2 on P-384, for ES384 if it says for what."""
    with ClaimMap(cbor.decode(cose_key, "token.realm.public_key"), "token.realm.public_key") as key:
        if key.take(1, "kty") != 2 or key.take(-1, "crv") != 2 or key.take_any(3) not in (None, -35):
            key.refuse("a key on P-384 for ES384 expected")
        x, y = (key.octets(label, name, (_COORDINATE_BYTES,)) for label, name in ((-2, "x"), (-3, "y")))
        return _UNCOMPRESSED + x + y
