"""Documents of `autotune precision` on the pages; and each value replaced by whatever JSON can say."""

import json

import dashboard_samples as samples
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import VALUES, places, put

from autotune import UserError
from autotune.dashboard import build
from autotune.dashboard.collect import collect
from autotune.dashboard.page_elements import XY, Table
from autotune.dashboard.pages import precision


def test_the_page_answers_in_words(small_db, precision_file) -> None:
    page = precision.page(collect(small_db, None, [], [precision_file]))
    assert "in decode steps it is norm_qkv_rope (keys) of layer 2 (0.0003 of its output)" in page.answer
    words = page.details[0].blocks[0].text
    assert (
        "96.5, channel 17 of blk.0.attn_k_norm.weight, 77.2× the median: it turns an error of 0.0005 into 0.048"
        in words
    )
    shown = {
        cell.text for block in page.details[0].blocks if isinstance(block, Table) for row in block.rows for cell in row
    }
    assert {"22,550", "507", "llama.cpp: the model could not be loaded", "–"} <= shown
    by_layer = next(block for block in page.details[0].blocks if isinstance(block, XY))
    assert [series.name for series in by_layer.series] == ["norm_qkv_rope (keys)", "ffn"]


def test_the_page_without_documents_says_what_to_do(small_db) -> None:
    assert "give --precision FILE" in precision.page(collect(small_db)).answer


def test_every_number_says_its_unit_or_its_formula(small_db, precision_file) -> None:
    for block in precision.page(collect(small_db, None, [], [precision_file])).details[0].blocks:
        table = block.table() if isinstance(block, XY) else block
        for column in table.columns if isinstance(table, Table) else ():
            assert not column.numeric or column.about or "(" in column.name, column.name


def test_the_command(autotune, tmp_path, small_db, precision_file) -> None:
    page = tmp_path / "page.html"
    assert autotune("dashboard", "-o", page, "--db", small_db, "--precision", precision_file).exit_code == 0
    assert "norm_qkv_rope (keys) of layer 2" in page.read_text() and samples.HOSTILE not in page.read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[]", "which is no object"),
        (b"{", "is no JSON; give what autotune precision --json printed"),
        (b'{"model": "m"}', "lacks 'device'"),
        (b'{"model": "m", "device": {"chip": "c"}, "engines": [{"engine": "a", "path": "x"}]}', "neither decode nor"),
    ],
)
def test_what_is_no_document_is_one_line(autotune, tmp_path, small_db, content, says) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    result = autotune("dashboard", "-o", tmp_path / "page.html", "--db", small_db, "--precision", file)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and says in result.stderr, result.stderr


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere(folder, small_db, data) -> None:
    path, whole = folder / "changed-precision.json", samples.precision().document()
    path.write_text(json.dumps(put(whole, data.draw(st.sampled_from(list(places(whole)))), data.draw(VALUES))))
    try:
        assert "<html" in build.html(small_db, None, [], [path])
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
