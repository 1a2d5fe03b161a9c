"""Keys as a team has them: PEM files."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)


def sign_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs from now on with the key at `path`, made where it is absent."""
    if not path.exists():
        write_key(path)
    monkeypatch.setenv("ORTHOPLEX_SIGNING_KEY_FILE", str(path))


def write_key(path: Path) -> None:
    """Makes a private key."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(path: Path) -> str:
    """The public half, as openssl prints it."""
    public = load_pem_private_key(path.read_bytes(), None).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
