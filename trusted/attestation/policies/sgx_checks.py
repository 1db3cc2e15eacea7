"""One check for each knob of SGX, as data. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trusted.attestation.formats.dcap import EnclaveBody
from trusted.attestation.intel_claims import SgxClaims
from trusted.attestation.policies.check import Finding, KnobCheck, Subject, finding, measurements, on_off, permitted
from trusted.attestation.policies.intel_checks import PLATFORM_CHECKS, at_least, equal, flags, listed
from trusted.attestation.policies.rules import Permission, PlatformRule
from trusted.errors import Reason


def _enclave(subject: Subject) -> EnclaveBody:
    if not isinstance(subject.claims, SgxClaims):
        raise TypeError("SGX claims expected")
    return subject.claims.enclave


def _mr_signers(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return listed(_enclave(subject).mr_signer, allowed)


def _isv_prod_id(subject: Subject, expected: int) -> Finding:
    actual = _enclave(subject).isv_prod_id
    return finding(actual == expected, str(expected), str(actual))


def _minimum_isv_svn(subject: Subject, minimum: int) -> Finding:
    return at_least(_enclave(subject).isv_svn, minimum)


def _isv_ext_prod_id(subject: Subject, expected: bytes) -> Finding:
    return equal(_enclave(subject).isv_ext_prod_id, expected)


def _isv_family_id(subject: Subject, expected: bytes) -> Finding:
    return equal(_enclave(subject).isv_family_id, expected)


def _config_id(subject: Subject, expected: bytes) -> Finding:
    return equal(_enclave(subject).config_id, expected)


def _minimum_config_svn(subject: Subject, minimum: int) -> Finding:
    return at_least(_enclave(subject).config_svn, minimum)


def _debug(subject: Subject, permission: Permission) -> Finding:
    debug = "debug" in _enclave(subject).flags
    return permitted(permission, debug, "off", on_off(debug))


def _attributes(subject: Subject, rule: PlatformRule) -> Finding:
    return flags(_enclave(subject).flags, rule)


def _xfrm(subject: Subject, allowed: tuple[bytes, ...]) -> Finding:
    return listed(_enclave(subject).attributes_raw[8:], allowed)


def _misc_select(subject: Subject, expected: int) -> Finding:
    actual = _enclave(subject).misc_select
    return finding(actual == expected, f"{expected:#x}", f"{actual:#x}")


_RUN_RELEASE = "run the enclave that was released, or have the members sign a new measurement"
_LAUNCH_AGAIN = "launch the enclave again with the settings that the charter asks for"

# In the order of sgx.KNOBS.
KNOB_CHECKS: Mapping[str, KnobCheck] = MappingProxyType(
    {
        "measurements": KnobCheck(measurements, Reason.MEASUREMENT, _RUN_RELEASE),
        "mr_signers": KnobCheck(_mr_signers, Reason.AUTHOR_KEY, _RUN_RELEASE),
        "isv_prod_id": KnobCheck(_isv_prod_id, Reason.IMAGE_ID, _RUN_RELEASE),
        "minimum_isv_svn": KnobCheck(_minimum_isv_svn, Reason.GUEST_SVN, "run a newer release of the enclave"),
        "isv_ext_prod_id": KnobCheck(_isv_ext_prod_id, Reason.IMAGE_ID, _RUN_RELEASE),
        "isv_family_id": KnobCheck(_isv_family_id, Reason.IMAGE_ID, _RUN_RELEASE),
        "config_id": KnobCheck(_config_id, Reason.HOST_DATA, _LAUNCH_AGAIN),
        "minimum_config_svn": KnobCheck(_minimum_config_svn, Reason.GUEST_SVN, _LAUNCH_AGAIN),
        "debug": KnobCheck(_debug, Reason.DEBUG, "sign and launch the enclave without the debug attribute"),
        "attributes": KnobCheck(_attributes, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "xfrm": KnobCheck(_xfrm, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        "misc_select": KnobCheck(_misc_select, Reason.GUEST_POLICY, _LAUNCH_AGAIN),
        **PLATFORM_CHECKS,
    }
)
