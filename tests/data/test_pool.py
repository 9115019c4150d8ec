"""Several corpora in one call of `prepare`."""

import pytest
import trees_b

from ser_peft.data import prepare, read_manifests
from ser_peft.data.pool import prepare_pool
from ser_peft.errors import InputError


@pytest.fixture
def places(ravdess_tree, tmp_path):
    root = tmp_path / "EmoDB"
    root.mkdir()
    trees_b.emodb_tree(root)
    return {"ravdess": ravdess_tree, "emodb": root}


def test_several_corpora_are_a_request_like_any_other(places, tmp_path):
    corpora = {
        "folders": places,
        "train": ["ravdess"],
        "test": ["emodb"],
        "whole_targets": True,
    }
    prepare(corpora, "nowhere", tmp_path / "a", 4, 2, "peft-ser")
    prepare_pool(
        places, tmp_path / "b", ["ravdess"], ["emodb"], 4, 2, "peft-ser", True
    )
    assert read_manifests(tmp_path / "a") == read_manifests(tmp_path / "b")
    about, _ = read_manifests(tmp_path / "a")
    assert about["protocol"] == "whole+peft-ser: ravdess to emodb"
    assert about["fold"] == 2


@pytest.mark.parametrize(
    ("change", "dimensions", "message"),
    [
        ({"tests": ["emodb"]}, (), "corpus: .*tests: several corpora need"),
        ({"folders": "/data"}, (), "corpora: /data: write"),
        ({"train": []}, (), r"train_corpora: \[\] is no list"),
        ({}, ["arousal"], "dimensions: arousal: every corpus has its own"),
    ],
)
def test_a_wrong_request(places, tmp_path, change, dimensions, message):
    corpora = {"folders": places, "train": ["ravdess"], "test": ["emodb"]}
    with pytest.raises(InputError, match=message):
        prepare(corpora | change, "", tmp_path / "out", dimensions=dimensions)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("corpus", [{}, {"folders": {}, "train": ["meld"]}])
def test_a_request_that_lacks_a_key(corpus, tmp_path):
    with pytest.raises(InputError, match="need folders, train and test"):
        prepare(corpus, "", tmp_path)
