"""One error tree with numbered reasons (docs/protocol.md §10). Trust zone: every TEE.

A refusal names exactly one :class:`Reason`. The number is what crosses a line: a peer learns it and nothing else.
The text of an error names the field and the rule, never the value, because values may be secret.
"""

from __future__ import annotations

from enum import IntEnum, unique

_FAMILIES = dict(enumerate(("WIR", "ATT", "DOC", "CHN", "BLB", "RND", "RUN", "APP", "TEE", "LOG", "KEY"), 1))


@unique
class Reason(IntEnum):
    """Why something was refused. Numbers are stable: they stand in evidence, events and docs/runbook.md."""

    # 1xx: bytes that do not have the form they must have
    MALFORMED = 101
    TOO_LARGE = 102
    NOT_CANONICAL = 104
    UNKNOWN_FIELD = 105
    MISSING_FIELD = 106
    WRONG_TYPE = 107
    UNSUPPORTED_VERSION = 108

    # 2xx: evidence, its endorsements and its appraisal
    EVIDENCE_FORMAT = 201
    RESERVED_NOT_ZERO = 202
    TRUST_ANCHOR = 203
    CHAIN = 204
    CERT_EXPIRED = 205
    CERT_NOT_YET_VALID = 206
    REVOKED = 207
    CRL_STALE = 208
    EVIDENCE_SIGNATURE = 209
    KEY_BINDING = 210
    TCB_BINDING = 211
    CHIP_BINDING = 212
    REPORT_DATA = 213
    MEASUREMENT = 214
    DEBUG = 215
    MIGRATABLE = 216
    VMPL = 217
    TCB_FLOOR = 218
    HARDWARE_NOT_ALLOWED = 219
    POLICY_UNSET = 220
    HOST_DATA = 221
    GUEST_POLICY = 222
    PLATFORM_INFO = 223
    PROVISIONAL_FIRMWARE = 224
    REPORT_VERSION = 225
    AUTHOR_KEY = 226
    ID_KEY = 227
    GUEST_SVN = 228
    MITIGATION = 229
    ASSURANCE = 230
    PRODUCT = 231
    FIRMWARE_VERSION = 232
    IMAGE_ID = 233
    TCB_STATUS = 234
    ADVISORY = 235
    RUNTIME_MEASUREMENT = 236
    EVIDENCE_AGE = 237
    COLLATERAL_ROLLBACK = 238
    DEVICE_COUNT = 239
    DEVICE_DUPLICATE = 240

    # 3xx: documents that members sign
    DOCUMENT_SIGNATURE = 301
    THRESHOLD = 302
    DOCUMENT_EXPIRED = 303
    DOCUMENT_NOT_YET_VALID = 304
    UNKNOWN_MEMBER = 305
    DUPLICATE_KEY = 306
    DOCUMENT_DIGEST = 307
    PAYLOAD_TYPE = 308
    DOCUMENT_RULE = 309
    SOFTWARE_ROOT_IN_PRODUCTION = 310
    SITE_REFUSES = 311
    CREDENTIAL = 312

    # 4xx: the attested channel
    UNEXPECTED_MESSAGE = 401
    NONCE = 402
    WRONG_CHARTER = 403
    WRONG_PLAN = 404
    OPEN_FAILED = 405
    RECORD = 406
    LEASE_EXPIRED = 407
    PEER_REFUSED = 409
    HANDSHAKE_TIMEOUT = 410
    SUPERSEDED = 411
    PEER_SIGNATURE = 412
    CLOCK_JUMPED = 413

    # 5xx: sealed blobs
    BLOB_HEADER = 501
    BLOB_OPEN = 502
    BLOB_TRUNCATED = 503
    BLOB_TOO_LONG = 504
    BLOB_LAYOUT = 505
    BLOB_ROUND = 506
    BLOB_SENDER = 507
    BLOB_PLAN = 508
    BLOB_KIND = 509
    BLOB_SIGNATURE = 510
    NON_FINITE = 511

    # 6xx: rounds
    DUPLICATE = 601
    NOT_IN_COHORT = 602
    ROUND_CLOSED = 603
    COHORT_MINIMUM = 604
    WEIGHT = 605
    ROUND_STATE = 606
    ROUND_DEADLINE = 607
    METRIC = 608
    INITIAL_MODEL = 609
    MEMBER_SILENT = 610
    SITE_PAUSED = 611
    SITE_WITHDRAWS = 612
    SITE_LEAVES = 613
    BUDGET_EXHAUSTED = 620
    UPDATE_NORM = 621
    PRIVACY_REPORT = 622
    TABLES_FORM = 630
    TABLES_CONTRADICT = 631
    EVALUATION_STATE = 632
    MODEL_CARD = 633
    AUDIT_INITIAL = 634
    AUDIT_SHADOWS = 635
    MESSAGE_FORM = 640
    MESSAGE_SIZE = 641
    SERVER_APP_FAILED = 642
    SERVER_APP_TURN = 643
    SERVER_APP_MODEL = 644
    SERVER_APP_LOST = 645
    SERVER_APP_LIMIT = 646

    # 7xx: the coordinator host, which nobody trusts; these help people, and protect nobody
    NO_AGGREGATOR = 701
    RUN_UNKNOWN = 702
    ORDER_REPLAYED = 704
    QUOTA = 705
    RUN_STATE = 706
    UNREACHABLE = 707
    BLOB_OFFSET = 708
    BLOB_UNKNOWN = 709
    AGGREGATOR_TAKEN = 710
    STORE_AWAY = 711
    HOST_SHORT = 720
    STORE_DAMAGED = 721

    # 8xx: the member's app and data, inside the worker
    BUNDLE_DIGEST = 801
    BUNDLE_MALFORMED = 802
    APP_FAILED = 803
    APP_TIMEOUT = 804
    APP_REPLY = 805
    DATA_CONTRACT = 806
    APP_DEPENDENCY = 807
    APP_MEMORY = 808
    APP_LOG = 809
    APP_ROWS = 815
    APP_NOT_PRIVATE = 816
    DATA_VALUES = 817
    DATA_FILE = 818
    DATA_SEALED = 819
    DATA_KEY = 820
    DATA_PROOF = 821

    # 9xx: what a TEE gets from its machine: evidence, a start, a memory
    TEE_DEVICE_MISSING = 901
    TEE_REPORT = 902
    LAUNCH_MEASUREMENT = 903
    LAUNCH_FAILED = 904
    TEE_NO_SEALING = 905
    SEALED_STATE = 906

    # 10xx: the witnessed log, and the state that it stands for
    LEDGER_FORK = 1001
    LEDGER_SHRINKS = 1002
    LEDGER_PROOF = 1003
    LEDGER_SIGNATURE = 1004
    LEDGER_EPOCH = 1005
    LEDGER_QUORUM = 1006
    LEDGER_LEAF = 1007
    STATE_ROLLBACK = 1011
    STATE_MISSING = 1012

    # 11xx: content keys that a member's broker holds, and the grants under which it hands them out
    KEY_UNKNOWN = 1101
    KEY_RETIRED = 1102
    NOT_GRANTED = 1103
    GRANT_EXPIRED = 1104
    GRANT_NOT_YET_VALID = 1105
    GRANT_REVOKED = 1106
    GRANT_EXHAUSTED = 1107
    GRANT_HOLDER = 1108
    NOT_A_RECIPIENT = 1109
    KEY_COMMITMENT = 1110
    KEY_STORE = 1111

    # 112x: asking an attested recipient runtime for scores
    SCORING_CLIENT = 1120
    SCORING_REQUEST = 1121
    SCORING_ROWS = 1122
    SCORING_RATE = 1123
    SCORING_SPENT = 1124
    SCORING_ANSWER = 1125
    SCORING_ENDED = 1126
    SCORING_DECLARATION = 1127
    SCORING_RELEASE = 1128
    SCORING_DRAINS = 1129

    @property
    def code(self) -> str:
        """``ATT-214`` for ``MEASUREMENT``: what people read, and the anchor in docs/runbook.md."""
        return f"{_FAMILIES[self.value // 100]}-{self.value}"


class ProtocolError(Exception):
    """Something was refused for one numbered reason. ``detail`` names a field and a rule, never a value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.code} {reason.name}: {detail}")
        self.reason = reason
        self.detail = detail


class WireError(ProtocolError):
    """Bytes that are not what docs/protocol.md says they must be."""


class AttestationError(ProtocolError):
    """Evidence that proves too little, or proves the wrong thing."""


class DocumentError(ProtocolError):
    """A charter, plan, site policy or credential that does not hold."""


class ChannelError(ProtocolError):
    """A handshake or a record that breaks the attested channel. The session is over."""


class BlobError(ProtocolError):
    """A sealed blob that does not open, or is not the one that was announced."""


class RoundError(ProtocolError):
    """A contribution or an act that the round does not allow."""


class RunError(ProtocolError):
    """What the coordinator host refuses: it protects its resources, nobody's data."""


class AppError(ProtocolError):
    """The member's app or data cannot be used as the plan says. Its own words stay at the site."""


class TeeError(ProtocolError):
    """This machine cannot give evidence, or a sealing key. It is an error, never a mode."""


class StateError(ProtocolError):
    """What an enclave kept for its next start is not what that start finds."""


class KeyReleaseError(ProtocolError):
    """A content key that is not handed out, or one that is not the key that was granted."""


class LedgerError(ProtocolError):
    """The log is not what it must be, or the state offered is not the one it stands for."""
