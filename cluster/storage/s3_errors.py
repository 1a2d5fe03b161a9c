"""Errors of the SDK as this project's errors: failures that may pass, failures that will not, absent objects."""

from typing import Any

from cluster.errors import KeyAbsentError, StoreError
from cluster.storage.retry import PassingError

REASONS = {  # by the code of an error answer, or by class of an SDK error
    "NoSuchBucket": "no such bucket; create it, or correct `store`",
    "AccessDenied": "access denied; allow s3:GetObject, s3:PutObject and s3:ListBucket to these credentials",
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"), "credentials refused; renew them"),
    "RequestTimeTooSkewed": "this machine's clock is too far from the store's; set it",
    "NoCredentialsError": "no credentials found; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "CertificateError": "its certificate is not trusted; name the authority's file in AWS_CA_BUNDLE",
    "ConnectionError": "cannot connect; check the network and AWS_ENDPOINT_URL",
    "HTTPClientError": "the connection broke off; run again",
    "IncompleteReadError": "the connection broke off; run again",
    "ResponseParserError": "what answers there is no S3 store; check AWS_ENDPOINT_URL",
    "ValueError": "AWS_ENDPOINT_URL is not a URL; write it as https://host:port",
}
PASSING_STATUS = {408, 409, 429, 500, 502, 503, 504}
PASSING_CODES = {"RequestTimeout", "RequestTimeoutException"}
PASSING_CLASSES = {"ConnectionError", "HTTPClientError", "IncompleteReadError", "OSError"}
SOON_S = 5.0  # of patience with these: a broken answer is possible, a wrong server more likely
SOON = {"ResponseParserError", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}


class S3Error(StoreError):
    """A refusal: HTTP `status`, 0 if no answer came, and the answer's `code`, or the class of the SDK's error."""

    status, code = 0, ""


class S3PassingError(S3Error, PassingError):
    """A failure that may pass."""


def translated(error: Exception, action: str, key: str, uri: str, at: str) -> StoreError:
    """The error to raise instead of the SDK's. It never quotes the SDK's message, which may hold secrets."""
    answer: dict[str, Any] = getattr(error, "response", None) or {}
    names = [str(answer["Error"]["Code"])] if answer else [kind.__name__ for kind in type(error).__mro__]
    if names[0] in ("NoSuchKey", "404"):
        return KeyAbsentError(f"store {uri}: no object {key!r}")
    if not answer and any(sign in str(error).upper() for sign in ("CERTIFICATE", "WRONG_VERSION_NUMBER")):
        names = ["CertificateError"]
    status = int(answer["ResponseMetadata"]["HTTPStatusCode"]) if answer else 0
    reasons = [REASONS[name] for name in names if name in REASONS]
    reason = reasons[0] if reasons else f"{names[0]}; check the store and the AWS settings"
    passing = status in PASSING_STATUS or names[0] in PASSING_CODES or (not answer and PASSING_CLASSES & {*names})
    soon = SOON & {*names}
    kind = S3PassingError if passing or soon else S3Error
    failure = kind(f"store {uri} at {at}: cannot {action} {key!r}: {reason}")
    failure.status, failure.code = status, names[0]
    if soon and isinstance(failure, PassingError):
        failure.at_most_s = SOON_S
    return failure
