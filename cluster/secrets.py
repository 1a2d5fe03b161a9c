"""What looks like a secret: variables by name and value, files by name and content.

A guess, made so that what is missed is rarer than what is refused wrongly: people allow by name what is none.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from cluster.words import OF_URL

WORDS = {  # of a variable's name, or its last letters
    "SECRET", "SECRETS", "TOKEN", "PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE", "PASSCODE", "PASS", "PWD", "PSWD",
    "CREDENTIAL", "CREDENTIALS", "CREDS", "CRED", "KEY", "KEYS", "APIKEYS", "AUTH", "AUTHORIZATION", "JWT", "BEARER",
    "COOKIE", "COOKIES", "WEBHOOK", "DSN", "SAS", "SALT", "PEPPER", "OTP", "TOTP", "PAT", "PIN", "PEM", "PRIVATE",
    "CONNSTR",
}  # fmt: skip
ENDS = ("SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "CREDENTIALS", "KEY", "AUTH", "CREDS")
PHRASES = ("CONNECTION_STRING", "CONNECTIONSTRING")
NO_WORDS = {"BYPASS", "COMPASS", "MONKEY", "HOTKEY", "OLDPWD"}
PLACE_WORDS = {"FILE", "PATH", "DIR", "MODE", "TTL", "TIMEOUT"}  # the last word of a name that names no secret itself
MARKED = re.compile(  # keys of known services and forms
    r"""-----BEGIN\ [A-Z ]*PRIVATE\ KEY
    | \b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b
    | \b(?:gh[pousr]_|github_pat_|glpat-|gldt-|glrt-|hf_|npm_|pypi-|dckr_pat_|dop_v1_|shpat_|lin_api_|nvapi-)\w{16,}
    | \bsk-[\w-]{16,} | \b[spr]k_(?:live|test)_\w{8,} | \bxox[abeoprs]-[\w-]{8,} | \bAIza[\w-]{30,} | \bya29\.[\w-]{8,}
    | \bGOCSPX-[\w-]{8,} | \bSG\.[\w-]{16,} | \beyJ[\w-]{8,}\.[\w-]{4,}
    | hooks\.slack\.com/services/\w | discord(?:app)?\.com/api/webhooks/\w
    | "private_key(?:_id)?"\s*: | \baws_secret_access_key\s*=
    """,
    re.VERBOSE,
)
SPOKEN = re.compile(  # what a value may say of itself
    r"(?:\b(?:bearer|basic)\s+[\w+/=.-]{8,})|"
    r"(?:password|passwd|pwd|secret|token|api_?key|access_?key|account_?key|signature|\bsig)\s*[=:]\s*[^\s;&,]{4,}",
    re.IGNORECASE,
)
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
PLACES = ("/", "~/", "./", "../", "s3://", "file://")  # how paths begin, whose parts may be drawn at random
LONG, CHANGES, BITS = 16, 0.25, 3.0  # of what is drawn at random: characters, changes of kind per character, entropy

FOLDERS = {
    ".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".huggingface", ".kaggle", ".kube", ".oci", ".snowsql", ".ssh",
}  # fmt: skip
FILES = (  # names, in lower case
    ".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.jks",
    "*.keystore", "*.kdbx", "*.ppk", "*.asc", "*.gpg", "*.pgp", "*.ovpn", "id_rsa*", "id_dsa*", "id_ecdsa*",
    "id_ed25519*", ".git-credentials", ".gitcookies", ".pypirc", ".npmrc", ".yarnrc", ".yarnrc.yml", "pip.conf",
    ".dockercfg", ".dockerconfigjson", "*kubeconfig*", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf",
    ".htpasswd", ".boto", ".s3cfg", ".passwd-s3fs", "rclone.conf", ".databrickscfg", ".terraformrc", "*.tfvars",
    "*.tfstate", "*.tfstate.*", ".vault-token", ".vault_pass*", "kaggle.json", ".condarc", ".bash_history",
    ".zsh_history", ".python_history", ".psql_history", ".mysql_history",
)  # fmt: skip
NAMED = re.compile(
    r"credential|secret|passw(?:or)?d|passphrase|service[-_.]?account|api[-_.]?key|(?:^|[-_.])token(?:[-_.]|$)"
)
TOLD = {  # ends of names of files that hold values, and neither code nor data
    "", ".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".config", ".txt", ".xml", ".properties", ".bak",
}  # fmt: skip
READ_BYTES = 64 << 10  # of a file that is looked into; keys lie in small files


def is_secret(name: str, value: str) -> bool:
    """Whether a variable seems to hold a secret."""
    return names_secret(name) or holds_secret(value)


def names_secret(name: str) -> bool:
    """Whether a variable is called as secrets are, and not as their places."""
    plain = name.upper()
    words = [word for word in plain.split("_") if word and word not in NO_WORDS]
    if not words or words[-1] in PLACE_WORDS:
        return False
    return (
        bool(WORDS & {*words})
        or any(word.endswith(ENDS) for word in words)
        or any(phrase in plain for phrase in PHRASES)
    )


def holds_secret(value: str) -> bool:
    """Whether a value has the form of a key, says that it is one, has a user in a URL, or is drawn at random."""
    if any(form.search(value) for form in (MARKED, SPOKEN, OF_URL)):
        return True
    if value.startswith(PLACES):
        return False
    return bool(UUID.search(value)) or any(is_random(piece) for piece in re.split(r"[^A-Za-z0-9+=]+", value))


def is_random(text: str) -> bool:
    """Whether a text is long, and its letters, capitals and digits follow each other as if they were drawn."""
    if len(text) < LONG:
        return False
    kinds = ["a" if c.islower() else "A" if c.isupper() else "0" for c in text]
    changes = sum(one != other for one, other in pairwise(kinds)) / (len(text) - 1)
    bits = -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())
    return changes >= CHANGES and bits >= BITS


def secret_files(folder: Path, names: Sequence[str], allowed: Collection[str] = ()) -> list[str]:
    """Those of the files `names`, relative to the folder, that look like secrets; none that is allowed by its path or
    its name."""
    return [
        name
        for name in names
        if name not in allowed and Path(name).name not in allowed and (is_secret_name(name) or holds_key(folder / name))
    ]


def is_secret_name(name: str) -> bool:
    """Whether a file is called as one of secrets, or lies in a folder of them."""
    path = Path(name.lower())
    if FOLDERS & {*path.parts[:-1]} or any(fnmatchcase(path.name, each) for each in FILES):
        return True
    return path.suffix in TOLD and bool(NAMED.search(path.name))


def holds_key(path: Path) -> bool:
    """Whether a small file has a key of a known form in it."""
    try:
        if not path.is_file() or path.stat().st_size > READ_BYTES:
            return False
        return bool(MARKED.search(path.read_bytes().decode("utf-8", "replace")))
    except OSError:
        return False
