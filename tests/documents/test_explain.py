"""What a signer reads says everything that matters."""

from __future__ import annotations

from tests.documents import consortium as c
from trusted.documents.explain import NO_HARDWARE, explain_charter, explain_plan, explain_site_policy
from trusted.documents.site_policy import SitePolicy
from trusted.wire import encode_json

CHARTER = c.charter()
PLAN = c.plan(CHARTER)


def test_a_plan_names_who_trains_what_and_who_gets_it() -> None:
    text = "\n".join(explain_plan(PLAN.document, CHARTER.document))
    for member in c.MEMBERS:
        assert f"({member}) trains on its own data" in text
    assert "the columns age, visits; at least 100 row(s)" in text
    assert "5 round(s). Each samples 3 of 3 members, and counts only with 3 or more" in text
    assert "Hospital A (hospital-a) receives the final model" in text
    assert "Metric loss becomes public as a mean over at least 3 sites, rounded to 3" in text
    assert 'accepted because "all recipients are members"' in text
    assert c.BUNDLE.hex() in text


def test_software_is_never_called_protection() -> None:
    assert NO_HARDWARE in explain_plan(PLAN.document, CHARTER.document)
    assert NO_HARDWARE in explain_charter(CHARTER.document)


def test_hardware_is_not_called_software() -> None:
    charter = c.charter(c.production_json()).document
    assert NO_HARDWARE not in explain_charter(charter)
    assert any("the vendor's own" in sentence for sentence in explain_charter(charter))


def test_the_devices_that_a_role_must_hold_stand_there_with_their_rules() -> None:
    from trusted.attestation.policies.tpm import strict_tpm_policy

    knobs = strict_tpm_policy([b"\x11" * 32], selection=[11], keys=[b"\x22" * 32], assurance="none").to_json()
    plain = explain_charter(CHARTER.document)
    assert not any("beside its TEE" in sentence for sentence in plain)
    document = c.changed(c.charter_json(), "worker.devices", {"tpm": {"count": {"min": 1, "max": 1}, **knobs}})
    told = explain_charter(c.charter(document).document)
    assert "The worker must hold 1 tpm beside its TEE, answering the same challenge." in told
    assert f"The worker's tpm may measure {'11' * 32}." in told
    for knob in knobs:
        assert knob == "measurements" or any(f"the worker's tpm: {knob} (" in sentence for sentence in told)
    assert [sentence for sentence in told if "tpm" not in sentence] == plain


def test_every_skipped_knob_stands_there_with_its_reason() -> None:
    document = c.changed(c.charter_json(), "worker.snp.smt", {"skip": "an old machine"})
    document = c.changed(document, "aggregator.snp.vmpl", {"skip": "a paravisor"})
    sentences = explain_charter(c.charter(document).document)
    for role, knob, why in (("worker", "smt", "an old machine"), ("aggregator", "vmpl", "a paravisor")):
        lead, end = f"NOT CHECKED for the {role}: {knob} (", f'because "{why}".'
        assert any(sentence.startswith(lead) and sentence.endswith(end) for sentence in sentences)
    told = {sentence.split(": ")[1].split(" ")[0] for sentence in sentences if sentence.startswith("NOT CHECKED")}
    assert told == {
        knob
        for role in ("aggregator", "worker")
        for knob, value in document[role]["snp"].items()
        if "skip" in str(value)
    }


def test_every_knob_and_measurement_is_told() -> None:
    sentences = explain_charter(CHARTER.document)
    for role in ("aggregator", "worker"):
        for knob in CHARTER.document.worker.to_json()["snp"]:
            if knob != "measurements":
                assert any(role in sentence and knob in sentence for sentence in sentences), knob
        assert any(role in sentence and c.MEASUREMENT.hex() in sentence for sentence in sentences)


def test_an_empty_site_policy_says_that_it_allows_nothing() -> None:
    document = c.site_policy_json(CHARTER, PLAN, plans=[], bundles=[], columns=[])
    sentences = explain_site_policy(SitePolicy.parse(encode_json(document)))
    assert "May run no plan." in sentences
    assert "May read the columns: none." in sentences
