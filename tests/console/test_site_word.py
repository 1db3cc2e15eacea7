"""``cloister worker pause|resume|withdraw``: what an operator writes on the site's own machine, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.joining import control_folder
from tests.console.conftest import Cloister, Consortium
from worker.operator import Wish, read_wish


@pytest.mark.parametrize(
    ("command", "wish"), [("pause", Wish.PAUSE), ("withdraw", Wish.WITHDRAW), ("resume", Wish.TAKE_PART)]
)
def test_a_word_reaches_the_folder_that_the_worker_of_this_plan_reads(
    planned: Consortium, cloister: Cloister, tmp_path: Path, command: str, wish: Wish
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    papers = ["--charter", planned / "charter.dsse.json", "--plan", planned / "plan.dsse.json"]
    assert cloister("worker", "pause", *papers, "--site", site).data["before"] == "take-part"
    answer = cloister("worker", command, *papers, "--site", site)
    assert (answer.data["wish"], answer.data["before"]) == (wish.value, "pause")
    folder = control_folder(site, bytes.fromhex(answer.data["plan"]))
    assert read_wish(folder) is wish
    assert folder.stat().st_mode & 0o777 == 0o755
    other = control_folder(site, bytes(32))
    assert read_wish(other) is Wish.TAKE_PART  # another plan hears nothing of it


def test_a_word_to_no_site_or_about_no_plan_is_refused(planned: Consortium, cloister: Cloister, tmp_path: Path) -> None:
    papers = ["--charter", planned / "charter.dsse.json", "--plan", planned / "plan.dsse.json"]
    missing = cloister("worker", "withdraw", *papers, "--site", tmp_path / "none")
    assert "no such folder" in missing.error["message"]
    tampered = (planned / "plan.dsse.json").read_bytes().replace(b'"sig":"', b'"sig":"AAAA', 1)
    (tmp_path / "plan.json").write_bytes(tampered)
    papers[-1] = tmp_path / "plan.json"
    (tmp_path / "site").mkdir()
    assert cloister("worker", "withdraw", *papers, "--site", tmp_path / "site").code != 0
    assert list((tmp_path / "site").iterdir()) == []
