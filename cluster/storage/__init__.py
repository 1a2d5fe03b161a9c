"""Where bytes live: a folder or an S3 bucket behind one small interface. Knows no machine learning.

What writers must agree on rests on one conditional operation, `put_if_absent`: stores disagree on all the others.
"""

from cluster.storage.files import FileRecord, download_files, upload_contents, upload_files
from cluster.storage.interface import Content, Keys, Store, is_key
from cluster.storage.local import LocalStore
from cluster.storage.opening import DEFAULT_STORE, PROBE_KEY, open_store, probe
from cluster.storage.s3 import S3Store

__all__ = [
    "DEFAULT_STORE",
    "PROBE_KEY",
    "Content",
    "FileRecord",
    "Keys",
    "LocalStore",
    "S3Store",
    "Store",
    "download_files",
    "is_key",
    "open_store",
    "probe",
    "upload_contents",
    "upload_files",
]
