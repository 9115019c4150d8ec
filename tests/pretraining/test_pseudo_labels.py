"""Frame labels: which frame gets which, and what a file holds."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import mutual_info_score

from ser_peft.errors import InputError
from ser_peft.pretraining.pseudo_labels import (
    PseudoLabels,
    describe,
    nearest_frames,
    perplexity,
)

HOP = 320
FIRST = {"wav2vec2": 200, "whisper": 0, "late": 472}
COUNT = {
    "wav2vec2": lambda samples: (samples - 400) // HOP + 1,
    "whisper": lambda samples: -(-samples // HOP),
    "late": lambda samples: (samples - 945) // HOP + 1,
}
PAIRS = [(own, theirs) for own in FIRST for theirs in FIRST]
# Lengths at which the grids have the most and the fewest frames.
LENGTHS = [16000, 16001, 16079, 16080, 16143, 16144, 16145, 16319, 48123]


def centres(kind, samples):
    return FIRST[kind] + HOP * torch.arange(float(COUNT[kind](samples)))


def nearest(position, positions):
    """By looking at all of them."""
    gaps = [abs(float(position) - float(other)) for other in positions]
    return gaps.index(min(gaps))


@pytest.mark.parametrize(("own", "theirs"), PAIRS)
@pytest.mark.parametrize("samples", LENGTHS)
def test_every_frame_gets_the_label_nearest_in_time(own, theirs, samples):
    own, theirs = centres(own, samples), centres(theirs, samples)
    index = nearest_frames(own, theirs)
    assert index.tolist() == [nearest(position, theirs) for position in own]
    # Not 17 ms late, and no later at the end than at the beginning: at most
    # half a hop off, wherever the other grid has frames on both sides.
    inside = (own >= theirs[0]) & (own <= theirs[-1])
    assert inside.sum() >= len(own) - 4
    assert (theirs[index] - own)[inside].abs().max() <= HOP / 2
    steps = index[inside].diff()
    assert (steps == 1).all()
    # Frames outside of it get the end's label: none is left without.
    assert (index[own < theirs[0]] == 0).all()
    assert (index[own > theirs[-1]] == len(theirs) - 1).all()


def test_a_lag_is_made_up_for():
    # Frame t of the late grid (that of wav2vec 1.0) is centred 17 ms behind
    # frame t of wav2vec 2.0, frame t - 1 3 ms before it.
    index = nearest_frames(centres("wav2vec2", 16000), centres("late", 16000))
    assert index.tolist() == [0, *range(48)]


def test_long_recordings():
    # Four hours, where float32 no longer holds half samples.
    theirs = 199.5 + HOP * torch.arange(720000, dtype=torch.float64)
    own = theirs[-3:] + torch.tensor([160.5, -159.5, 0])
    assert nearest_frames(own, theirs).tolist() == [719998, 719998, 719999]
    one = nearest_frames(torch.tensor([0.0, 900]), torch.tensor([472.0]))
    assert one.tolist() == [0, 0]


def numbered(kind, samples, **more):
    """Labels of one utterance that say which frame they are of."""
    count = int(COUNT[kind](samples))
    number = torch.arange(count)
    sizes = [count, 2 * count]
    return PseudoLabels(
        {"a": torch.stack([number, number + count])},
        sizes,
        FIRST[kind],
        HOP,
        **more,
    )


@pytest.mark.parametrize(("own", "theirs"), PAIRS)
@pytest.mark.parametrize("start", [0, HOP, 17 * HOP, 90 * HOP])
def test_crop_has_the_labels_of_the_whole(own, theirs, start):
    samples, length = 48123, 16100
    labels = numbered(theirs, samples)
    whole = labels.crop("a", 0, centres(own, samples))
    crop = labels.crop("a", start, centres(own, length))
    count = int(COUNT[own](length))
    first = start // HOP
    assert torch.equal(crop, whole[:, first : first + count])
    assert crop.shape == (2, count)
    # The first label too: that of the frame nearest to the first one.
    begin = start + FIRST[own]
    assert crop[0, 0] == nearest(begin, centres(theirs, samples))
    assert torch.equal(crop[1], crop[0] + labels.sizes[0])


@pytest.mark.parametrize("start", [1, 159, 161, 319, 12345])
def test_crop_anywhere(start):
    labels, theirs = numbered("whisper", 48123), centres("whisper", 48123)
    own = centres("wav2vec2", 9000)
    crop = labels.crop("a", start, own)[0]
    assert crop.tolist() == [nearest(start + at, theirs) for at in own]


@pytest.fixture
def labels():
    """Two Ks, utterances of 5, 1 and 9 frames."""
    generator = torch.Generator().manual_seed(0)
    sizes = [64, 65536]
    frames = {"a": 5, "b/c.wav": 1, "ü": 9}
    made = {
        id_: torch.stack(
            [torch.randint(k, (n,), generator=generator) for k in sizes]
        )
        for id_, n in frames.items()
    }
    made["a"][:, 0] = torch.tensor([63, 65535])  # the highest there can be
    return made, PseudoLabels(made, sizes, 199.5, 320, {"estimator": "x"})


def test_file(labels, tmp_path):
    made, written = labels
    path = tmp_path / "deep" / "labels.safetensors"
    written.save(path)
    read = PseudoLabels.load(path)
    for id_, expected in made.items():
        assert torch.equal(read[id_], expected)
        assert read[id_].dtype == torch.int64
    assert read.ids == list(made) and len(read) == 3
    assert (read.sizes, read.first, read.hop) == ([64, 65536], 199.5, 320)
    assert read.about == {"estimator": "x"}
    # Two bytes for each of 15 frames and 2 Ks, and no other file is left.
    assert load_file(path)["labels"].nbytes == 60
    assert list(path.parent.iterdir()) == [path]


def test_unknown_utterance(labels, tmp_path):
    _, written = labels
    written.save(tmp_path / "labels.safetensors")
    read = PseudoLabels.load(tmp_path / "labels.safetensors")
    with pytest.raises(InputError, match=r"labels\.safetensors: .*'d'.* its 3"):
        read["d"]
    with pytest.raises(InputError, match="delete it and run"):
        written.crop("d", 0, torch.zeros(1))


def retell(path, **changes):
    """Write the file again with other tensors or metadata."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["pseudo_labels"])
    tensors = load_file(path)
    for key, value in changes.items():
        (tensors if key in tensors else about)[key] = value
    tensors = {k: v for k, v in tensors.items() if v is not None}
    save_file(tensors, path, metadata={"pseudo_labels": json.dumps(about)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: save_file({"labels": torch.zeros(2)}, path),
        lambda path: retell(path, offsets=None),
        lambda path: retell(path, offsets=torch.tensor([0, 5, 6, 14])),
        lambda path: retell(path, offsets=torch.tensor([0, 6, 5, 15])),
        lambda path: retell(path, ids=["a", "b"]),
        lambda path: retell(path, sizes=[64]),
        lambda path: retell(path, sizes=[63, 65536]),
        lambda path: retell(path, hop="wide"),
    ],
)
def test_broken_file(labels, tmp_path, spoil):
    path = tmp_path / "labels.safetensors"
    labels[1].save(path)
    spoil(path)
    with pytest.raises(InputError, match=r"labels\.safetensors: .*delete it"):
        PseudoLabels.load(path)


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        ({}, [8]),
        ({"a": torch.tensor([[8]])}, [8]),
        ({"a": torch.tensor([[0]])}, [65537]),
        ({"a": torch.tensor([[0]])}, [8, 8]),
        ({"a": torch.tensor([[-100]])}, [8]),
    ],
)
def test_refuses_what_is_no_label(labels, sizes):
    with pytest.raises(InputError, match="pseudo-labels"):
        PseudoLabels(labels, sizes, 0, HOP)


def test_purity():
    clusters = [[0, 0, 0, 2, 2, 2, 2], [1, 1, 0, 0, 0, 2, 2], [0] * 7]
    frames = torch.tensor(clusters)[:, :, None].unbind(1)
    ids = dict(zip("abcdefg", frames, strict=True))
    labels = PseudoLabels(ids, [3, 3, 3], 0, HOP)
    found = describe(labels, dict(zip("abcdefg", "yyxxxzz", strict=True)))
    assert [row["purity"] for row in found] == [4 / 7, 1, 3 / 7]


def test_perplexity():
    assert perplexity(torch.tensor([5, 0, 0])) == 1
    assert perplexity(torch.full((512,), 3)) == pytest.approx(512)
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert perplexity(torch.tensor([300, 0, 100])) == pytest.approx(expected)


def test_what_clusters_have_to_do_with_emotions():
    labels = PseudoLabels(
        {
            "a": torch.tensor([[0, 0, 1], [3, 3, 3]]),
            "b": torch.tensor([[1], [3]]),
            "c": torch.tensor([[1, 1, 1, 0], [3, 3, 3, 3]]),
            "unused": torch.tensor([[5], [5]]),
        },
        [6, 8],
        0,
        HOP,
    )
    emotions = {"c": "sad", "a": "happy", "b": "happy"}
    two, one = describe(labels, emotions)
    assert two.pop("perplexity") == pytest.approx(
        perplexity(torch.tensor([3, 5]))
    )
    assert two.pop("mutual_information") == pytest.approx(
        mutual_info_score([0, 0, 1, 1, 1, 1, 1, 0], list("hhhhssss"))
    )
    assert two == {
        "clusters": 6,
        "used": 2,
        "largest": 5 / 8,
        "purity": 5 / 8,
        "largest_class": 1 / 2,
    }
    assert one == {
        "clusters": 8,
        "used": 1,
        "perplexity": 1,
        "largest": 1,
        "purity": 1 / 2,
        "largest_class": 1 / 2,
        "mutual_information": pytest.approx(0),
    }
    with pytest.raises(InputError, match="'d'"):
        describe(labels, {"d": "sad"})
