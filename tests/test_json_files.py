"""Every JSON file is read by one function, which refuses what has another form in one line."""

from typing import Any

import pytest

from sharedq.errors import SharedqError
from sharedq.json_files import Maybe, parse_json, read_json

FORM = {"step": int, "rate": float, "names": [str], "parts": {str: {"bytes": int}}, "note": Maybe(str | None), "x": Any}
RIGHT = '{"step": 1, "rate": 2, "names": ["a"], "parts": {"p": {"bytes": 3}}, "x": [{}], "more": true}'


def test_what_has_the_form_is_read_as_it_stands(tmp_path):
    (tmp_path / "right.json").write_text(RIGHT)
    assert read_json(tmp_path / "right.json", FORM, "train again")["parts"] == {"p": {"bytes": 3}}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"step": 1', '"step": true', "step must be a whole number, not true"),
        ('"step": 1', '"step": 1.5', "step must be a whole number, not 1.5"),
        ('"step": 1, ', "", "'step' is missing"),
        ('"step": 1', '"step": 1, "step": 2', "'step' appears twice"),
        ('"rate": 2', '"rate": NaN', "NaN is not a JSON number"),
        ('"rate": 2', f'"rate": {10**400}', "rate must be a number"),
        ('"rate": 2', '"rate": 1e999', "rate must be a number"),
        ('["a"]', '["a", 1]', r"names\[1\] must be a text, not 1"),
        ('["a"]', '"a"', "names must be a list"),
        ('{"bytes": 3}', "[]", r"parts.p must be an object, not \[\]"),
        ('"x"', '"note": 1, "x"', "note must be a text or null, not 1"),
        ('"p": {', '"\\u001b[31m": 1, "p": {', "parts.\N{REPLACEMENT CHARACTER}.31m must be an object, not 1"),
        ('"p": {', '"\\ud800": 1, "\\ud800": 1, "p": {', "'\N{REPLACEMENT CHARACTER}' appears twice"),
        ("[{}]", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (RIGHT, "[]", r"the content must be an object, not \[\]"),
        (RIGHT, RIGHT[:-3], "Expecting|Unterminated"),
        (RIGHT, "9" * 5_000, "Exceeds the limit|must be an object"),
    ],
)
def test_another_form_is_refused_with_the_place(old, new, reason):
    with pytest.raises(SharedqError, match=reason) as told:
        parse_json(RIGHT.replace(old, new), FORM, "run/file.json", "train again")
    assert str(told.value).startswith("run/file.json was edited or damaged (")
    assert str(told.value).endswith("): train again")
    assert "\n" not in str(told.value)


def test_bytes_that_are_no_text_and_absent_files_are_refused(tmp_path):
    (tmp_path / "odd.json").write_bytes(b'"\xff\xfe"')
    for name in ("odd.json", "absent.json", ""):
        with pytest.raises(SharedqError, match="train again"):
            read_json(tmp_path / name, Any, "train again")
