"""Yamls and command lines together: what a run's settings are."""

import os
from io import StringIO

import pytest
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML

from ser_peft.errors import InputError
from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.building import building
from ser_peft.settings.finished import finished
from ser_peft.settings.yamls import read_settings

TEXT = """\
seed: 8
fold: 1
classes: 4
corpora: {a: ~/corpora/a, "1": !ref <output_folder>/b}
output_folder: !ref results/fold<fold>/<seed>
save_folder: !ref <output_folder>/<seed>/save
init_from:
more: !new:collections.Counter
    save_folder: !ref <save_folder>
"""


@pytest.fixture
def settings(tmp_path):
    """Function: flags, content of the yaml -> its settings, also as text."""

    def read(*flags, text=TEXT):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        file, options, given = parse_arguments([str(path), *flags])
        reads = {"classes", "corpora", "init_from", "more", "a", "b"}
        text = read_settings(
            file, given, reads | {"output_folder", "save_folder"}, options
        )
        return YAML().load(text), text

    return read


def build(text):
    """Build a yaml, as train.py does."""
    with building("x.yaml"):
        return load_hyperpyyaml(StringIO(text))


NAMES = [
    "run #2", "a: b", "[2024] x", "null", "1e5", "it's", '"q"', "{x}", "!x",
    "&x", "*x", "%x", "- x", "yes", " x ", "\u00e4", "(1)", "(1, 2)", "<seed>",
    "a<b>c", "2024/8", "1/0", "a=b", "--x", "a  b\tc", "\\n", "@x", "|", "?",
    "00:10", "2024-01-01", "__place_0__", "{output_folder}", "$HOME", "=",
    "\U0001f600", 60 * "long and " + "long", "!!ref x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_place_is_taken_as_it_is_written(settings, tmp_path, name):
    found, text = settings(f"--output_folder={name}", f"--init_from={name}")
    expected = {
        "output_folder": name,
        "save_folder": f"{name}/8/save",
        "init_from": name,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["corpora"]["1"] == f"{name}/b"
    built = build(text)
    assert {key: built[key] for key in expected} == expected
    assert built["more"]["save_folder"] == f"{name}/8/save"
    (tmp_path / "hyperparams.yaml").write_text(text, encoding="utf-8")
    assert not finished(text, tmp_path)
    # In the yaml itself, too.
    plain = TEXT.replace("init_from:", f"init_from: {quoted(name)}")
    assert settings(text=plain)[0]["init_from"] == name


def quoted(text):
    """A text in single quotes, which yaml takes as it is."""
    return "'" + text.replace("'", "''") + "'"


def test_home_is_expanded(settings, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    found, _ = settings(
        "--output_folder", "=", "~/run #2", "--init_from=~", "--corpora",
        "{b: ~/b, 2024: '~/c d'}",
    )  # fmt: skip
    assert found["output_folder"] == "/home/ann/run #2"
    assert found["save_folder"] == "/home/ann/run #2/8/save"
    assert found["init_from"] == "/home/ann"
    assert found["corpora"] == {
        "a": "/home/ann/corpora/a", "1": "/home/ann/run #2/b",
        "b": "/home/ann/b", "2024": "/home/ann/c d",
    }  # fmt: skip
    home = TEXT.replace("init_from:", "init_from: ~/runs/x")
    assert settings(text=home)[0]["init_from"] == "/home/ann/runs/x"
    found, _ = settings("--init_from=!ref ~/x y/fold<fold>/<seed>")
    assert found["init_from"] == "/home/ann/x y/fold1/8"
    assert settings("--init_from=")[0]["init_from"] is None
    with pytest.raises(InputError, match="--output_folder=... is needed"):
        settings("--output_folder=")


def test_labels_are_texts(settings):
    """As they are written: a csv has no others."""
    written = (
        "{0: a, 2.0: a, True: a, null: '(x)', 1e5: b, 2024-01-01: b, no: 7}"
    )
    labels = ["0", "2.0", "True", "null", "1e5", "2024-01-01", "no"]
    expected = dict(
        zip(labels, ["a", "a", "a", "(x)", "b", "b", "7"], strict=True)
    )
    found, text = settings(f"--classes={written}")
    assert found["classes"] == expected == build(text)["classes"]
    found, text = settings(
        text=TEXT.replace("classes: 4", f"classes: {written}")
    )
    assert found["classes"] == expected == build(text)["classes"]


def test_tuples_stay_tuples(settings):
    _, text = settings(text=TEXT + "a: (3, 4)\nb: '(3, 4)'\n")
    built = build(text)
    assert built["a"] == (3, 4) and built["b"] == "(3, 4)"


def test_includes_are_beside_the_yaml(settings, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "lora.yaml").write_text("r: 3\nc: !include:c.yaml\n")
    (tmp_path / "sub" / "c.yaml").write_text(
        "!new:collections.Counter {x: 1}\n"
    )
    _, text = settings(text=TEXT + "a: !include:sub/lora.yaml {r: 4}\n")
    assert build(text)["a"] == {"r": 4, "c": {"x": 1}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("a: !include:none.yaml {}\n", "!include:.*none.yaml: No such file"),
        ("a: !include:. {}\n", "!include:.*: Is a directory"),
        ("a: !ref <seed>/0\n", "division by zero"),
        ("a: !ref <seed[x]>\n", "not iterable"),
        ("a: 2024-99-99\n", "month"),
        ("a: !!int x\n", "invalid literal"),
        ("a:\n\tb: 1\n", "not valid yaml"),
        ("8: x\n", "nothing reads the key '8'"),
    ],
)
def test_bad_yamls(settings, more, message):
    with pytest.raises(InputError, match=f"x.yaml.*{message}"):
        settings(text=TEXT + more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("!new:nowhere.Thing", "no such class as nowhere.Thing"),
        ("!new:torch.relu", "should be a class"),
        ("!bogus 3", "'!bogus'"),
        ("!new:torch.nn.Linear {bogus: 1}", "'bogus'"),
        ("!new:torch.nn.Linear {in_features: -1, out_features: 2}",
         "torch.nn.Linear: .*negative"),
        ("!apply:open [/no/where]", "open: .*'/no/where'"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(settings, more, message):
    _, text = settings(text=f"{TEXT}a: {more}\n")
    with pytest.raises(InputError, match=f"x.yaml: .*{message}"):
        build(text)


def test_an_object_is_not_replaced_by_a_value(settings):
    with pytest.raises(InputError, match="--more=3: .* has !new:collections"):
        settings("--more=3")
    assert settings("--more={b: 2}")[0]["more"]["b"] == 2
    # Another object does.
    _, text = settings("--more=!new:collections.OrderedDict {b: 3}")
    assert build(text)["more"] == {"b": 3}


@pytest.mark.parametrize(
    "content", [bytes(range(256)), TEXT.encode("utf-16"), None]
)
def test_no_yaml_at_all(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match="x.yaml: cannot be read"):
        parse_arguments([str(path)])
    assert os.listdir(tmp_path) == ["x.yaml"]
