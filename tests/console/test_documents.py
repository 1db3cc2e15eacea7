"""From keys to a signed plan through files, with every refusal on the way told in words and in an exit code."""

from __future__ import annotations

import json
import os
import stat
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from console.documents import load_charter, load_plan
from console.initial_model import read_initial_model
from console.keyfiles import Passphrase, load_sealing_key, load_signer
from console.members import read_member_file
from console.options import ModelEncoding, UpdateEncoding
from console.output import UserError
from softtee.chip import SoftwareRoot
from tests.console.conftest import MEMBERS, Cloister, Consortium
from trusted.apps.bundle import bundle_digest
from trusted.documents.credential import verify_credential
from trusted.documents.dsse import raw_public_key
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding
from trusted.errors import DocumentError, WireError
from trusted.hpke import seal


def test_keygen_writes_private_keys_for_their_owner_alone(consortium: Consortium) -> None:
    folder = consortium / "hospital-a"
    for name in ("signing-key.pem", "sealing-key.pem"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    member = read_member_file(folder / "member.json")
    assert member.signing_keys == (raw_public_key(load_signer(folder / "signing-key.pem", None)),)
    sealing_key = load_sealing_key(folder / "sealing-key.pem", None)
    assert sealing_key.open(seal(member.sealing_key, b"model", b"test"), b"test") == b"model"


def test_keygen_shows_no_secret(tmp_path: Path, cloister: Cloister) -> None:
    answer = cloister("member", "keygen", "lab-b", "--out", tmp_path)
    for line in (tmp_path / "signing-key.pem").read_text().splitlines():
        assert line not in answer.stdout + answer.stderr


def test_a_passphrase_protects_both_keys(tmp_path: Path, cloister: Cloister) -> None:
    (tmp_path / "pass").write_text("correct horse\n")
    made = cloister("member", "keygen", "lab-b", "--out", tmp_path / "k", "--passphrase-file", tmp_path / "pass")
    assert made.data["encrypted"] is True
    for name, load in (("signing-key.pem", load_signer), ("sealing-key.pem", load_sealing_key)):
        path = tmp_path / "k" / name
        assert b"ENCRYPTED" in path.read_bytes()
        assert load(path, Passphrase(b"correct horse"))
        with pytest.raises(UserError, match="does not open"):
            load(path, Passphrase(b"wrong horse"))
    assert "horse" not in repr(Passphrase(b"correct horse"))


def test_an_encrypted_key_signs_with_its_passphrase_and_not_without(consortium: Consortium, cloister: Cloister) -> None:
    (consortium / "pass").write_text("correct horse")
    options = ["--out", consortium / "lab-b", "--passphrase-file", consortium / "pass", "--force"]
    assert cloister("member", "keygen", "lab-b", *options).code == 0
    new = ["--profile", "development", "--software-root", "ab" * 32, "--out", consortium / "c.json"]
    assert cloister("charter", "new", *consortium.charter_options, *new).code == 0
    sign = ["charter", "sign", consortium / "c.json", "--key", consortium.key("lab-b"), "--yes"]
    refused = cloister(*sign)
    assert refused.code == 1
    assert "--passphrase-file" in refused.error["hint"]
    assert cloister(*sign, "--passphrase-file", consortium / "pass").data["member"] == "lab-b"


def test_a_passphrase_comes_through_a_file_descriptor(tmp_path: Path, cloister: Cloister) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"correct horse\nanother line")
    os.close(writer)
    made = cloister("member", "keygen", "lab-b", "--out", tmp_path, "--passphrase-fd", reader)
    os.close(reader)
    assert made.data["encrypted"] is True
    assert load_signer(tmp_path / "signing-key.pem", Passphrase(b"correct horse"))


def test_an_empty_passphrase_is_refused(tmp_path: Path, cloister: Cloister) -> None:
    (tmp_path / "pass").write_text("\n")
    made = cloister("member", "keygen", "lab-b", "--out", tmp_path / "k", "--passphrase-file", tmp_path / "pass")
    assert "empty" in made.error["message"]
    assert not (tmp_path / "k").exists()


def test_milan_is_trusted_only_chip_by_chip(consortium: Consortium, cloister: Cloister) -> None:
    new = ["charter", "new", *consortium.charter_options, "--vendor-root", "Milan", "--out", consortium / "m.json"]
    assert "--chip-id" in cloister(*new).error["hint"]
    assert cloister(*new, "--chip-id", "01" * 64).data["charter"]["worker"]["snp"]["chip_ids"] == ["01" * 64]


def test_a_key_that_others_may_read_is_not_used(consortium: Consortium, cloister: Cloister) -> None:
    consortium.key("lab-b").chmod(0o644)
    refused = cloister("charter", "sign", consortium / "charter.dsse.json", "--key", consortium.key("lab-b"), "--yes")
    assert refused.code == 1
    assert "chmod 600" in refused.error["hint"]


def test_nothing_is_overwritten_without_force(consortium: Consortium, cloister: Cloister) -> None:
    before = consortium.key("lab-b").read_bytes()
    refused = cloister("member", "keygen", "lab-b", "--out", consortium / "lab-b")
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert "--force" in refused.error["hint"]
    assert consortium.key("lab-b").read_bytes() == before
    assert cloister("member", "keygen", "lab-b", "--out", consortium / "lab-b", "--force").code == 0
    assert consortium.key("lab-b").read_bytes() != before


def test_a_bad_member_id_makes_no_files(tmp_path: Path, cloister: Cloister) -> None:
    refused = cloister("member", "keygen", "../Lab", "--out", tmp_path / "k")
    assert (refused.code, refused.error["code"]) == (3, "DOC-309")
    assert not (tmp_path / "k").exists()


def test_a_charter_holds_once_a_majority_signed(consortium: Consortium, cloister: Cloister) -> None:
    path = consortium / "charter.dsse.json"
    for member, code in zip(MEMBERS, (3, 0, 0), strict=True):
        assert cloister("charter", "sign", path, "--key", consortium.key(member), "--yes").data["member"] == member
        assert cloister("charter", "verify", path).code == code
    assert cloister("charter", "verify", path).data["signers"] == list(MEMBERS)
    assert load_charter(path).document.thresholds.charter == 2


def test_a_missing_signature_is_told_as_one(consortium: Consortium, cloister: Cloister) -> None:
    refused = cloister("charter", "verify", consortium / "charter.dsse.json")
    assert (refused.code, refused.error["code"]) == (3, "DOC-302")
    assert refused.error["runbook"] == "docs/runbook.md#doc-302"
    assert "signatures" in refused.error["hint"]


def test_a_charter_is_shown_before_it_is_signed(consortium: Consortium, cloister: Cloister) -> None:
    sign = ["charter", "sign", consortium / "charter.dsse.json", "--key", consortium.key("lab-b")]
    before = (consortium / "charter.dsse.json").read_bytes()
    refused = cloister(*sign, json=False, keys="n\n")
    assert refused.code == 1
    assert "NO HARDWARE PROTECTION" in refused.stdout
    assert "NOT CHECKED" in refused.stdout
    assert (consortium / "charter.dsse.json").read_bytes() == before
    assert "Signed by lab-b" in cloister(*sign, json=False, keys="y\n").stdout


def test_a_question_is_never_asked_with_json(consortium: Consortium, cloister: Cloister) -> None:
    refused = cloister("charter", "sign", consortium / "charter.dsse.json", "--key", consortium.key("lab-b"))
    assert refused.code == 1
    assert "--yes" in refused.error["hint"]


def test_a_stranger_cannot_sign(consortium: Consortium, cloister: Cloister) -> None:
    assert cloister("member", "keygen", "stranger", "--out", consortium / "stranger").code == 0
    sign = ["charter", "sign", consortium / "charter.dsse.json", "--key", consortium.key("stranger"), "--yes"]
    assert cloister(*sign).error["code"] == "DOC-305"


def test_what_does_not_parse_is_not_signed(consortium: Consortium, cloister: Cloister) -> None:
    path = consortium / "charter.dsse.json"
    path.write_bytes(path.read_bytes().replace(b"payloadType", b"payloadtype"))
    refused = cloister("charter", "sign", path, "--key", consortium.key("lab-b"), "--yes")
    assert (refused.code, refused.error["code"]) == (1, "WIR-106")


def test_a_changed_charter_is_refused(chartered: Consortium, cloister: Cloister) -> None:
    path = chartered / "charter.dsse.json"
    envelope = json.loads(path.read_bytes())
    other = cloister("charter", "new", *chartered.charter_options, "--profile", "development", "--valid-days", "9")
    assert other.code == 1  # no root was named
    new = ["--profile", "development", "--software-root", "cd" * 32, "--out", chartered / "other.json"]
    assert cloister("charter", "new", *chartered.charter_options, *new).code == 0
    envelope["payload"] = json.loads((chartered / "other.json").read_bytes())["payload"]
    path.write_text(json.dumps(envelope, separators=(",", ":"), sort_keys=True))
    assert cloister("charter", "verify", path).error["code"] == "DOC-301"


def test_a_software_root_is_refused_in_production(consortium: Consortium, cloister: Cloister) -> None:
    new = ["charter", "new", *consortium.charter_options, "--out", consortium / "p.json"]
    refused = cloister(*new, "--software-root", "ab" * 32)
    assert (refused.code, refused.error["code"]) == (3, "DOC-310")
    assert not (consortium / "p.json").exists()
    assert cloister(*new, "--vendor-root", "Genoa").data["charter"]["worker"]["snp"]["assurance"] == "hardware"


def test_the_folder_of_a_software_root_names_its_root(
    consortium: Consortium, cloister: Cloister, software_root: SoftwareRoot
) -> None:
    software_root.save(consortium / "root")
    for given in (consortium / "root", consortium / "root" / "ark.der", software_root.sha256.hex()):
        new = ["--profile", "development", "--software-root", given, "--out", consortium / "c.json", "--force"]
        made = cloister("charter", "new", *consortium.charter_options, *new)
        assert made.data["charter"]["roots"][0]["sha256"] == software_root.sha256.hex()


def test_a_charter_is_replaced_with_the_old_members_consent(chartered: Consortium, cloister: Cloister) -> None:
    old, new = chartered / "charter.dsse.json", chartered / "charter-2.dsse.json"
    options = ["--profile", "development", "--software-root", "cd" * 32, "--previous", old, "--out", new]
    made = cloister("charter", "new", *chartered.charter_options, *options)
    assert made.data["charter"]["version"] == 2
    sign = ["charter", "sign", new, "--yes", "--key"]
    assert "--previous" in cloister(*sign, chartered.key("lab-b")).error["hint"]
    for member in MEMBERS[1:]:
        assert cloister(*sign, chartered.key(member), "--previous", old).code == 0
    assert cloister("charter", "verify", new, "--previous", old).code == 0


def test_show_says_who_must_still_sign(chartered: Consortium, cloister: Cloister) -> None:
    plan = chartered / "plan.dsse.json"
    assert cloister("plan", "new", *chartered.plan_options, "--out", plan).code == 0
    charter = ["--charter", chartered / "charter.dsse.json"]
    assert cloister("plan", "sign", plan, *charter, "--key", chartered.key("lab-b"), "--yes").code == 0
    shown = cloister("plan", "show", plan, *charter)
    assert (shown.data["signers"], shown.data["missing"]) == (["lab-b"], ["bank-c", "hospital-a"])
    assert cloister("plan", "verify", plan, *charter).error["code"] == "DOC-302"


def test_a_plan_names_its_bundle_and_its_model(planned: Consortium) -> None:
    plan = load_plan(planned / "plan.dsse.json", load_charter(planned / "charter.dsse.json")).document
    assert plan.app.bundle_sha256 == bundle_digest((planned / "plan.fab").read_bytes())
    initial = read_initial_model(planned / "model.safetensors")
    assert plan.initial_sha256 == initial.digest
    assert [tensor.name for tensor in plan.layout.tensors] == ["layer2.w", "layer10.w", "n"]
    assert initial.vector.tolist() == [0] * 4 + [1] * 6 + [7]


def test_a_bundle_file_is_as_good_as_its_folder(planned: Consortium, cloister: Cloister) -> None:
    options = [option if option != planned / "app" else planned / "plan.fab" for option in planned.plan_options]
    again = cloister("plan", "new", *options, "--out", planned / "again.dsse.json")
    assert again.data["plan"]["app"]["bundle_sha256"] == bundle_digest((planned / "plan.fab").read_bytes()).hex()


def test_a_file_that_is_no_bundle_is_refused(chartered: Consortium, cloister: Cloister) -> None:
    options = [
        option if option != chartered / "app" else chartered / "model.safetensors" for option in chartered.plan_options
    ]
    refused = cloister("plan", "new", *options, "--out", chartered / "p.json")
    assert (refused.code, refused.error["code"]) == (1, "APP-802")


def test_a_layout_file_fixes_the_order(chartered: Consortium, cloister: Cloister) -> None:
    tensors = read_initial_model(chartered / "model.safetensors").layout.to_json()[::-1]
    layout = chartered / "layout.json"
    layout.write_text(json.dumps(tensors, separators=(",", ":"), sort_keys=True))
    new = ["plan", "new", *chartered.plan_options, "--layout", layout, "--out"]
    assert cloister(*new, chartered / "p.json").data["plan"]["model"]["layout"] == tensors
    layout.write_text(json.dumps(tensors[:-1], separators=(",", ":"), sort_keys=True))
    assert "not the layout" in cloister(*new, chartered / "q.json").error["message"]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (np.array([1, np.nan], "f4"), "NaN"),
        (np.array([np.inf], "f4"), "infinity"),
        (np.array([1e39], "f8"), "infinity"),  # a double that float32 does not hold
        (np.array([1], "i4"), "I32"),
        (np.array([1], "f2"), "F16"),
    ],
)
def test_a_model_that_cannot_travel_is_refused(
    chartered: Consortium, cloister: Cloister, tensor: np.ndarray, said: str
) -> None:
    save_file({"w": tensor}, chartered / "model.safetensors")
    refused = cloister("plan", "new", *chartered.plan_options, "--out", chartered / "p.json")
    assert refused.code == 1
    assert said in refused.error["message"]
    assert not (chartered / "p.json").exists()


def test_a_pickle_is_not_read(chartered: Consortium, cloister: Cloister) -> None:
    (chartered / "model.safetensors").write_bytes(b"\x80\x04}.")
    refused = cloister("plan", "new", *chartered.plan_options, "--out", chartered / "p.json")
    assert "not a safetensors file" in refused.error["message"]


def test_what_travels_is_named_by_tensor_and_by_pattern(chartered: Consortium, cloister: Cloister) -> None:
    new = ["plan", "new", *chartered.plan_options, "--force", "--out", chartered / "p.json"]
    assert "exchange" not in cloister(*new).data["plan"]
    encodings = ["--model-encoding", "bfloat16", "--update-encoding", "int8"]
    assert cloister(*new, *encodings).data["plan"]["exchange"] == {
        "model": "bfloat16",
        "update": "int8",
        "tensors": [],
    }
    for asked, found in (
        (["layer10.w"], ["layer10.w"]),
        (["layer*"], ["layer2.w", "layer10.w"]),
        (["n", "layer1?.w", "layer10.w"], ["layer10.w", "n"]),
    ):
        options = [option for name in asked for option in ("--exchange-tensor", name)]
        assert cloister(*new, *options).data["plan"]["exchange"]["tensors"] == found
    assert "exchange" not in cloister(*new, "--exchange-tensor", "*").data["plan"]


@pytest.mark.parametrize("name", ["lora_*", "layer3.w", "Layer2.w", ""])
def test_a_tensor_that_the_model_lacks_is_refused_with_those_it_has(
    chartered: Consortium, cloister: Cloister, name: str
) -> None:
    options = ["--exchange-tensor", "n", "--exchange-tensor", name, "--out", chartered / "p.json"]
    refused = cloister("plan", "new", *chartered.plan_options, *options)
    assert (refused.code, refused.error["code"]) == (1, "CLI-001")
    assert f"--exchange-tensor {name}:" in refused.error["message"]
    assert all(known in refused.error["hint"] for known in ("layer2.w", "layer10.w", "n"))
    assert not (chartered / "p.json").exists()


def test_the_encodings_that_can_be_asked_for_are_those_that_plans_have() -> None:
    assert [encoding.value for encoding in UpdateEncoding] == [encoding.name.lower() for encoding in Encoding]
    for spelled in UpdateEncoding:
        exchange = {"model": spelled.value, "update": "float32", "tensors": []}
        if spelled in list(ModelEncoding):
            assert Exchange.read(exchange).to_json() == exchange
        else:
            with pytest.raises(WireError, match=r"plan\.exchange\.model"):
                Exchange.read(exchange)


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--recipient", "stranger", "DOC-305"),
        ("--minimum", "4", "DOC-309"),
        ("--metric", "Loss", "DOC-309"),
        ("--metric", "loss:2:3:4:5", "CLI-001"),
        ("--config", "novalue", "CLI-001"),
        ("--round-s", "9999999", "WIR-101"),
    ],
)
def test_a_bad_option_of_a_plan_is_told(
    chartered: Consortium, cloister: Cloister, option: str, value: str, code: str
) -> None:
    refused = cloister("plan", "new", *chartered.plan_options, option, value, "--out", chartered / "p.json")
    assert refused.error["code"] == code
    assert not (chartered / "p.json").exists()


def test_explain_says_who_trains_what(planned: Consortium, cloister: Cloister) -> None:
    charter = ["--charter", planned / "charter.dsse.json"]
    said = cloister("plan", "explain", planned / "plan.dsse.json", *charter, json=False).stdout
    for words in ("hospital-a", "age, visits", "5 round(s)", "NO HARDWARE PROTECTION", "receives the final model"):
        assert words in said
    said = cloister("charter", "explain", planned / "charter.dsse.json", json=False).stdout
    assert "NOT CHECKED for the aggregator and the worker: chip_ids" in said


def test_a_site_policy_allows_what_it_lists(planned: Consortium, cloister: Cloister) -> None:
    policy = planned / "site-policy.dsse.json"
    charter = ["--charter", planned / "charter.dsse.json"]
    new = ["site-policy", "new", *charter, "--member", "lab-b", "--plan", planned / "plan.dsse.json"]
    assert cloister(*new, "--out", policy).code == 0
    show = ["site-policy", "show", policy, *charter, "--plan", planned / "plan.dsse.json"]
    assert cloister(*show).error["code"] == "DOC-302"
    sign = ["site-policy", "sign", policy, *charter, "--yes", "--key"]
    assert cloister(*sign, planned.key("hospital-a")).error["code"] == "DOC-305"
    assert cloister(*sign, planned.key("lab-b")).data["member"] == "lab-b"
    assert cloister(*show).data["effective"]["rounds"] == 5
    assert cloister(*new, "--max-rounds", "4", "--out", policy, "--force").code == 0
    assert cloister(*sign, planned.key("lab-b")).code == 0
    refused = cloister(*show)
    assert (refused.code, refused.error["code"]) == (3, "DOC-311")
    assert "max_rounds" in refused.error["message"]


def test_a_credential_speaks_for_the_worker_key_beside_it(planned: Consortium, cloister: Cloister) -> None:
    folder = planned / "worker"
    options = ["--charter", planned / "charter.dsse.json", "--key", planned.key("lab-b"), "--out", folder]
    made = cloister("member", "credential", *options, "--valid-days", "2")
    assert made.data["credential"]["member"] == "lab-b"
    charter = load_charter(planned / "charter.dsse.json")
    document = json.loads((folder / "credential.dsse.json").read_bytes())
    assert set(document) == {"payload", "payloadType", "signatures"}
    worker_key = raw_public_key(load_signer(folder / "worker-key.pem", None))
    assert made.data["credential"]["worker_key"] == worker_key.hex()
    credential = (folder / "credential.dsse.json").read_bytes()
    start = charter.document.validity.not_before
    assert verify_credential(credential, charter, start + timedelta(days=1)).document.worker_key == worker_key
    with pytest.raises(DocumentError, match="DOC-303"):
        verify_credential(credential, charter, start + timedelta(days=3))
    assert cloister("member", "credential", *options).code == 1  # it would be overwritten


def test_other_platforms_roots_are_named_and_need_a_policy_of_their_own(
    consortium: Consortium, cloister: Cloister
) -> None:
    new = ["charter", "new", *consortium.charter_options, "--vendor-root", "TDX", "--out", consortium / "t.json"]
    assert "charter template" in cloister(*new).error["hint"]
    assert "TDX" in cloister(*new[:-4], "--vendor-root", "Pentium", "--out", consortium / "t.json").error["hint"]
