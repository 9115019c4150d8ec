"""Tables as spreadsheet programs of all countries and ages write them."""

import codecs
import logging

import pytest

from ser_peft.corpora import read_table
from ser_peft.errors import InputError

TEXT = """path,label,speaker
a.wav,sad,\u00e4nne
b.wav,"happy, yes",ben
"""
CELLS = [("a.wav", "sad", "\u00e4nne"), ("b.wav", "happy, yes", "ben")]


@pytest.fixture
def read(tmp_path):
    """Function: text or bytes of a table -> its rows."""

    def run(content, columns=("path", "label", "speaker"), **kwargs):
        path = tmp_path / "my.csv"
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return read_table(path, columns, **kwargs)

    return run


def cells(rows):
    return [tuple(row.values()) for _, row in rows]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings(read, caplog, encoding, end):
    rows = read(TEXT.replace("\n", end).encode(encoding))
    assert cells(rows) == CELLS
    assert ("cp1252" in caplog.text) == (encoding in ("cp1252", "latin-1"))


def test_big_endian(read):
    text = codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")
    assert cells(read(text)) == CELLS


@pytest.mark.parametrize("hint", ["", "sep={}\r\n", '"sep={}"\n', "SEP={}\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters(read, delimiter, hint):
    text = TEXT.replace(", ", "COMMA").replace(",", delimiter)
    rows = read(hint.format(delimiter) + text.replace("COMMA", ", "))
    assert cells(rows) == CELLS
    # As a spreadsheet program counts, which does not show the hint.
    assert rows[-1][0].endswith("my.csv, row 3")


def test_the_columns_tell_the_delimiter(read):
    """Not what occurs most."""
    text = "path;label;text\na,b.wav;sad;well, no, no, no\n"
    rows = read(text, ("path", "label"), optional=["text"])
    assert cells(rows) == [("a,b.wav", "sad", "well, no, no, no")]
    assert cells(read("path\na;b|c\n", ["path"])) == [("a;b|c",)]


def test_names_of_columns(read):
    rows = read(
        "\n;;\nLabel ; PATH; Speaker;Gender;My Own;;\nsad;a;x;F;1;;\n",
        optional=["gender", "text"],
    )
    assert [row for _, row in rows] == [
        {"label": "sad", "path": "a", "speaker": "x", "gender": "F",
         "My Own": "1"}
    ]  # fmt: skip


def test_empty_rows_are_skipped_but_counted(read):
    rows = read(TEXT.replace("\nb", "\n\n,,\n   \nb") + "\n,,,\n  \n")
    assert cells(rows) == CELLS
    assert [where.split()[-1] for where, _ in rows] == ["2", "6"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        ("path,label\na,b\n", "no column 'speaker'; it has path, label"),
        ("file;emotion\n", "no column 'path'; it has file, emotion"),
        ("path,label,speaker,Label\n", "2 columns are called 'label'"),
        ("path,label,speaker,x,x\n", "2 columns are called 'x'"),
        ("path,label,speaker\na,b\n", "row 2, column speaker: the row ends"),
        (
            "path,label,speaker\na,b,c,d\n",
            "row 2: 4 cells for 3 columns; .*','",
        ),
        (TEXT + '"c.wav' + 200_000 * "x", "is a quote left open"),
        (TEXT.replace("sad", "s\0d"), "is no text in UTF-8"),
        (TEXT.encode("utf-16-le"), "is no text in UTF-8, in UTF-16 with its"),
        (TEXT.encode("utf-32"), "save it as CSV UTF-8"),
        (bytes(range(256)), "is no text in UTF-8"),
        (b"PK\3\4" + bytes(30), "is a workbook"),
        (b"\xd0\xcf\x11\xe0" + bytes(30), "is a workbook"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_refuses(read, caplog, content, message):
    caplog.set_level(logging.WARNING)
    with pytest.raises(InputError, match=f"my.csv.*{message}"):
        read(content)
    assert caplog.text == ""  # no guess before the refusal


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="cannot be read .Is a directory"):
        read_table(tmp_path, ["path"])
