"""What a run has paid of its privacy budget, and the noise that it paid for. Trust zone: aggregator TEE. No I/O.

Rules: 1. A round is paid for when it closes, before anything of it leaves: the ``spent`` leaf stands in the log before
the checkpoint without which nothing is committed. 2. Whatever becomes of it, it stays paid: a round that closes again
without a contribution that got lost, or is tried again, is paid for again. 3. Nothing closes that the budget does not
pay for, and no round opens. 4. Noise follows from a secret of the run, the round, and what the round counts: an
aggregator that goes on from the same closed round draws the same noise, and whoever gets a round counted otherwise gets
other noise: two results never differ by somebody's contribution alone. The secret is not the run's seed, which becomes
public, nor the recovery key, which workers know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from secrets import token_bytes

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.enclave.fold import Contribution, MemberNoise
from coordinator.enclave.privacy.accountant import Accountant
from coordinator.enclave.record import SECRET_BYTES, Paid
from trusted.documents.terms import Budget, DpSgd, MemberClipping, Privacy
from trusted.ledger.leaves import Spent
from trusted.noise import KEY_BYTES, NoiseKey
from trusted.wire import pack, sha256


@dataclass(slots=True)
class Spending:
    """The budget of one run with a privacy mechanism, and what it has paid."""

    terms: MemberClipping | DpSgd
    budget: Budget
    plan: bytes
    paid: Paid
    accountant: Accountant = field(init=False)

    def __post_init__(self) -> None:
        self.accountant = Accountant(self.terms, self.budget.delta)

    @classmethod
    def begin(cls, privacy: Privacy, plan: bytes) -> Spending | None:
        """Of a run that begins under the plan with this digest; None without a mechanism."""
        return cls.resume(privacy, plan, Paid(0, token_bytes(SECRET_BYTES)))

    @classmethod
    def resume(cls, privacy: Privacy, plan: bytes, paid: Paid | None) -> Spending | None:
        """Of a run that goes on.

        Raises:
            RuntimeError: its record does not say what was paid; no aggregator of this plan wrote that.
        """
        if privacy.terms is None or privacy.budget is None:
            return None
        if paid is None:
            raise RuntimeError("a state under a privacy mechanism says what was paid")
        return cls(privacy.terms, privacy.budget, plan, paid)

    @property
    def affords_next(self) -> bool:
        """Whether one round more may close. Takes seconds where nobody has asked before."""
        return self.accountant.epsilon(self.paid.rounds + 1) <= self.budget.epsilon

    def foresee(self) -> None:
        """Have what will be asked when the next round has closed computed now, beside the run's own thread."""
        self.accountant.epsilon(self.paid.rounds + 2)

    def pay(self) -> None:
        """For the round that is about to close.

        Raises:
            RuntimeError: the budget does not suffice; the caller has not asked.
        """
        if not self.affords_next:
            raise RuntimeError("privacy: a round closes that the budget does not pay for")
        self.paid = Paid(self.paid.rounds + 1, self.paid.secret)

    @property
    def epsilon(self) -> float:
        """What is spent in all."""
        return self.accountant.epsilon(self.paid.rounds)

    def leaf(self) -> Spent:
        """What the log says of it: upper bounds, rounded up."""
        amounts = {"delta": self.budget.delta, "epsilon": self.epsilon}
        texts = {name: f"{amount:.9f}" if name == "epsilon" else f"{amount:.6e}" for name, amount in amounts.items()}
        return Spent(
            f"{_NAMES[type(self.terms)]}, unit {self.terms.unit.value}",
            tuple(sorted((texts | {"rounds": str(self.paid.rounds)}).items())),
        )

    def noise(self, number: int, counted: Iterable[Contribution]) -> MemberNoise | None:
        """The noise on the sum of round ``number``; None where sites add their own (DP-SGD)."""
        if not isinstance(self.terms, MemberClipping):
            return None
        named = sorted((entry.member.encode(), entry.prefix_sha256 or b"") for entry in counted)
        counts = sha256(pack("cloister/noise-counted/v1", *(part for pair in named for part in pair)))
        info = pack("cloister/noise-key/v1", self.plan, number.to_bytes(4, "big"), counts)
        key = NoiseKey(HKDF(SHA256(), KEY_BYTES, None, info).derive(self.paid.secret))
        return MemberNoise(self.terms.clip_norm, self.terms.noise_multiplier, key)


_NAMES = {MemberClipping: "member-clipping", DpSgd: "dp-sgd"}
