"""CSV and TSV as they are written: cells a line against the header, and quotes that are letters."""

import pytest
from rows import each

from homodistil_hf.data.corpus import load_text
from homodistil_hf.data.delimited import check_cells
from homodistil_hf.tasks.reading import load_rows


@each(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nhello, world,1\nx,2\n", "line 2 of a.csv has 3 cells, the header 2 "),
        ("a.csv", "text,label\nx,1\nhello, world,1\n", "line 3 of a.csv has 3 cells"),
        ("a.csv", "text,label\nx,1,\ny,2,\n", "line 2 of a.csv has 3 cells"),
        ("a.csv", 'text,label\n"two\nlines",1\nb,2,3\n', "line 4 of a.csv has 3 cells"),
        ("a.csv", "text;label\nx;1;2\n", "quotes around cells with a ';' in them"),
        ("a.csv", 'text,label\nx,1\n"he said "no"",1\n', "quote behind line 2 of a.csv does not end"),
        ("a.csv", 'text,label\n"open,1\nb,2\n', "does not end its cell"),
        ("a.tsv", "text\tlabel\nx\t1\t\n", "line 2 of a.tsv has 3 cells"),
    ],
)
def test_lines_that_are_no_rows_of_the_header_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    for read in (lambda: load_rows([str(tmp_path / name)]), lambda: load_text(tmp_path / name, streaming=True)):
        with pytest.raises(ValueError, match=message):
            read()


@each(
    ("content", "texts"),
    [
        ('text\tlabel\n"ah\t1\nx\t2\n"y" z\t1\n', ['"ah', "x", '"y" z']),
        ('text\tlabel\n"ah\t1\nx"\t2\n', ['"ah', 'x"']),
        ('text\tlabel\n"a ""b"""\t1\nx\t2\n', ['a "b"', "x"]),
        ('text\tlabel\n"a\tb"\t1\n"two\nlines"\t2\n', ["a\tb", "two\nlines"]),
    ],
)
def test_quotes_in_tabs_enclose_cells_where_all_of_them_do(tmp_path, content, texts):
    (tmp_path / "a.tsv").write_text(content)
    assert load_rows([str(tmp_path / "a.tsv")])["text"][:] == texts
    assert load_text(tmp_path / "a.tsv", text_column="text")["text"][:] == texts


def test_a_cell_may_be_longer_than_pythons_reader_takes(tmp_path):
    (tmp_path / "a.csv").write_text(f"text,label\n{'x' * 300_000},1\ny,2\n")
    assert list(map(len, load_rows([str(tmp_path / "a.csv")])["text"])) == [300_000, 1]


def test_blanks_behind_all_separators_of_the_header_are_no_part_of_cells(tmp_path):
    (tmp_path / "a.csv").write_text('label, text\nyes, "a, b"\nno, c\n')
    (tmp_path / "b.csv").write_text("text,label\n a, yes\n")
    assert load_rows([str(tmp_path / "a.csv")])[:] == {"label": ["yes", "no"], "text": ["a, b", "c"]}
    assert load_text(tmp_path / "a.csv", streaming=False)["text"][:] == ["a, b", "c"]
    assert load_rows([str(tmp_path / "b.csv")])[:] == {"text": [" a"], "label": [" yes"]}


@each("content", ['text\na\n""\nb\n', "text\na\n  \n\nb\nc\n", 'text\na\n"  "\nb\n'])
def test_rows_are_counted_as_they_are_read(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    assert len(load_rows([str(tmp_path / "a.csv")])) == check_cells(tmp_path / "a.csv", "rows") == 3


def test_columns_of_one_name_are_words_too(tmp_path):
    (tmp_path / "rows.csv").write_text("text,id,id\na,007,008\n")
    assert load_rows([str(tmp_path / "rows.csv")])[0] == {"text": "a", "id": "007", "id.1": "008"}
