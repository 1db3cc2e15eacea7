"""What to do about a refusal, by its reason. Trust zone: the member's own machine.

The text of a refusal says what was wrong; the hint says what to do next; docs/runbook.md has the long answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from trusted.errors import Reason

_BY_FAMILY: Mapping[int, str] = MappingProxyType(
    {
        1: "Ask whoever made the file or message for a fresh one; do not edit documents by hand.",
        2: "Run `cloister attest explain` on the evidence, and compare with the charter's policy.",
        3: "Correct what the message names. To change a charter or plan that was signed already, make a new one.",
        4: "Connect again. If it repeats, somebody between the two sides alters or replays messages.",
        5: "Fetch the blob again. If it repeats, the host altered it: try another host and report this one.",
        6: "Look at `cloister run watch`; the round itself says who counts and why not.",
        7: "Check the address of the coordinator and its log.",
        8: "Try the app on this site's data without Cloister first; its own words are in the site's log.",
        9: "Run `cloister doctor` on this machine.",
        10: "Stop using this host until you know why: it, or whoever runs it, may have tried to change the past.",
        11: "Look at the member's broker: `cloister keys list` shows keys and grants, `cloister keys log` who asked.",
    }
)

_BY_REASON: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.MALFORMED: "The file is damaged or is something else. Ask its maker for a fresh copy.",
        Reason.TOO_LARGE: "The file is larger than any valid one. Check that the right file was given.",
        Reason.NOT_CANONICAL: "The file was reformatted or edited. Use the one that `cloister` wrote.",
        Reason.UNKNOWN_FIELD: "The document was made for another version of Cloister. Use the same version everywhere.",
        Reason.MISSING_FIELD: "The document was made for another version of Cloister. Use the same version everywhere.",
        Reason.TRUST_ANCHOR: "The charter does not name this root. Add it in a new charter version, if all agree.",
        Reason.CERT_EXPIRED: "Fetch the platform's certificates again, and check this machine's clock.",
        Reason.CERT_NOT_YET_VALID: "Check this machine's clock.",
        Reason.CRL_STALE: "Bring a fresh revocation list of the vendor to the machine that attests.",
        Reason.MEASUREMENT: "What runs there is not in the charter. Measure it with `cloister measure` and compare.",
        Reason.DEBUG: "Start the machine without debug mode: its host can read all of its memory.",
        Reason.TCB_FLOOR: "Update the firmware of the machine that attests.",
        Reason.POLICY_UNSET: "Give the knob a value, or write out the skip with a reason.",
        Reason.ASSURANCE: "Less stands behind it than the policy asks for; docs/platforms.md has the four levels.",
        Reason.DOCUMENT_SIGNATURE: "Document or signature were changed after signing. Ask for the original file.",
        Reason.THRESHOLD: "Collect the missing signatures: pass the file to the other members for `sign`.",
        Reason.DOCUMENT_EXPIRED: "Make a new document and have it signed; check this machine's clock first.",
        Reason.DOCUMENT_NOT_YET_VALID: "Wait until the document becomes valid; check this machine's clock first.",
        Reason.UNKNOWN_MEMBER: "Use an id that `cloister charter show` lists, or the key of a member of this charter.",
        Reason.DUPLICATE_KEY: "Each member makes its own keys with `cloister member keygen`; no key may be shared.",
        Reason.DOCUMENT_DIGEST: "It belongs to another charter or version. Give the files that belong together.",
        Reason.PAYLOAD_TYPE: "This is another kind of document. Check which file was given.",
        Reason.SOFTWARE_ROOT_IN_PRODUCTION: "Remove the software root, or use profile development and made-up data.",
        Reason.SITE_REFUSES: "The site's own policy says no. Its owner may sign a new one: `cloister site-policy new`.",
        Reason.CREDENTIAL: "Make a new credential under this charter: `cloister member credential`.",
        Reason.DATA_CONTRACT: "Run `cloister data check`: it shows what the plan asks for and what is there.",
        Reason.DATA_VALUES: "Run `cloister data check` on the steward's own machine: it shows rows and values.",
        Reason.DATA_FILE: "See whose it is with `cloister data show`, and copy it again from the steward's machine.",
        Reason.DATA_SEALED: "Copy the file again from the steward's machine; if it repeats, somebody alters it.",
        Reason.DATA_KEY: "Give --key-broker, and grant the key to this plan's worker.",
        Reason.DATA_PROOF: "Take the commitment from the run's log; where rows expire, give `data prove --at`.",
        Reason.WRONG_CHARTER: "Both sides must use the same charter. Compare digests with `cloister charter show`.",
        Reason.WRONG_PLAN: "Both sides must use the same plan. Compare digests with `cloister plan show`.",
        Reason.INITIAL_MODEL: "Give the initial model and the layout that the plan was made from.",
        Reason.NON_FINITE: "The tensors hold NaN or infinity. Check the model, or lower the learning rate.",
        Reason.SCORING_CLIENT: "Ask as a recipient of the plan (`cloister plan show`), with that member's signing key.",
        Reason.SCORING_RATE: "Wait a minute; the limit of one client stands in `cloister model attest`.",
        Reason.SCORING_SPENT: "The service's operator starts it again; that takes another release from the grant.",
        Reason.SCORING_DECLARATION: "Declare inputs and outputs in the app's pyproject.toml: docs/serving.md.",
        Reason.SCORING_RELEASE: "Compare the digest with the run's report; ask the operator which release was started.",
        Reason.GRANT_REVOKED: "The member that granted the key took it back. A new grant brings the service back.",
        Reason.GRANT_EXPIRED: "The grant's time is over. A new grant brings the service back.",
        Reason.NO_AGGREGATOR: "Start an aggregator for this plan: `cloister aggregator`.",
        Reason.STORE_AWAY: "Check that the host's database and blob store run and let it in.",
        Reason.HOST_SHORT: "Free what the host's machine is short of; docs/operations.md shows how to see it.",
        Reason.STORE_DAMAGED: "Put back a backup of the host's state folder: docs/operations.md, Backup.",
        Reason.KEY_STORE: "Give the folder that `cloister keys init` made, whole, and its own passphrase.",
        Reason.UNREACHABLE: "Check the address, the proxy and that the coordinator runs.",
        Reason.BUNDLE_DIGEST: "The app is not the one in the plan. Use the bundle that `cloister plan new` wrote.",
        Reason.APP_DEPENDENCY: "Run `cloister app check` on the app: it says what the image has of each requirement.",
        Reason.APP_MEMORY: "Train on smaller batches, or give the app more: `worker join --app-memory-mib`.",
        Reason.APP_LOG: "Give the sealing-key.pem of the member whose worker wrote it.",
        Reason.TEE_DEVICE_MISSING: "Use a confidential machine, or the software TEE with a development charter.",
    }
)


def hint_for(reason: Reason) -> str:
    """One sentence that says what to do, for every reason."""
    return _BY_REASON.get(reason, _BY_FAMILY[reason.value // 100])


def runbook_for(code: str) -> str:
    """Where the long answer stands: ``ATT-214`` gives ``docs/runbook.md#att-214``."""
    return f"docs/runbook.md#{code.lower()}"
