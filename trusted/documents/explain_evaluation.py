"""What ``plan.evaluation`` says, in sentences for who is asked to sign it. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Iterator

from trusted.documents.terms import Evaluation, MetricRule


def explain_metric(metric: MetricRule) -> str:
    """One metric that may become public."""
    rows = f" of at least {metric.min_rows} rows each" if metric.min_rows else ""
    return (
        f"Metric {metric.name} becomes public as a mean over at least {metric.min_sites} sites{rows}, "
        f"rounded to {metric.digits} decimal place(s)."
    )


def explain_evaluation(terms: Evaluation | None) -> Iterator[str]:
    """How the final model is judged, and what of that becomes public."""
    if terms is None:
        yield "The final model is not judged inside, and there is no model card."
        return
    label = terms.label
    yield (
        f"The final model is judged inside every worker, on rows that the app holds out: is {label.column} at least "
        f"{label.at_least:g}? A model card becomes public with the figures of all sites together."
    )
    for subgroup in terms.subgroups:
        unseen = " The app does not see this column." if subgroup.column in terms.unseen else ""
        yield f"Judged apart by {subgroup.column}: {', '.join(subgroup.cells)}.{unseen}"
    yield (
        f"No figure of fewer than {terms.min_cell} positive and {terms.min_cell} negative rows, or of fewer than "
        f"{terms.min_sites} sites, nor any from which one could be computed; rates to {terms.digits} decimal place(s), "
        f"counts to multiples of {terms.count_base}."
    )
    yield ("Figures of single sites become public." if terms.per_site else "No figure of a single site becomes public.")
    if terms.audit is None:
        yield "Nobody attacks the model to see whether it remembers rows."
    elif terms.audit.shadows:
        yield (
            f"The model is attacked inside, by its losses and with {terms.audit.shadows} shadow models, to see whether "
            "it remembers rows; how well that works becomes public."
        )
    else:
        yield (
            "The model is attacked inside, by its losses, to see whether it remembers rows; "
            "how well that works becomes public."
        )
    yield "A worker sends counts of rows to the aggregator, sealed: no row, no score, no loss of a row."
