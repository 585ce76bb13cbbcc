"""Certificates that fit each other; how they look is tested through the folder they go to."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from eaves.errors import ConfigError
from eaves.network.issuing import device_pair, expect_hosts, new_authority, server_pair

NOW = datetime.now(UTC).replace(microsecond=0)


def test_each_has_its_issuer_and_ends_when_it_is_told() -> None:
    authority = new_authority(NOW)
    server = server_pair(authority, ["cloud.example"], 7, NOW)
    device = device_pair(authority, "edge-1", 5000 - 1400, NOW)
    verifier = PolicyBuilder().store(Store([authority.certificate]))
    names = x509.DNSName("cloud.example")
    assert verifier.build_server_verifier(names).verify(server.certificate, [])
    device.certificate.verify_directly_issued_by(authority.certificate)
    assert server.certificate.not_valid_after_utc == NOW + timedelta(days=7)
    assert device.certificate.not_valid_after_utc == NOW + timedelta(days=3600)
    late = device_pair(authority, "edge-1", 3650, NOW + timedelta(days=1)).certificate
    assert late.not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert b"BEGIN CERTIFICATE" in device.certificate_pem
    assert b"BEGIN PRIVATE KEY" in device.key_pem
    assert device.fingerprint != server.fingerprint


def test_hosts_are_names_and_addresses() -> None:
    found = [type(name) for name in expect_hosts(["a.example", "::1", "127.0.0.1"])]
    assert found == [x509.DNSName, x509.IPAddress, x509.IPAddress]
    with pytest.raises(ConfigError, match="expected a host name or an IP address"):
        expect_hosts(["http://a.example"])
