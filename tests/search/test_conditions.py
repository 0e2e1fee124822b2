"""Filters and tables of metadata."""

import pytest

from dino_jax.search.conditions import parse_condition
from dino_jax.search.metadata import read_lines, read_table, write_lines
from tests.search.small_index import make_index

TABLE = {
    "a.jpg": {"brand": "acme", "price": "9.50", "since": "2026-01-31"},
    "b.jpg": {"brand": "Zeta", "price": 100, "since": "2025-12-01"},
    "c.jpg": {"brand": "", "price": None, "since": ""},
}


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["brand=acme"], "a"),
        (["brand!=acme"], "bcd"),
        (["price<100"], "a"),
        (["price<=1e2"], "ab"),
        (["price = 9.5"], "a"),
        (["price>9.5", "brand=Zeta"], "b"),
        (["brand="], "cd"),
        (["brand!="], "ab"),
        (["since>=2026-01-01"], "a"),
        (["name=b.jpg"], "b"),
        (["label=x"], "d"),
        (["price<cheap"], ""),
    ],
)
def test_filters_keep_what_they_say(tmp_path, texts, names):
    every = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    index = make_index(tmp_path / "i", every, TABLE, labels=[None, None, None, "x"])
    mask = index.allowed([parse_condition(text) for text in texts])
    assert [name for name, kept in zip("abcd", mask, strict=True) if kept] == list(names)


@pytest.mark.parametrize("text", ["", "price", "=3", "price~3"])
def test_what_is_no_filter_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"is no filter; write COLUMN=VALUE"):
        parse_condition(text)


def test_an_unknown_column_is_refused_with_what_was_meant(tmp_path):
    index = make_index(tmp_path / "i", ["a.jpg"], TABLE)
    with pytest.raises(ValueError, match="no column 'prize'; did you mean 'price'"):
        index.allowed([parse_condition("prize<3")])


def test_a_csv_is_read_by_its_key(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('\ufeffphoto,text\na.jpg,"one, two"\nb.jpg,\n')
    table = read_table(path, "photo")
    assert table == {"a.jpg": {"text": "one, two"}, "b.jpg": {"text": ""}}
    assert read_lines("".join(write_lines(table))) == table


def test_a_parquet_file_is_read_as_a_csv_is(tmp_path):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    columns = {"name": ["a", "b"], "price": [1.5, float("nan")], "old": [True, None]}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    wanted = {"a": {"price": 1.5, "old": True}, "b": {"price": None, "old": None}}
    assert read_table(tmp_path / "t.parquet", "name") == wanted
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not")
    with pytest.raises(ValueError, match="can't be read as Parquet"):
        read_table(tmp_path / "t.parquet", "name")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sku,price\n1,2\n", "no column --key=name; known"),
        ("name,price\na,2\na,3\n", "row 3 has the name 'a' of an earlier row"),
        ("name,price\na,2,3\n", "line 2 has another number of columns"),
        ("name,price\na\n", "line 2 has another number of columns"),
        ("name,price\n", "has no rows"),
        ('name,price\n"a,2\n', r"line \d: unexpected end of data"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_table(tmp_path / "t.csv", "name")
