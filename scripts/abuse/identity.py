"""Fault 25: callers that are not who they say, or do not say it as they must."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from abuse.fault import Fault
from abuse.ground import ATTACKER, Ground, expect, wait_until
from abuse.scenes import USER, client_context
from abuse.sending import LITTLE
from tests.dicom.certificates import authority, certificate
from tests.dicom.listening import CT

if TYPE_CHECKING:
    from abuse.ground import Party

_CLOSED = "closed"
_ACCEPTED = "accepted"
_SECURITY_ALERT, _USER_AUTHENTICATION = "110113", "110114"


def answer_to(ground: Ground, party: Party, called: str = "") -> str:
    """What becomes of an association request: "accepted", "1/1/7" or "closed"."""
    try:
        with ground.call(source=party.address, tls=party.tls, limit_s=10) as peer:
            answer = party.associate(peer, [(CT, LITTLE)], called=called or ground.ae_title)
    except OSError:
        return _CLOSED
    if answer[:1] == b"\x02":
        return _ACCEPTED
    # PS3.8 9.3.4: result, source, reason.
    return "/".join(str(each) for each in answer[7:10]) if answer[:1] == b"\x03" else _CLOSED


def _unlike(tls: ssl.SSLContext, **changes: object) -> ssl.SSLContext:
    for name, value in changes.items():
        setattr(tls, name, value)
    return tls


def _impostors(ground: Ground) -> str:
    honest = ground.honest
    folder = ground.folder
    stranger = authority(folder, "stranger")
    certificate(folder, stranger, "foreign")

    def own() -> ssl.SSLContext:
        return client_context(folder, "honest")

    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname = False
    nobody.load_verify_locations(folder / "authority.pem")
    cbc = own()
    cbc.maximum_version = ssl.TLSVersion.TLSv1_2
    cbc.set_ciphers("ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA")
    old = own()
    # OpenSSL 3 itself offers TLS 1.1 at this level only.
    old.set_ciphers("ALL:@SECLEVEL=0")
    cases: tuple[tuple[str, Party, str, str, str], ...] = (
        ("called AE title", honest, "NOBODY", "1/1/7", _SECURITY_ALERT),
        ("calling AE title", replace(honest, ae_title="NOBODY"), "", "1/1/3", _SECURITY_ALERT),
        ("address", replace(honest, address=ATTACKER), "", "1/1/3", _SECURITY_ALERT),
        (
            "another's certificate",
            replace(honest, tls=client_context(folder, "other")),
            "",
            "1/1/3",
            _SECURITY_ALERT,
        ),
        ("no certificate", replace(honest, tls=nobody), "", _CLOSED, _SECURITY_ALERT),
        (
            "foreign certificate",
            replace(honest, tls=client_context(folder, "foreign")),
            "",
            _CLOSED,
            _SECURITY_ALERT,
        ),
        (
            "TLS 1.1",
            replace(
                honest,
                tls=_unlike(
                    old,
                    minimum_version=ssl.TLSVersion.TLSv1_1,
                    maximum_version=ssl.TLSVersion.TLSv1_1,
                ),
            ),
            "",
            _CLOSED,
            _SECURITY_ALERT,
        ),
        ("CBC", replace(honest, tls=cbc), "", _CLOSED, _SECURITY_ALERT),
        ("plain text", replace(honest, tls=None), "", _CLOSED, _SECURITY_ALERT),
        ("no user identity", replace(honest, user=None), "", "1/1/1", _USER_AUTHENTICATION),
        (
            "wrong passcode",
            replace(honest, user=(USER, "guessed")),
            "",
            "1/1/1",
            _USER_AUTHENTICATION,
        ),
        ("unknown user", replace(honest, user=("root", "x")), "", "1/1/1", _USER_AUTHENTICATION),
    )
    seen = []
    for name, party, called, expected, event in cases:
        before = _refusals(ground, event, party.address)
        answer = answer_to(ground, party, called)
        expect(answer == expected, f"{name}: {answer} instead of {expected}")
        # Equal refusals within a second are one message.
        wait_until(
            lambda event=event, party=party, before=before: (  # type: ignore[misc]  # bound now
                _refusals(ground, event, party.address) > before
            ),
            limit_s=5,
            what=f"{name} is audited as {event}",
        )
        seen.append(f"{name} {answer}")
    answer = answer_to(ground, honest)
    expect(answer == _ACCEPTED, f"the honest caller was answered {answer}")
    return ", ".join(seen) + "; each audited"


def _refusals(ground: Ground, event: str, address: str) -> int:
    """Audit messages of one kind about one address, those that were folded counted as well."""
    count = 0
    for line in ground.audited().splitlines():
        if f'csd-code="{event}"' in line and address in line and "OutcomeDescription" in line:
            with suppress(ValueError):
                words = line.partition("<EventOutcomeDescription>")[2].partition("<")[0]
                repeats = words.rpartition(", ")[2]
                count += int(repeats.removesuffix(" times")) if repeats.endswith(" times") else 1
    return count


IDENTITY_FAULTS = (
    Fault(
        number="25",
        what="wrong AE titles, address, certificate, TLS 1.1, CBC, user",
        expected="1/1/7, 1/1/3, 1/1/1 or closed, audited",
        commit=_impostors,
    ),
)
