"""Ed25519 signatures over log entries, and so over the manifests whose digests they hold. Verification is pure.

A signature is {"key": the first 16 hex digits of the sha256 of the raw public key, "ed25519": hex}. It covers the team
and track as well as the entry's canonical JSON, so that a signature for one track is not valid in another.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ConfigError
from orchestrator.log.entry import Entry, digest

if TYPE_CHECKING:  # takes long to import, and few sign
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_VARIABLE = "ORTHOPLEX_SIGNING_KEY_FILE"
DRIVES = "publisher"  # the role of a run's driver
HOW = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"


@dataclass(frozen=True)
class PublicKey:
    """A raw ed25519 public key (32 bytes), its owner, and the roles it may act in."""

    raw: bytes
    owner: str
    roles: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The team's requirements on the entries that are read.

    `keys` is by key id. `roles` says, by operation, which role may write it ("": any; if not listed: publisher).
    `unsigned` holds, by track, the (seq, sha256) of the last entry that needs no signature. Those before it need none
    either, since that digest vouches for them.
    """

    required: bool = False
    keys: Mapping[str, PublicKey] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    unsigned: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def sign(place: str, sha256: str) -> dict[str, str] | None:
    """The signature by the key whose PEM file $ORTHOPLEX_SIGNING_KEY_FILE names; None if it is not set."""
    path = os.environ.get(KEY_VARIABLE)
    if not path:
        return None
    key = _private_key(Path(path))
    raw = key.public_key().public_bytes_raw()
    return {"key": key_id(raw), "ed25519": key.sign(message(place, sha256)).hex()}


def _private_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.expanduser().read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{KEY_VARIABLE}: cannot read {path}: {error.strerror}; name a PEM file") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{KEY_VARIABLE}: {path} is no unencrypted PEM private key; {HOW}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{KEY_VARIABLE}: {path} is no ed25519 key; {HOW}")
    return key


def public_key(pem: str) -> bytes:
    """The 32 raw bytes of a PEM ed25519 public key. Raises ValueError if it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a PEM public key; print one with: openssl pkey -in key.pem -pubout") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"not an ed25519 key; {HOW}")
    return key.public_bytes_raw()


def key_id(raw: bytes) -> str:
    """The name of a key in signatures."""
    return digest(raw)[:16]


def message(place: str, sha256: str) -> bytes:
    """The bytes that are signed."""
    return f"orthoplex log entry v1\n{place}\n{sha256}".encode()


def entry_fault(entry: Entry, place: str, trust: Trust) -> str | None:
    """The fault in the signature of an entry in the log `place` (team/track), if the team's rules ask for one.

    Entries up to the one that the rules vouch for by its digest need none.
    """
    seq, sha256 = trust.unsigned.get(place.rpartition("/")[2], (0, ""))
    if not trust.required or entry.seq < seq or (entry.seq == seq and entry.sha256 == sha256):
        return None
    if entry.seq == seq:
        return f"is not the one that the team's rules vouch for ({sha256})"
    return _signature_fault(entry, place, trust)


def _signature_fault(entry: Entry, place: str, trust: Trust) -> str | None:
    if entry.signature is None:
        return "is not signed, but the team's rules ask for it"
    key, needed = trust.keys.get(entry.signature.get("key", "")), trust.roles.get(entry.op, DRIVES)
    if key is None:
        return f"is signed by the key {entry.signature.get('key')}, which the team's rules do not list"
    if not _matches(key.raw, entry.signature.get("ed25519", ""), message(place, entry.unsigned)):
        return f"has a signature that does not match, said to be of {key.owner}"
    if needed and needed not in key.roles:
        return f"is signed by {key.owner}, who is not a {needed} in the team's rules"
    return None


def signer(
    signature: Mapping[str, str] | None, place: str, sha256: str, keys: Mapping[str, PublicKey]
) -> PublicKey | None:
    """Which of the keys, by id, made a signature over a digest; None if none of them did."""
    key = keys.get(signature.get("key", "")) if signature else None
    made = key is not None and _matches(key.raw, (signature or {}).get("ed25519", ""), message(place, sha256))
    return key if made else None


def _matches(raw: bytes, signature: str, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(bytes.fromhex(signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True
