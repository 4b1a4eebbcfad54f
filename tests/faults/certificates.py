"""Certificates for a server on this machine: good ones, and one for each way to be bad; all made in memory, in a moment."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

AUTHORITY = trustme.CA()
"""Whom a client under test trusts, once ``trust`` was called."""


def trust(folder: Path) -> str:
    """Write the authority's certificate into a folder, and return its path: the value of ``SSL_CERT_FILE``."""
    path = folder / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return str(path)


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


GOOD = _context(AUTHORITY.issue_cert("127.0.0.1"))
"""For a server at 127.0.0.1."""


def _expired() -> ssl.SSLContext:
    return _context(AUTHORITY.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)))


def _not_yet_valid() -> ssl.SSLContext:
    return _context(AUTHORITY.issue_cert("127.0.0.1", not_before=datetime.now(UTC) + timedelta(days=1)))


def _of_another_authority() -> ssl.SSLContext:
    return _context(trustme.CA().issue_cert("127.0.0.1"))


def _for_another_host() -> ssl.SSLContext:
    return _context(AUTHORITY.issue_cert("127.0.0.2", "elsewhere.example"))


BAD: dict[str, Callable[[], ssl.SSLContext]] = {
    "expired": _expired,
    "not yet valid": _not_yet_valid,
    "of another authority": _of_another_authority,
    "for another host": _for_another_host,
}
"""What a server must not be able to use: ``expired`` and ``not yet valid`` is what a wrong clock on this machine sees as well."""
