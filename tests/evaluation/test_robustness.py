"""Babble and telephone: levels, bands, and whose voices."""

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset

from ser_peft.data import datasets
from ser_peft.errors import InputError
from ser_peft.evaluation.robustness import (
    SECONDS,
    TALKERS,
    add_babble,
    babble_track,
    disturbed,
    talkers,
    telephone,
    without_text,
)

RATE = 16000


def corpus(speakers, clips=3, heard=None):
    """A dataset of tones; every reading of a clip is added to `heard`."""
    entries = {
        f"{speaker}_{i}": {
            "speaker": speaker,
            "tone": 300.0 + 100 * number + i,
            "duration": 0.5 + 0.1 * i,
        }
        for number, speaker in enumerate(speakers)
        for i in range(clips)
    }

    def read(id_, tone, duration):
        if heard is not None:
            heard.append(id_)
        time = torch.arange(int(duration * RATE)) / RATE
        return 0.1 * torch.sin(2 * np.pi * tone * time)

    dataset = DynamicItemDataset(entries, output_keys=["id", "sig"])
    dataset.add_dynamic_item(read, ["id", "tone", "duration"], "sig")
    return dataset


def tone(frequency, seconds=1.0, level=0.3):
    time = torch.arange(int(seconds * RATE)) / RATE
    return level * torch.sin(2 * np.pi * frequency * time)


def decibels(signal, noise):
    ratio = signal.double().square().sum() / noise.double().square().sum()
    return float(10 * ratio.log10())


@pytest.fixture(scope="module")
def views(manifests):
    """Name -> the test set of a miniature RAVDESS, clean and disturbed."""
    _, sets = datasets(manifests)
    return {"clean": sets["test"], **disturbed(sets["train"], sets["test"])}


def test_conditions(views):
    assert list(views) == [
        "clean",
        "babble 20 dB",
        "babble 10 dB",
        "babble 5 dB",
        "babble 0 dB",
        "telephone",
    ]


@pytest.mark.parametrize("snr", [20, 10, 5, 0])
def test_the_ratio_is_as_said_for_every_clip(views, snr):
    noisy = views[f"babble {snr} dB"]
    for i in range(len(views["clean"])):
        clean = views["clean"][i]["sig"]
        noise = noisy[i]["sig"] - clean
        assert decibels(clean, noise) == pytest.approx(snr, abs=0.02)


def test_padding_and_batch_mates_do_not_matter(views):
    """The clip in a padded batch is the clip alone, bit by bit."""
    for name, view in views.items():
        batch = PaddedBatch([view[i] for i in range(8)])
        wavs, lengths = batch.sig
        sizes = (lengths * wavs.shape[1]).round().long().tolist()
        assert len(set(sizes)) > 1
        for i, (wav, size) in enumerate(zip(wavs, sizes, strict=True)):
            assert size == len(views["clean"][i]["sig"])
            assert torch.equal(wav[:size], view[i]["sig"]), name
            assert not wav[size:].any()


def test_only_the_sound_changes(views):
    clean = views["clean"]
    for view in views.values():
        assert view.data_ids == clean.data_ids
        assert set(view[0]) == set(clean[0])
        for key in set(clean[0]) - {"sig"}:
            assert view[3][key] == clean[3][key]
    assert "id" not in next(iter(clean.data.values()))


def test_the_same_every_time(manifests, views):
    _, sets = datasets(manifests)
    torch.manual_seed(123)
    again = disturbed(sets["train"], sets["test"])
    for name, view in again.items():
        assert torch.equal(view[5]["sig"], views[name][5]["sig"])


def test_other_seeds_and_clips_have_other_babble():
    train, test = corpus("abcdef"), corpus("xy")
    first, second = (babble_track(train, test, seed) for seed in (0, 1))
    assert not torch.allclose(first, second)
    # One frequency an added voice: a shift of all clips would be the same.
    wav = tone(500, 0.1)
    noises = [add_babble(wav, name, first, 0) - wav for name in ("u1", "u2")]
    assert not torch.allclose(*noises)


def test_no_test_speaker_babbles():
    heard = []
    train = corpus([*"abcdef", "x"], heard=heard)
    track = babble_track(train, corpus("xy"))
    assert {id_.split("_")[0] for id_ in heard} == set("abcdef")
    spectrum = torch.fft.rfft(track).abs()
    bins = [f * SECONDS for f in (300, 400, 500, 600, 700, 800, 900)]
    levels = [float(spectrum[b - 200 : b + 200].max()) for b in bins]
    assert len(track) == SECONDS * RATE
    assert levels[6] < 0.02 * min(levels[:6])  # x is the seventh speaker


def test_voices_are_of_equal_power():
    names = "abcdefgh"
    assert len(names) == TALKERS
    train = corpus(names)
    for i, entry in enumerate(train.data.values()):
        entry["tone"] = 300.0 + 100 * (i // 3)
    track = babble_track(train, corpus("x"))
    # Whole periods in every clip: the voices are orthogonal.
    for number in range(TALKERS):
        probe = tone(300 + 100 * number, SECONDS, 1)
        share = float(track @ probe / probe.square().sum())
        assert share == pytest.approx(2**0.5, rel=0.02)


def test_two_speakers_are_a_crowd_too():
    heard = []
    babble_track(corpus("ab", heard=heard), corpus("x"))
    assert {id_[0] for id_ in heard} == {"a", "b"}


def test_nobody_is_left_to_babble():
    with pytest.raises(InputError, match="nobody .* set robustness: False"):
        talkers(corpus("ab").data, corpus("abc").data)


def test_a_clip_longer_than_the_babble():
    wav, track = tone(500, 2.0), torch.randn(RATE)
    noise = add_babble(wav, "clip", track, 5) - wav
    assert decibels(wav, noise) == pytest.approx(5, abs=0.01)
    assert torch.allclose(noise[:RATE], noise[RATE:], atol=1e-5)


@pytest.mark.parametrize(
    ("frequency", "low", "high"),
    [
        (60, 40, 200),
        (150, 20, 60),
        (500, -0.3, 0.3),
        (1000, -0.3, 0.3),
        (3000, -0.5, 0.5),
        (3800, 8, 60),
        (6000, 30, 300),
    ],
)
def test_telephone_band(frequency, low, high):
    """Attenuation in dB, away from the ends, where the filter settles."""
    wav = tone(frequency, 1.0, 0.9)
    end = telephone(wav)
    assert len(end) == len(wav) and end.dtype == wav.dtype
    middle = slice(4000, 12000)
    window = torch.hann_window(8000)
    was, now = (
        torch.fft.rfft(window * w[middle]).abs()[frequency // 2]
        for w in (wav, end)
    )
    assert low < 20 * float((was / (now + 1e-9)).log10()) < high


def test_telephone_is_coarse_but_understood():
    """Eight bits, logarithmic: about 38 dB at any level."""
    for level in (0.5, 0.05):
        wav = tone(1006, 1.0, level)
        spectrum = torch.fft.rfft(telephone(wav)[4000:12000]).abs().square()
        kept = spectrum[503]  # 2 Hz a bin
        noise = spectrum.sum() - kept
        assert 30 < 10 * float((kept / noise).log10()) < 45
    loud = telephone(tone(1000, 0.5, 3.0))
    assert loud.abs().max() < 1.5


@pytest.mark.parametrize("samples", [1600, 4801, 4803])
def test_telephone_keeps_the_length(samples):
    assert telephone(torch.randn(samples) / 10).shape == (samples,)


def test_without_text(manifests):
    _, sets = datasets(manifests)
    view = without_text(sets["test"])
    assert [item["text"] for item in view] == [""] * len(sets["test"])
    assert all(item["text"] for item in sets["test"])
    assert torch.equal(view[0]["sig"], sets["test"][0]["sig"])
