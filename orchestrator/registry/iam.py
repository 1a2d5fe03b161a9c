"""Least-privilege S3 policies for a team's roles, for an administrator to attach. Pure functions.

All entries of a log lie under one prefix, so S3 cannot tell a promotion from a commit: a promoter, who may write
the log but no files, can do harm only with signatures off; with them on, `signing` holds each key to its role. What a
guard quarantines a driver writes, as a publisher; approvals and overrides a promoter; what is given up, gc.
"""

import re
from typing import Literal

from cluster.errors import ConfigError
from cluster.storage import PROBE_KEY, is_key
from orchestrator.log.entry import NAME, JsonLike
from orchestrator.track.layout import (
    ANY_CHECKPOINT,
    ANY_INDEX,
    ANY_LOG,
    ANY_RECORD,
    ANY_RULES,
    ANY_VERSION,
    EVERYTHING,
    RULES_INDEX,
    RULES_LOG,
    team_root,
)

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
Role = Literal["reader", "publisher", "promoter", "gc", "admin", "evaluator"]
WRITES = {
    "reader": (),
    "publisher": (ANY_LOG, ANY_INDEX, ANY_VERSION, ANY_CHECKPOINT, PROBE_KEY),
    "promoter": (ANY_LOG, ANY_INDEX),
    "gc": (ANY_LOG, ANY_INDEX),
    "admin": (RULES_LOG, RULES_INDEX),
    "evaluator": (ANY_RECORD,),
}
DELETES = {"gc": (ANY_VERSION, ANY_INDEX)}
APPEND_ONLY = (ANY_LOG, ANY_INDEX, ANY_RULES)


def policy(
    team: str,
    role: Role,
    *,
    bucket: str = "BUCKET",
    prefix: str = "",
    principal: str | None = None,
    append_only: bool = False,
) -> dict[str, JsonLike]:
    """An identity policy, or with `principal` (an ARN) a bucket policy, for one role of a team in s3://bucket/prefix.

    `append_only` also refuses to overwrite the log (`s3:if-none-match`, which AWS knows and Ceph 16 does not). Raises
    ConfigError if a name is not valid.
    """
    if not (NAME.fullmatch(team) and BUCKET.fullmatch(bucket) and (not prefix or is_key(prefix))):
        raise ConfigError(f"policy: team {team!r}, bucket {bucket!r} or prefix {prefix!r} is not a name; correct it")
    top, arn = f"{prefix}/" if prefix else "", f"arn:aws:s3:::{bucket}"
    mine = f"{top}{team_root(team)}"

    def objects(names: tuple[str, ...]) -> list[str]:
        return [f"{arn}/" + (f"{top}{name}" if name == PROBE_KEY else name.format(t=mine)) for name in names]

    reads = (EVERYTHING, PROBE_KEY) if role == "publisher" else (EVERYTHING,)
    lists = [f"{mine}/*"] + [f"{top}{PROBE_KEY}"] * (role == "publisher")
    statements = [
        _allow("Read", ["s3:GetObject"], objects(reads)),
        {**_allow("List", ["s3:ListBucket"], [arn]), "Condition": {"StringLike": {"s3:prefix": lists}}},
    ]
    if WRITES[role]:
        statements.append(_allow("Write", ["s3:PutObject", "s3:AbortMultipartUpload"], objects(WRITES[role])))
    if role in DELETES:
        statements.append(_allow("Delete", ["s3:DeleteObject"], objects(DELETES[role])))
    if WRITES[role]:
        statements.append(
            _deny("NeverTheLog", ["s3:DeleteObject", "s3:DeleteObjectVersion"], objects((ANY_LOG, ANY_RULES)))
        )
    if role in ("publisher", "promoter", "gc", "evaluator"):
        changes = ["s3:PutObject", "s3:DeleteObject"]
        statements.append(_deny("NeverTheRules", changes, objects((ANY_RULES,))))
    if append_only and WRITES[role]:
        overwrites = _deny("NeverOverwriteTheLog", ["s3:PutObject"], objects(APPEND_ONLY))
        statements.append({**overwrites, "Condition": {"Null": {"s3:if-none-match": "true"}}})
    if principal:  # without Sid, which must differ within a document: several of these make one bucket policy
        statements = [{**each, "Principal": {"AWS": [principal]}} for each in statements]
        statements = [{name: value for name, value in each.items() if name != "Sid"} for each in statements]
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(name: str, actions: list[str], resources: list[str]) -> dict[str, JsonLike]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources}


def _deny(name: str, actions: list[str], resources: list[str]) -> dict[str, JsonLike]:
    return {**_allow(name, actions, resources), "Effect": "Deny"}
