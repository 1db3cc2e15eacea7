"""What a signer reads says everything that matters."""

from __future__ import annotations

from tests.documents import consortium as c
from trusted.documents.explain import NO_HARDWARE, explain_charter, explain_plan, explain_site_policy
from trusted.documents.explain_aggregation import explain_aggregation
from trusted.documents.explain_exchange import explain_exchange
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.site_policy import SitePolicy
from trusted.documents.terms import Aggregation, Cohort, Exchange
from trusted.encoding import Encoding
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


def test_what_the_data_must_be_is_said_in_words() -> None:
    dataset = {
        "min_rows": 50,
        "columns": [
            "visits",
            {"name": "sbp", "type": "number", "unit": "mm[Hg]", "low": 40, "high": 300, "missing": "allow"},
            {"name": "sex", "type": "category", "values": ["f", "m"]},
        ],
        "consent": {"column": "consent", "value": "yes"},
        "expires": {"column": "until"},
    }
    text = "\n".join(explain_plan(c.plan(CHARTER, c.plan_json(CHARTER, dataset=dataset)).document, CHARTER.document))
    for said in (
        "the columns visits, sbp, sex; at least 50 row(s)",
        "Column sbp: numbers in mm[Hg], at least 40, at most 300; may be empty.",
        "Column sex: one of the values f, m; never empty.",
        'Only rows whose column consent is exactly "yes" are used.',
        "Rows whose time in column until has passed",
        "The app does not see consent, until",
        "committed to in the run's ledger",
    ):
        assert said in text


def exchanging(**exchange: object) -> str:
    """What a signer reads of the plan with these terms of exchange."""
    terms = {"model": "float32", "update": "float32", "tensors": [], **exchange}
    return "\n".join(explain_plan(c.plan(CHARTER, c.plan_json(CHARTER, exchange=terms)).document, CHARTER.document))


def test_a_plan_that_rounds_nothing_says_so() -> None:
    size = f"{PLAN.document.layout.size_bytes} bytes"
    said = f"Each round {size} travel to each site (float32) and {size} back (float32)"
    for text in ("\n".join(explain_plan(PLAN.document, CHARTER.document)), exchanging()):
        assert f"{said}: the whole model in full, and nothing is rounded." in text
        assert "is rounded to" not in text
        assert "travel once" not in text


def test_what_an_app_is_told_and_what_a_double_loses_is_said() -> None:
    document = c.changed(c.plan_json(CHARTER), "app.train_config", {"lr": 0.5})
    document = c.changed(c.changed(document, "app.evaluate_config", {"full": True}), "model.layout.0.dtype", "float64")
    plan = c.plan(CHARTER, document).document
    text = "\n".join(explain_plan(plan, CHARTER.document))
    assert "Every message to train says lr = 0.5." in text
    assert "Every message to evaluate says full = True." in text
    assert f"{plan.layout.tensors[0].name}: float64 in the app, float32 on the way" in text
    assert "nothing is rounded" not in text


def test_what_an_app_is_told_otherwise_later_is_said() -> None:
    document = c.changed(c.plan_json(CHARTER), "app.train_config", {"lr": 0.5})
    document = c.changed(document, "app.changes", [{"from_round": 2, "train_config": {"lr": 0.1}}])
    text = "\n".join(explain_plan(c.plan(CHARTER, document).document, CHARTER.document))
    assert "From round 1 on, every message to train says lr = 0.5." in text
    assert "From round 2 on, messages to train say lr = 0.1." in text


def test_an_encoding_is_told_with_its_size_and_its_error() -> None:
    text = exchanging(model="bfloat16", update="int8")
    elements = PLAN.document.layout.elements
    assert f"{2 * elements} bytes travel to each site (bfloat16)" in text
    assert "1/2 of that down" in text
    assert "The round's model is rounded to bfloat16: each number is off by at most 1/256 of itself" in text
    assert "An update is rounded to int8: each number is off by at most 1/254 of the largest in its block" in text
    assert "(measured on Adam updates: 0.35 to 0.8 % of the whole)" in text
    assert "The aggregator's own model, which is released, stays in float32." in text
    assert "nothing is rounded" not in text
    assert "An update is rounded" not in exchanging(model="bfloat16")


def test_an_int8_update_as_large_as_float32_is_still_told_as_rounded() -> None:
    layout = Layout((TensorSpec("w", Dtype.FLOAT32, (257,)),))
    assert Encoding.INT8.size_bytes(257) == layout.size_bytes
    told = "\n".join(explain_exchange(Exchange(update=Encoding.INT8), layout))
    assert "nothing is rounded" not in told
    assert "An update is rounded to int8" in told


def test_an_encoding_that_makes_a_small_update_no_smaller_is_not_praised() -> None:
    assert PLAN.document.layout.size_bytes < Encoding.INT8.size_bytes(1)
    assert "no less down, no less up" in exchanging(update="int8")


def test_tensors_that_stay_are_told_as_such() -> None:
    first, *others = PLAN.document.layout.tensors
    text = exchanging(tensors=[first.name])
    assert f"Only 1 of {1 + len(others)} tensors are trained and exchanged: {first.name}." in text
    stay = sum(tensor.elements for tensor in others)
    assert f"The other {len(others)} ({stay} numbers) travel once, sealed" in text
    assert "and stay as it has them" in text
    assert f"Each round {4 * first.elements} bytes travel" in text
    assert "nothing is rounded" not in text


def test_counters_that_would_be_rounded_are_named() -> None:
    counters = [tensor.name for tensor in PLAN.document.layout.tensors if tensor.dtype is Dtype.INT64]
    said = f"Whole numbers are rounded in the same way: {', '.join(counters)}."
    assert counters
    assert said in exchanging(update="bfloat16")
    assert "Whole numbers" not in exchanging()
    others = [tensor.name for tensor in PLAN.document.layout.tensors if tensor.name not in counters]
    assert "Whole numbers" not in exchanging(update="bfloat16", tensors=others)


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


def folding(**aggregation: object) -> str:
    """What a signer reads of a plan of ten members that folds so."""
    members = [f"site-{place}" for place in range(10)]
    terms = Aggregation.read({"max_weight": 1000} | aggregation)
    return "\n".join(explain_aggregation(terms, Cohort(tuple(members), 8, 10)))


def test_a_mean_is_told_to_resist_nothing() -> None:
    text = "\n".join(explain_plan(PLAN.document, CHARTER.document))
    assert "Aggregation: weighted-mean; no site weighs more than 1000." in text
    assert "It resists nothing" in text
    assert "FedProx" not in text


def test_every_rule_is_told_by_what_it_does_and_what_it_stands() -> None:
    others = {
        "median": (folding(rule="median"), "fewer than half of them are false"),
        "trimmed": (folding(rule="trimmed-mean", trim=2), "2 largest and 2 smallest of 8 or more updates"),
        "krum": (folding(rule="krum", byzantine=2), "against up to 2 false ones of 8 or more; what all other sites"),
        "multi": (folding(rule="multi-krum", byzantine=1, kept=4), "The 4 updates that lie closest"),
        "geometric": (folding(rule="geometric-median", iterations=50, smoothing=1e-6), "50 steps of Weiszfeld's"),
    }
    for name, (text, words) in others.items():
        assert words in text
        assert "finds no careful forgery" in text
        assert "resists nothing" not in text
        assert ("no site weighs more than 1000" in text) == (name == "multi")
        assert ("every site counts alike" in text) == (name != "multi")


def test_a_server_optimizer_and_a_proximal_term_are_told_with_their_numbers() -> None:
    server = {"optimizer": "adam", "learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}
    text = folding(rule="median", server=server, proximal_mu=0.25)
    assert "by FedAdam in the aggregator (learning_rate 0.1, beta_1 0.9, beta_2 0.99, tau 0.001)" in text
    assert "2 time(s) the size of the model, lies sealed at the host" in text
    assert "(FedProx, mu = 0.25); whether it does is the app's own matter" in text
