"""Several corpora in one call of `prepare`."""

import pytest

from ser_peft.data import prepare
from ser_peft.errors import InputError

CORPORA = {"folders": {"emodb": "/x"}, "train": ["emodb"], "test": ["emodb"]}


@pytest.mark.parametrize(
    ("change", "dimensions", "message"),
    [
        ({"tests": ["emodb"]}, (), "corpus: .*tests: .*; write {folders: "),
        ({"folders": "/data"}, (), "folders: .*dictionary, not '/data'"),
        ({"train": [1]}, (), "train, 0: should be text, not 1"),
        ({"test": None}, (), "test: .*list, not None"),
        ({"whole_targets": "yes"}, (), "whole_targets: .*boolean, not 'yes'"),
        ({"test": ["ravdess"]}, (), "corpora: ravdess has no folder; give"),
        ({}, ["arousal"], "dimensions: arousal: every corpus has its own"),
        ({}, (), "corpora: emodb: data_folder /x: no such folder"),
    ],
)
def test_a_wrong_request(tmp_path, change, dimensions, message):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message) as raised:
        prepare(CORPORA | change, "", out, dimensions=dimensions)
    assert not out.exists() and "\n" not in str(raised.value)


def test_a_request_that_lacks_a_key(tmp_path):
    for key in CORPORA:
        corpora = {k: v for k, v in CORPORA.items() if k != key}
        with pytest.raises(InputError, match=f"corpus: .*has no '{key}'"):
            prepare(corpora, "", tmp_path)
