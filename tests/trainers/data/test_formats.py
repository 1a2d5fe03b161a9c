"""Named columns of CSV, JSON and Parquet, as they are written."""

import bz2
import gzip
import json
import lzma
import tracemalloc
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainers.data.formats import Columns, csv, read

WANTED = ("text", "label")


def values(path: Path, content: str | bytes, form: str, **options) -> tuple[list, list]:
    """The two columns of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read(path, form, WANTED, **options).values
    return found["text"], found["label"]


@pytest.mark.parametrize(
    ("content", "texts", "labels"),
    [
        ("text,label\nNA,None\nnull,007\n", ["NA", "null"], ["None", "007"]),
        ("\ufefftext,label\r\na,1.0\r\n", ["a"], ["1.0"]),
        ('text,label\n"a, ""b""\r\nc",x', ['a, "b"\r\nc'], ["x"]),
        ("id,label,more,text\n1,x,y,a\n", ["a"], ["x"]),
        ("text,label\n\n   \na,x\n\n", ["a"], ["x"]),  # blank lines
        ("text,label\na\n,x\n", ["a", ""], ["", "x"]),  # a row that is cut short
        ("text,label\na\0b,x\n", ["a\0b"], ["x"]),
        ("text,label\n a ,2024-01-01\n", [" a "], ["2024-01-01"]),
        ("text,label,x,x\na,b,c,d\n", ["a"], ["b"]),  # two columns of one name that no task names
        ('text,label\nthe 5" pipe,x\n"a"b,y\n', ['the 5" pipe', "ab"], ["x", "y"]),
        ("text,label\na\u2028b\x85c,x\n", ["a\u2028b\x85c"], ["x"]),
        ("text,label\n" + "a" * 200_000 + ",x\n", ["a" * 200_000], ["x"]),
    ],
)
def test_csv(tmp_path, content, texts, labels):
    limit = csv.field_size_limit()
    assert values(tmp_path / "x", content, "csv") == (texts, labels)
    assert csv.field_size_limit() == limit


def test_csv_of_another_separator(tmp_path):
    assert values(tmp_path / "x", "text\tlabel\na, b\tx\n", "csv", separator="\t") == (["a, b"], ["x"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('text,label\na,b\n"c,d\n', "row 2 opens a quote that is not closed"),
        ('text,label\na,"b', "row 1 opens a quote"),
        ('text,"label\na,b', "row 0 opens a quote"),
        ("text,label\na,b\nc,d,e\n", "row 2 has 3 fields, the header 2; quote texts"),
        ("text,label,text\na,b,c\n", "two columns 'text'; rename one"),
        ("text,label\n\xff,b\n".encode("latin-1"), "line 2: byte 0xff is not UTF-8, and 'ÿ' in Windows-1252"),
        ("text,label\na,b\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        ("text,label\na,b\n".encode("utf-16-be"), "it is UTF-16"),
        (gzip.compress("text,label\na,b\n".encode("utf-16-le"), mtime=0), "it is UTF-16"),
        (gzip.compress(b"text,label\na,b\n" * 99, mtime=0)[:40], "ended before"),
        (b"PK\x03\x04text", "it is a zip archive; unpack it"),
    ],
)
def test_csv_that_is_refused(tmp_path, content, complaint):
    with pytest.raises((ValueError, EOFError), match=complaint):
        values(tmp_path / "x", content, "csv")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: pa.compress(data, "zstd")])
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_compressed_text_is_told_by_its_bytes(tmp_path, pack, name):
    packed = pack(b"\xef\xbb\xbftext,label\nNA,007\n")
    packed = packed if isinstance(packed, bytes) else packed.to_pybytes()
    assert values(tmp_path / name, packed, "csv") == (["NA"], ["007"])


def test_gzip_members_one_after_the_other(tmp_path):
    packed = gzip.compress(b"text,label\na,b\n") + gzip.compress(b"c,d\n")
    assert values(tmp_path / "x", packed, "csv") == (["a", "c"], ["b", "d"])


ODD = [1, 1.0, True, None, "2024-01-01", "1", ["a"], {"b": 1}, 10**25]


@pytest.mark.parametrize(
    "content",
    [
        "".join(json.dumps({"meta": each, "text": "a", "label": each}) + "\r\n" for each in ODD),
        "\ufeff" + "\n\n".join(json.dumps({"text": "a", "label": each}) for each in ODD),
        json.dumps([{"text": "a", "label": each, "n": {"text": 3}} for each in ODD]),
        json.dumps([{"text": "a", "label": each} for each in ODD], indent=2) + "\n",
        json.dumps({"text": ["a"] * len(ODD), "label": ODD}),
        json.dumps({"text": ["a"] * len(ODD), "label": ODD}, indent=1),
        json.dumps({"text": dict.fromkeys(map(str, range(9)), "a"), "label": dict(enumerate(ODD))}),  # by pandas
    ],
)
def test_json(tmp_path, content):
    texts, labels = values(tmp_path / "x", content, "json")
    assert texts == ["a"] * len(ODD)
    assert list(map(repr, labels)) == list(map(repr, ODD))


def test_keys_that_a_row_lacks_are_null(tmp_path):
    content = '{"label": "x"}\n{"text": "a", "late": {"page": 1}}\n{"text": null, "label": "y", "late": 3}'
    assert values(tmp_path / "x", content, "json") == ([None, "a", None], ["x", None, "y"])
    found = read(tmp_path / "x", "json", ("text", "labels"))
    assert (set(found.values), set(found.names)) == ({"text"}, {"text", "label", "late"})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "a"}\n{"text": "a", ', "row 2: .*"),
        ('{"text": "a"}\n["a", "b"]', "row 2 is no object"),
        ("5\n", "row 1 is no object"),
        ('{"text": "a", "text": "b"}', "row 1 has two keys 'text'; remove one"),
        ('[{"text": "a"}, {"text": "a"', "row 2: "),
        ('[{"text": "a"} {"text": "a"}]', "row 1 is followed by neither a comma"),
        ('[{"text": "a"},]', "row 2: "),
        ('[{"text": "a"}] 5', "something follows the list"),
        ("[{]", "row 1: "),
        ('{"text": "a"} {"text": "b"}', "row 1: Extra data"),
        ('{\n"text": ["a",\n', "row 1: "),
        ('{"text": "a"}\n'.encode("utf-16"), "it is UTF-16"),
        (b'{"text": "\xff"}', "line 1: byte 0xff is not UTF-8"),
    ],
)
def test_json_that_is_refused(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=complaint):
        values(tmp_path / "x", content, "json")


def test_other_keys_may_be_there_twice(tmp_path):
    content = '{"text": "a", "label": "x", "m": 1, "m": 2, "n": {"text": 1, "text": 2}}'
    assert values(tmp_path / "x", content, "json") == (["a"], ["x"])


@pytest.mark.parametrize("content", ["", "\n \n", "[]", " [ ] "])
def test_no_rows(tmp_path, content):
    (tmp_path / "x").write_text(content)
    assert read(tmp_path / "x", "json", WANTED) == Columns()


def test_what_no_task_names_is_not_kept(tmp_path):
    """14 MB as in the field, of which the two columns are a hundredth: memory is that of the columns."""
    with (tmp_path / "x").open("w") as file:
        for i in range(2000):
            meta = None if i < 1900 else {"page": i}
            file.write(json.dumps({"text": f"row {i}", "label": "ab"[i % 2], "long": "x" * 7000, "meta": meta}) + "\n")
    tracemalloc.start()
    found = read(tmp_path / "x", "json", WANTED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.rows, found.values["text"][-1]) == (2000, "row 1999")
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["007", "None", None], pa.large_string()), ["007", "None", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([True, False, None]), [True, False, None]),
        (pa.array([1, 0, None], pa.uint8()), [1, 0, None]),
        (pa.array([0.1, 1.0, None], pa.float32()), [0.1, 1.0, None]),
        (pa.array([0.1, 1.0, None], pa.float64()), [0.1, 1.0, None]),
        (pa.array([Decimal("1.50"), Decimal("2.00"), None]), [Decimal("1.50"), Decimal("2.00"), None]),
        (pa.array([date(2024, 1, 1)] * 3), [date(2024, 1, 1)] * 3),
        (pa.array([datetime(2024, 1, 1)] * 3), [datetime(2024, 1, 1)] * 3),
        (pa.array([["a"], [], None]), [["a"], [], None]),
        (pa.array([b"a", b"b", None]), [b"a", b"b", None]),
        (pa.nulls(3), [None] * 3),
    ],
)
def test_parquet(tmp_path, array, expected):
    table = pa.table({"other": pa.array([{"a": 1}] * 3), "label": array, "text": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "x", row_group_size=2)
    found = read(tmp_path / "x", "parquet", WANTED)
    assert found.names == ("other", "label", "text")
    assert list(map(repr, found.values["label"])) == list(map(repr, expected))
    assert found.values["text"] == ["x", "y", "z"]


def test_parquet_that_is_refused(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), tmp_path / "x")
    with pytest.raises(ValueError, match="two columns 'text'; rename one"):
        read(tmp_path / "x", "parquet", WANTED)
    with pytest.raises(ValueError, match="magic bytes"):
        values(tmp_path / "x", "no parquet", "parquet")


def test_columns_are_put_together_and_sliced():
    found = Columns()
    found.add(Columns(("text",), {"text": ["a", "b"]}))
    found.add(Columns(("text", "label"), {"text": ["c"], "label": ["x"]}, {"label": ("n",)}))
    assert found == Columns(("text", "label"), {"text": ["a", "b", "c"], "label": [None, None, "x"]}, {"label": ("n",)})
    assert found.slice(1, 3).values == {"text": ["b", "c"], "label": [None, "x"]}
    assert found.rows == 3
    assert Columns().rows == 0
