"""What is read from a certificate is what another library reads from it."""

import ssl
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from eaves.network.x509 import read_certificate

KEY = ec.generate_private_key(ec.SECP256R1())
DATES = st.datetimes(datetime(1951, 1, 1), datetime(2999, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
# A common name has 64 bytes at most.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=16)


def _certificate(
    names: list[x509.NameAttribute[str]], starts: datetime, ends: datetime
) -> x509.Certificate:
    subject = x509.Name(names)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not this one")]))
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
        .sign(KEY, hashes.SHA256())
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


@settings(max_examples=50, deadline=None)
@given(name=NAMES, one=DATES, other=DATES)
def test_the_facts_are_those_that_another_library_reads(
    name: str, one: datetime, other: datetime
) -> None:
    names = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "an organisation"),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ]
    made = _certificate(names, min(one, other), max(one, other))
    facts = read_certificate("words before\n" + _pem(made) + "words after")
    assert facts.name == name
    assert facts.starts == made.not_valid_before_utc
    assert facts.ends == made.not_valid_after_utc
    assert facts.fingerprint == made.fingerprint(hashes.SHA256()).hex()


def test_one_without_a_common_name_has_none() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert read_certificate(_pem(_certificate([], moment, moment))).name == ""


def test_the_first_of_several_is_read() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    both = [
        _pem(_certificate([x509.NameAttribute(NameOID.COMMON_NAME, name)], moment, moment))
        for name in ("first", "second")
    ]
    assert read_certificate("".join(both)).name == "first"


@pytest.mark.parametrize(
    "text", ["", "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE----------BEGIN CERTIFICATE"]
)
def test_a_text_without_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="found none"):
        read_certificate(text)


WHOLE = _certificate(
    [x509.NameAttribute(NameOID.COMMON_NAME, "edge-1")],
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2027, 1, 1, tzinfo=UTC),
).public_bytes(Encoding.DER)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damage_is_a_value_error_or_not_noticed(data: st.DataObject) -> None:
    der = bytearray(WHOLE)
    if data.draw(st.booleans()):
        del der[data.draw(st.integers(0, len(der) - 1)) :]
    else:
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = read_certificate(ssl.DER_cert_to_PEM_cert(bytes(der)))
    except ValueError:
        return
    assert isinstance(facts.name, str)


def test_one_that_is_cut_off_is_refused_wherever_that_is() -> None:
    for size in range(len(WHOLE)):
        with pytest.raises(ValueError, match="damaged"):
            read_certificate(ssl.DER_cert_to_PEM_cert(WHOLE[:size]))
