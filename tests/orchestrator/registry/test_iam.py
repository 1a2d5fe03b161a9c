"""The policies, judged by an evaluator of our own by AWS's rules: an explicit deny, else an allow, else no."""

import fnmatch
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.registry.iam import policy

ROLES = ("reader", "publisher", "promoter", "gc", "admin", "evaluator")


def allows(document: dict[str, Any], action: str, key: str = "", **context: str) -> bool:
    arn = f"arn:aws:s3:::bucket{'/' if key else ''}{key}"
    verdict = False
    for statement in document["Statement"]:
        if action not in statement["Action"]:
            continue
        if not any(fnmatch.fnmatchcase(arn, pattern) for pattern in statement["Resource"]):
            continue
        if not all(holds(*condition, context) for condition in statement.get("Condition", {}).items()):
            continue
        if statement["Effect"] == "Deny":
            return False
        verdict = True
    return verdict


def holds(operator: str, wanted: dict[str, Any], context: dict[str, str]) -> bool:
    ((name, patterns),) = wanted.items()
    value = context.get(name.removeprefix("s3:").replace("-", "_"))
    if operator == "Null":
        return (value is None) == (patterns == "true")
    return value is not None and any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)


GET, PUT, DELETE, LIST, ABORT = (
    "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload",
)  # fmt: skip
EVERY, NONE = set(ROLES), set[str]()
WRITERS = {"publisher", "promoter", "gc"}
TABLE = [
    (GET, "p/t/a/run/log/0999999999.json", EVERY),
    (GET, "p/t/a/run/v/1/adapter.safetensors", EVERY),
    (GET, "p/t/a/.policy/log/0999999999.json", EVERY),
    (GET, "p/t/b/run/log/0999999999.json", NONE),
    (GET, "p/t/ab/run/log/0999999999.json", NONE),
    (GET, "t/a/run/log/0999999999.json", NONE),
    (GET, "p/.orthoplex-probe", {"publisher"}),
    (PUT, "p/.orthoplex-probe", {"publisher"}),
    (PUT, "p/t/a/run/log/0999999999.json", WRITERS),
    (PUT, "p/t/a/run/ckpt/0999999999.parquet", WRITERS),
    (PUT, "p/t/a/run/v/1/adapter.safetensors", {"publisher"}),
    (ABORT, "p/t/a/run/v/1/adapter.safetensors", {"publisher"}),
    (PUT, "p/t/a/run/checkpoint.safetensors", {"publisher"}),
    (PUT, "p/t/a/.records/run/log/0999999999.json", {*WRITERS, "evaluator"}),
    (PUT, "p/t/a/.records/run/v/1/rows.parquet", {"publisher", "evaluator"}),
    (DELETE, "p/t/a/.records/run/log/0999999999.json", NONE),
    (PUT, "p/t/a/.policy/log/0999999999.json", {"admin"}),
    (DELETE, "p/t/a/.policy/log/0999999999.json", NONE),
    (PUT, "p/t/b/run/log/0999999999.json", NONE),
    (PUT, "p/t/b/run/v/1/x", NONE),
    (PUT, "p/other", NONE),
    (DELETE, "p/t/a/run/v/1/adapter.safetensors", {"gc"}),
    (DELETE, "p/t/a/run/ckpt/0999999999.parquet", {"gc"}),
    (DELETE, "p/t/a/run/log/0999999999.json", NONE),
    (DELETE, "p/t/a/v/log/v/x", NONE),  # a path that reads as versions and as a log
    (DELETE, "p/t/b/run/v/1/x", NONE),
]


@pytest.mark.parametrize(("action", "key", "roles"), TABLE)
def test_who_may_do_what(action: str, key: str, roles: set[str]) -> None:
    made = {role: policy("a", role, bucket="bucket", prefix="p") for role in ROLES}  # type: ignore[arg-type]
    assert {role for role in ROLES if allows(made[role], action, key)} == roles


@pytest.mark.parametrize(
    ("prefix", "roles"),
    [
        ("p/t/a/", EVERY), ("p/t/a/run/log/0", EVERY), ("p/t/b/", NONE), ("p/t/ab/", NONE), ("p/t/", NONE), ("", NONE),
        ("p/.orthoplex-probe", {"publisher"}),
    ],
)  # fmt: skip
def test_who_may_list_what(prefix: str, roles: set[str]) -> None:
    made = {role: policy("a", role, bucket="bucket", prefix="p") for role in ROLES}  # type: ignore[arg-type]
    assert {role for role in ROLES if allows(made[role], LIST, prefix=prefix)} == roles
    assert not any(allows(made[role], LIST) for role in ROLES)


def test_append_only() -> None:
    made = policy("a", "publisher", bucket="bucket", append_only=True)
    log, file = "t/a/run/log/0999999999.json", "t/a/run/v/1/x"
    assert allows(made, PUT, log, if_none_match="*") and not allows(made, PUT, log)
    assert allows(made, PUT, file) and allows(policy("a", "publisher", bucket="bucket"), PUT, log)


def test_a_bucket_policy_names_its_principal() -> None:
    made = policy("a", "gc", bucket="bucket", principal="arn:aws:iam:::user/gc")
    assert all(each["Principal"] == {"AWS": ["arn:aws:iam:::user/gc"]} for each in made["Statement"])
    assert not any("Principal" in each for each in policy("a", "gc")["Statement"])
    assert not any("Sid" in each for each in made["Statement"])  # so that those of several roles make one document


@pytest.mark.parametrize(
    "arguments", [{"team": "*"}, {"team": "a/b"}, {"prefix": "*"}, {"bucket": "a*b"}, {"prefix": "a/"}]
)
def test_names_that_would_widen_it(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        policy(**{"team": "a", "role": "gc", **arguments})
