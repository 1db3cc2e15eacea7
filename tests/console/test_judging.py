"""The options by which a plan has its model judged, from what people type."""

from __future__ import annotations

import pytest

from console.judging import Judged
from console.output import UserError
from trusted.documents.terms import Evaluation


def test_options_become_terms_that_everybody_accepts():
    made = Evaluation.read(Judged("visits:5", ("sex=f, m", "age:18,65"), shadows=4).to_json())
    assert made.label.column == "visits"
    assert made.label.at_least == 5.0
    assert made.subgroups[0].values == ("f", "m")
    assert made.subgroups[1].edges == (18.0, 65.0)
    assert made.audit is not None
    assert made.audit.shadows == 4
    assert not made.per_site


def test_no_label_means_no_evaluation():
    assert Judged(None).to_json() is None


@pytest.mark.parametrize(
    "judged",
    [
        Judged(None, ("sex=f,m",)),
        Judged("visits"),
        Judged("visits:many"),
        Judged("visits:5", ("sex",)),
        Judged("visits:5", ("age:old",)),
    ],
)
def test_what_does_not_read_says_how_it_is_written(judged):
    with pytest.raises(UserError) as refused:
        judged.to_json()
    assert "Write --" in refused.value.hint
