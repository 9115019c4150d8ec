"""Manifests that were changed by hand or damaged."""

import json
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_peft.corpora.transcripts import text_sources
from ser_peft.data import batch_sampler, datasets
from ser_peft.data.manifests import read_manifests
from ser_peft.data.provenance import Heard
from ser_peft.data.writing import held
from ser_peft.errors import InputError
from ser_peft.evaluation.fairness import group_columns

CLIP = "03-01-01-01-01-01-01"  # of the test split


@pytest.fixture
def copy(manifests, tmp_path):
    """Manifests that may be changed."""
    return shutil.copytree(manifests, tmp_path / "manifests")


def change(folder, name, edit):
    """Rewrite one JSON of a folder."""
    path = folder / f"{name}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def set_to(**values):
    """An edit of the clip."""
    return "test", lambda content: content[CLIP].update(values)


def about(**values):
    """An edit of protocol.json."""
    return "protocol", lambda content: content.update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_to(duration="3"), f"test.json: .*{CLIP}, duration: .*, not '3'"),
        (set_to(duration=-1.5), "duration: .*, not -1.5"),
        (set_to(duration=1e300), "duration: .*, not 1e\\+300"),
        (set_to(duration=10**400), "duration: .*, not 10"),
        (set_to(duration=True), "duration: .*, not True"),
        (set_to(duration=float("nan")), "JSON: duration: nan is no number"),
        (set_to(duration=float("inf")), "duration: inf is no number"),
        (set_to(emotion=["sad"]), "emotion: should be text, not .'sad'."),
        (set_to(emotion=None), "emotion: should be text, not None"),
        (set_to(speaker=1), "speaker: should be text, not 1"),
        (set_to(speaker=" "), "speaker: should be text that is not empty"),
        (set_to(wav=None), "wav: should be text, not None"),
        (set_to(wav="a\0b"), r"wav: should be a path, not 'a\\x00b'"),
        (set_to(text=3), "text: should be text, not 3"),
        (set_to(age=[31]), r"age: should be text or a number, not \[31\]"),
        (set_to(age=10**30), "age: should be a finite number, not 1000"),
        (("test", lambda c: c.update({CLIP: []})), f"{CLIP}: .*dictionary"),
        (about(fold=0), "protocol.json: .*fold: .*, not 0"),
        (about(fold=6), "protocol.json: .*fold: 6 of 5"),
        (about(fold=1.5), "fold: .*, not 1.5"),
        (about(fold=True), "fold: .*, not True"),
        (about(classes="sad"), "classes: .*list, not 'sad'"),
        (about(classes=["sad", 3]), "classes, 1: should be text, not 3"),
        (about(classes=["sad", "sad"]), 'classes: "sad" is there 2 times'),
        (about(dimensions=["a", "a"]), 'dimensions: "a" is there 2 times'),
        (about(dimensions=["a"]), "needs a number for each of a"),
        (about(dimensions=3), "dimensions: .*list, not 3"),
        (about(shares_speakers="no"), "shares_speakers: .*, not 'no'"),
        (about(missing_classes=[1]), "missing_classes: .*dictionary"),
        (about(leaks={"speakers": "many"}), "leaks, speakers: .*, not 'many'"),
        (about(confounding={"speakers": -1}), "confounding, speakers: .*-1"),
        (about(data_folder="/no/such"), "no such folder: /no/such; correct"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(copy, edit, message):
    change(copy, *edit)
    with pytest.raises(InputError, match=message) as caught:
        read_manifests(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "test.json: .*should be a valid dictionary"),
        (b'{"a": {"wav": "b", "wav": "c"}}', "'wav' is there 2 times"),
        (b"[" * 100_000, "test.json: .*not valid JSON"),
        (b"\xff\xfe", "test.json: .*not valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "test.json: .*not valid JSON"),
        (None, "test.json: is no file"),
    ],
)
def test_what_is_no_manifest(copy, content, message):
    path = copy / "test.json"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_manifests(copy)


def test_one_utterance_in_two_splits(copy):
    def edit(content):
        content["03-01-01-01-01-01-06"] = content.pop(CLIP)  # of train

    change(copy, "test", edit)
    with pytest.raises(InputError, match="01-06 is in train and in test"):
        read_manifests(copy)


def test_the_hash_is_that_of_what_was_read(copy, caplog):
    before, _ = read_manifests(copy)
    assert not caplog.messages
    change(copy, "test", lambda content: content.pop(CLIP))
    after, _ = read_manifests(copy)
    assert after["protocol_sha"] != before["protocol_sha"]
    assert "protocol_sha is" in caplog.text


def test_names_that_are_no_utf_8(copy):
    """As of files of older systems; json writes them as surrogates."""
    change(copy, *set_to(wav="{data_root}/\udce4.wav"))
    _, manifests = read_manifests(copy)
    assert manifests["test"][CLIP]["wav"].endswith("\udce4.wav")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from([10**400, -0.0, 1e308, 5e-324, "\0", "\ud800", "a\nb"])
)  # fmt: skip
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(
    st.text(max_size=3), SCALARS, max_size=2
)  # fmt: skip


def places(content, here=()):
    """Where there are values in a JSON, as tuples of keys."""
    yield here
    pairs = []
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list):
        pairs = enumerate(content)
    for key, value in pairs:
        yield from places(value, (*here, key))


KINDS = ("set", "set", "drop", "move", "double", "cut", "byte")


def mutate(content, draw, value, kind):
    """Change, drop, double or move one value of a JSON, anywhere; its text."""
    every = [*places(content)]
    # Depths alike: of the thousands most are deep.
    depth = draw.randint(0, max(map(len, every)))
    place = draw.choice([p for p in every if len(p) == depth])
    if not place:
        return json.dumps(value)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if kind == "drop":
        del inner[place[-1]]
    elif kind == "set":
        inner[place[-1]] = value
    elif kind == "move":
        others = inner
        if isinstance(inner, dict):
            others = [*inner, *inner.values()]
        inner[place[-1]] = draw.choice(others)
    text = json.dumps(content)
    if kind == "double":
        key = json.dumps(place[-1])
        text = text.replace(f"{key}: ", f"{key}: 1, {key}: ", 1)
    elif kind == "cut":
        text = text[: draw.randrange(len(text))]
    elif kind == "byte":
        at = draw.randrange(len(text))
        text = text[:at] + chr(draw.randrange(1, 256)) + text[at + 1 :]
    return text


def use(folder):
    """All that is done with manifests before audio is read."""
    about, sets = datasets(folder, max_seconds=3)
    Heard(about, sets)
    held(folder, {"corpus": about["corpus"]})
    for split, dataset in sets.items():
        entries = dataset.data
        batch_sampler(dataset, 10, shuffle=split == "train", max_seconds=3)
        text_sources(entries.values())
        group_columns(entries)
        for key in entries:
            dataset.pipeline.compute_specific(
                ["label", "values", "text", "speaker"],
                {"id": key, **entries[key]},
            )


def check_mutation(folder, name, seed, value, kind):
    """One line or none at all; whole again afterwards."""
    path = folder / f"{name}.json"
    whole = path.read_bytes()
    text = mutate(json.loads(whole), random.Random(seed), value, kind)
    path.write_text(text, "utf-8", errors="surrogatepass")
    try:
        use(folder)
    except InputError as error:
        return str(error)
    finally:
        path.write_bytes(whole)
    return None


@pytest.fixture(scope="module")
def few(manifests, tmp_path_factory):
    """Manifests of few utterances, which is faster."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copy(manifests / "protocol.json", folder)
    for split in ("train", "valid", "test"):
        entries = json.loads((manifests / f"{split}.json").read_text())
        some = [*entries][:8]
        (folder / f"{split}.json").write_text(
            json.dumps({key: entries[key] for key in some})
        )
    return folder


@settings(
    derandomize=True,
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(["protocol", "train", "valid", "test"]),
    seed=st.integers(0, 2**32),
    value=VALUES,
    kind=st.sampled_from(
        ["set", "set", "drop", "move", "double", "cut", "byte"]
    ),
)
def test_any_damage_is_one_line_or_harmless(few, name, seed, value, kind):
    check_mutation(few, name, seed, value, kind)
