"""Command lines of recipes."""

import pytest

from ser_peft.errors import InputError
from ser_peft.settings.flags import parse, split
from ser_peft.settings.places import is_place, place


def test_split_takes_every_way_of_writing():
    argv = [
        *("x.yaml", "--a=1", "--b", "2", "--c", "=", "3", "--d=", "4"),
        *("--e", "=5", "--f={0:", "x,", "1:", "y}", "--g=a=b=", "--h="),
        *("--output_folder", "- x", "--i"),
    ]
    assert split(argv) == (
        ["x.yaml"],
        [
            *(("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")),
            *(("f", "{0: x, 1: y}"), ("g", "a=b="), ("h", "")),
            *(("output_folder", "- x"), ("i", None)),
        ],
    )


def test_places():
    """The keys of all recipes that name files, folders or models."""
    places = """backbone text_backbone init_from teacher states data_folder
        output_folder save_folder manifests_folder log_config my_file"""
    assert all(map(is_place, places.split()))
    others = "seed classes features text_depth lobe modules pathology"
    assert not any(map(is_place, others.split()))


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert place("~", "key") == "/home/ann"
    assert place("~/a b", "key") == "/home/ann/a b"
    assert place("~root/x", "key").endswith("/x")
    for text in ("./~", "a~", "$HOME", "x/~/y"):
        assert place(text, "key") == text
    with pytest.raises(InputError, match="key: ~nobody1/x: .* no user nobody1"):
        place("~nobody1/x", "key")
    with pytest.raises(InputError, match="key: .*not UTF-8"):
        place("caf\udce9", "key")


def test_options_are_speechbrains():
    file, options, given = parse(
        ["x.yaml", "--device", "=", "cpu", "--seed=3", "--debug",
         "--optimizer_step_limit=7"]
    )  # fmt: skip
    assert (file, given) == ("x.yaml", {"seed": "3"})
    assert options["device"] == "cpu" and options["debug"]
    assert options["optimizer_step_limit"] == 7
    assert options.overridden_args == {
        "device", "debug", "optimizer_step_limit"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x.yaml", "y.yaml"], "y.yaml: not understood"),
        (["x.yaml", "--"], "--: no key"),
        (["x.yaml", "--a-b=1"], "--a-b: no key"),
        (["x.yaml", "--seed"], "--seed: has no value"),
        (["x.yaml", "--seed=1", "--seed", "2"], "--seed: is given twice"),
        (["x.yaml", "--out_folder=my", "run"], "--out_folder=my run: 'run' is"),
        (["x.yaml", "--device"], "argument --device: expected one argument"),
        (["x.yaml", "--debug=True"], "--debug: ignored explicit argument"),
        (["x.yaml", "--debug_epochs=x"], "--debug_epochs: invalid int"),
        (["x.yaml", "--precision=fp8"], "--precision: invalid choice"),
        (["x.yaml", "--param_file=x"], "param_file: x: not understood|--param"),
        (["x.yaml", "--jit"], "--jit: .* leave it out"),
        (["x.yaml", "--auto_mix_prec"], "give --precision=fp16"),
    ],
)
def test_refuses(argv, message):
    with pytest.raises(InputError, match=message):
        parse(argv)
