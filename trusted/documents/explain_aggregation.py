"""How updates become the next model, in sentences for the person who is asked to sign. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator

from trusted.documents.terms import Aggregation, Cohort, Optimizer, Rule, ServerOptimizer

_NAMES = {
    Optimizer.MOMENTUM: "FedAvgM",
    Optimizer.ADAM: "FedAdam",
    Optimizer.YOGI: "FedYogi",
    Optimizer.ADAGRAD: "FedAdagrad",
}
_WEIGHED = frozenset({Rule.WEIGHTED_MEAN, Rule.MULTI_KRUM})


def explain_aggregation(terms: Aggregation, cohort: Cohort) -> Iterator[str]:
    """What the rule does, what it resists and what not, and what else is done with its result."""
    yield f"Aggregation: {terms.rule.value}; {_weights(terms)}."
    yield _rule(terms, cohort)
    if terms.rule is Rule.SERVER_APP:
        return
    if terms.rule is Rule.WEIGHTED_MEAN:
        yield "It resists nothing: a single site that sends a false update can move the model anywhere."
    else:
        yield (
            "False updates that look like true ones still count: it limits damage, and finds no careful forgery. "
            "Sites whose data differ much from the others' may be heard less."
        )
    if terms.server is not None:
        yield _server(terms.server)
    if terms.proximal_mu:
        yield (
            f"Each site's app is told to stay near the round's model (FedProx, mu = {terms.proximal_mu:g}); "
            "whether it does is the app's own matter."
        )


def _weights(terms: Aggregation) -> str:
    if terms.rule is Rule.SERVER_APP:
        return f"in the final evaluation no site weighs more than {terms.max_weight:g}"
    if terms.rule in _WEIGHED:
        return f"no site weighs more than {terms.max_weight:g}"
    return "every site counts alike, however many rows it says it has"


def _rule(terms: Aggregation, cohort: Cohort) -> str:
    fewest = f"{cohort.minimum} or more"
    return {
        Rule.WEIGHTED_MEAN: "Updates are averaged, each by the number of rows that its site says it trained on.",
        Rule.SERVER_APP: (
            "The app's own server makes the model, by its own rules, which these sentences cannot tell. Whether it "
            "resists false updates is for the app to say."
        ),
        Rule.MEDIAN: (
            f"Of each number in the model the middle one of {fewest} updates is taken: while fewer than half of them "
            "are false, it lies between numbers that true ones have."
        ),
        Rule.TRIMMED_MEAN: (
            f"Of each number in the model the {terms.trim} largest and {terms.trim} smallest of {fewest} updates are "
            f"left out and the others averaged: with up to {terms.trim} false ones it lies between numbers that true "
            "ones have."
        ),
        Rule.KRUM: (
            f"The one update that lies closest to most others is taken as it is, against up to {terms.byzantine} "
            f"false ones of {fewest}; what all other sites learned in that round is lost."
        ),
        Rule.MULTI_KRUM: (
            f"The {terms.kept} updates that lie closest to most others are averaged, each by the number of rows that "
            f"its site says it trained on, against up to {terms.byzantine} false ones of {fewest}; the rest are left "
            "out."
        ),
        Rule.GEOMETRIC_MEDIAN: (
            f"The point with the least sum of distances to all of {fewest} updates is taken ({terms.iterations} steps "
            f"of Weiszfeld's algorithm, smoothed at {terms.smoothing:g}): while fewer than half of them are false, "
            "these cannot move it far."
        ),
    }[terms.rule]


def _server(server: ServerOptimizer) -> str:
    numbers = ", ".join(f"{name} {value:g}" for name, value in server.to_json().items() if name != "optimizer")
    return (
        f"The next model is made of that by {_NAMES[server.optimizer]} in the aggregator ({numbers}); what it "
        f"remembers, {server.moments} time(s) the size of the model, lies sealed at the host between rounds."
    )
