"""Cells that spreadsheet programs show as they are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_peft.storage.cells import as_cell, of_cell

NAMES = st.text("=+-@\t\r'a1 ", max_size=6) | st.text()


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_formula_is_quoted(name):
    assert as_cell(name) == f"'{name}"


@pytest.mark.parametrize("name", ["", "sad", "a=b", "'tis", "1", "é"])
def test_other_names_stay(name):
    assert as_cell(name) == of_cell(name) == name


@settings(derandomize=True, deadline=None, database=None)
@given(NAMES, NAMES)
def test_every_name_comes_back(one, other):
    assert of_cell(as_cell(one)) == one
    assert (as_cell(one) == as_cell(other)) == (one == other)
    assert as_cell(one)[:1] not in ("=", "+", "-", "@", "\t", "\r")
