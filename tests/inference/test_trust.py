"""Who signed a bundle decides whether it is taken at all."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sign_bundle import KEY_VARIABLE
from sign_bundle import main as sign_bundle_script

from imaging_node.domain.errors import BundleError, OperatorError, SettingsError
from imaging_node.inference.bundle import Bundle, load_bundle
from imaging_node.inference.signing import make_key, read_private_key, sign_bundle
from imaging_node.inference.trust import sign, trusted_keys
from tests.signing import TEST_KEY, TRUSTED, sign_again, write_test_key

if TYPE_CHECKING:
    from pathlib import Path


def refusal(directory: Path) -> str:
    """Why a node that trusts the project and the tests does not take a bundle: one line."""
    with pytest.raises(BundleError) as refused:
        load_bundle(directory, TRUSTED)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"bundle {directory.name}: ")
    return sentence


def write_manifest(directory: Path, content: object) -> None:
    """Any manifest, with a signature that fits it."""
    manifest = json.dumps(content).encode()
    (directory / "manifest.json").write_bytes(manifest)
    (directory / "manifest.sig").write_bytes(sign(manifest, TEST_KEY))


def test_the_shipped_bundle_is_signed_by_the_project_alone(bundle: Bundle) -> None:
    [project] = trusted_keys()
    assert bundle.signer == project
    assert bundle.signer.owner == "imaging_node_project"


def test_a_bundle_of_another_signer_is_taken_once_the_site_names_the_key(
    bundle_copy: Path, tmp_path: Path
) -> None:
    sign_again(bundle_copy)
    with pytest.raises(BundleError, match=r"manifest\.sig: is signed with key .* `model_keys`"):
        load_bundle(bundle_copy)
    site = trusted_keys([write_test_key(tmp_path)])
    assert load_bundle(bundle_copy, site).signer.owner == "tests"


def test_a_signature_over_another_manifest_is_refused_though_its_key_is_known(
    bundle_copy: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(bundle_copy, tmp_path / "other" / bundle_copy.name)
    (other / "docs/README.md").write_text("another card")
    sign_again(other)
    sign_again(bundle_copy)
    shutil.copy(other / "manifest.sig", bundle_copy / "manifest.sig")
    assert "manifest.sig: does not fit the manifest" in refusal(bundle_copy)


def test_a_key_id_is_no_proof(bundle_copy: Path) -> None:
    sign_bundle(bundle_copy, Ed25519PrivateKey.generate())
    path = bundle_copy / "manifest.sig"
    claimed = json.loads(path.read_text())
    claimed["key_id"] = trusted_keys()[0].key_id
    path.write_text(json.dumps(claimed))
    assert "manifest.sig: does not fit the manifest" in refusal(bundle_copy)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not JSON", "is no signature file"),
        (b"[]", "is no signature file"),
        (b'{"algorithm": "ed25519", "key_id": "0", "signature": "%%%"}', "is no signature file"),
        (b'{"algorithm": "none", "key_id": "0", "signature": ""}', "only ed25519"),
    ],
)
def test_what_is_no_signature_is_refused(bundle_copy: Path, content: bytes, complaint: str) -> None:
    (bundle_copy / "manifest.sig").write_bytes(content)
    assert complaint in refusal(bundle_copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "docs/../../x", "a//b", "", "a\\b"])
def test_a_manifest_cannot_reach_out_of_its_folder(bundle_copy: Path, name: str) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    write_manifest(bundle_copy, manifest)
    assert "no file of the bundle" in refusal(bundle_copy)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"algorithm": "md5"}, "hashes by 'md5'"),
        ({"files": []}, "has no `files`"),
        ({"files": {"LICENSE": 7}}, "has no SHA-256 of 'LICENSE'"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    bundle_copy: Path, change: dict[str, object], complaint: str
) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    write_manifest(bundle_copy, manifest | change)
    assert f"manifest.json: {complaint}" in refusal(bundle_copy)


def test_a_key_that_is_none_refuses_the_setting(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key")
    of_another_kind = tmp_path / "curve.pem"
    of_another_kind.write_bytes(
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for path in (wrong, of_another_kind, tmp_path / "absent.pem"):
        with pytest.raises(SettingsError, match=f"model_keys: .*{path.name}"):
            trusted_keys([path])


def test_the_script_signs_what_a_node_with_its_public_key_takes(
    bundle_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    private, public = str(tmp_path / "private.pem"), tmp_path / "public.pem"

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["sign_bundle.py", *arguments])
        return sign_bundle_script()

    assert run("make-key", private, str(public)) == 0
    (bundle_copy / "docs/README.md").write_text("another card")
    monkeypatch.setenv(KEY_VARIABLE, private)
    assert run("sign", str(bundle_copy)) == 0
    assert load_bundle(bundle_copy, trusted_keys([public])).signer.owner == "public"
    assert run("make-key", private, str(public)) == 1
    assert "File exists" in capsys.readouterr().err


def test_a_private_key_is_for_its_owner_and_is_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make_key(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    assert trusted_keys([public])[-1].owner == "public"
    made = read_private_key(private)
    with pytest.raises(OperatorError, match="File exists"):
        make_key(private, public)
    assert read_private_key(private).private_bytes_raw() == made.private_bytes_raw()
    with pytest.raises(OperatorError, match=r"public\.pem is no private key"):
        read_private_key(public)
