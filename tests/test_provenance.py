"""Models that may have heard the test speakers are refused."""

import json

import pytest

from ser_peft.errors import InputError
from ser_peft.provenance import check_unheard

ABOUT = {"corpus": "x", "protocol": "p", "fold": 1, "protocol_sha": "a"}


@pytest.fixture
def model(tmp_path):
    """Function: what stands beside a ``model/`` folder -> the folder."""

    def make(name="results.json", **changes):
        (tmp_path / name).write_text(json.dumps(ABOUT | changes))
        return tmp_path / "model"

    return make


def test_of_this_very_deal(model):
    assert check_unheard(model(), ABOUT, {"s"}, "teacher") == "a"


def test_of_another_corpus(model):
    other = model(corpus="y", protocol_sha="b", fold=2)
    assert check_unheard(other, ABOUT, {"s"}, "teacher") == "b"


def test_of_other_classes_of_the_same_test_speakers(model):
    """Or of more test speakers."""
    run = model(protocol_sha="b", fold=2, test_speakers=["s", "t"])
    assert check_unheard(run, ABOUT, {"s"}, "init_from") == "b"
    with pytest.raises(InputError, match="init_from .*fold 2, and may have"):
        check_unheard(run, ABOUT, {"s", "u"}, "init_from")


def test_of_the_same_fold_but_tested_on_others(model):
    """As of two pools of corpora: the name of the protocol is not enough."""
    run = model(protocol_sha="b", test_speakers=["t"])
    with pytest.raises(InputError, match="may have heard"):
        check_unheard(run, ABOUT, {"s"}, "init_from")


def test_of_a_pretraining(model):
    run = model("pretraining.json", protocol_sha="b")
    assert check_unheard(run, ABOUT, {"s"}, "init_from") == "b"
    run = model("pretraining.json", protocol_sha="b", fold=3)
    with pytest.raises(InputError, match="of p, fold 3.*give one of p, fold 1"):
        check_unheard(run, ABOUT, {"s"}, "init_from")


def test_of_nobody_knows_what(model, tmp_path, caplog):
    """Also where another run's results lie beside it by chance."""
    model(fold=2)
    shipped = tmp_path / "shipped"
    assert check_unheard(shipped, ABOUT, {"s"}, "teacher") is None
    assert "nobody can tell" in caplog.text


def test_broken(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match="results.json: cannot be read"):
        check_unheard(tmp_path / "model", ABOUT, {"s"}, "teacher")
