"""A site whose data is sealed, and the key broker of its member: what its steward would set up, the broker as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from broker.store import STORE_KEY, KeyStore
from console import keyfiles
from console.documents import load_charter, load_plan
from tests.broker.test_service import serving
from tests.console.processes import ROOT, Consortium, made
from trusted.attestation.roots import Assurance
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.grant import GRANT_TYPE, Grant, Holder, verify_grant
from trusted.documents.schema import Validity
from trusted.hpke import SealingKey


@dataclass
class SealedSite:
    """One site's sealed data, its store, and a broker that serves while this is open."""

    consortium: Consortium
    site: str
    plan: str
    store: KeyStore
    broker: list[object] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.consortium / self.site / "data.sealed"

    @property
    def keys(self) -> Path:
        return self.consortium / f"keys-{self.site}"

    @property
    def data(self) -> list[object]:
        """Of ``worker join``."""
        return ["--data", self.file, *self.broker]

    def grant(self) -> None:
        """Let the plan's worker of this site have the key."""
        rules = load_charter(self.consortium / "charter.dsse.json")
        plan = load_plan(self.consortium / f"{self.plan}.dsse.json", rules)
        (kept,) = self.store.kept_keys()
        now = datetime.now(UTC).replace(microsecond=0)
        document = Grant(
            member=self.site, charter=rules.digest, plan=plan.digest, role=Holder.WORKER, key=kept.id,
            commitment=kept.commitment, holder=self.site, measurements=None, assurance=Assurance.NONE, releases=1,
            validity=Validity(now - timedelta(hours=1), now + timedelta(hours=1)), nonce=bytes(16),
        )  # fmt: skip
        key = keyfiles.load_ed25519(self.consortium / self.site / keyfiles.SIGNING_KEY, None)
        signed = sign(new_envelope(document.encode(), GRANT_TYPE), CryptoSigner(key)).encode()
        self.store.add_grant(verify_grant(signed, rules), rules, plan, now)


@contextmanager
def sealed_site(consortium: Consortium, site: str, plan: str) -> Iterator[SealedSite]:
    """Seal the data of ``site`` for ``plan`` by the command, and serve its key; nobody is granted it yet."""
    private = SealingKey.generate()
    folder = consortium / f"keys-{site}"
    with KeyStore.create(folder, member=site, public=private.public) as store:
        keyfiles.write_sealing_key(folder / STORE_KEY, private, None, force=False)
        sealed = SealedSite(consortium, site, plan, store)
        data = ROOT / "data" / "rand_hie" / f"{site}.csv"
        papers = ["--plan", consortium / f"{plan}.dsse.json", "--member", site, "--keys", folder]
        made("data", "seal", data, *papers, "--out", sealed.file)
        with serving(store, private) as broker:
            (folder / "ca.pem").write_bytes(broker.ca_pem or b"")
            sealed.broker = ["--key-broker", broker.target, "--key-broker-ca", folder / "ca.pem"]
            yield sealed
