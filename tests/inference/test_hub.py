"""Models pushed to the hub and loaded from it, by its own client."""

import json
from types import SimpleNamespace

import pytest
import torch
from hub_server import TOKEN, Hub
from huggingface_hub import ModelCard
from sealed import reseal
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchConfig

from ser_peft.adapters import PeftLobe
from ser_peft.adapters.folder import find
from ser_peft.cli import main
from ser_peft.data.provenance import Heard
from ser_peft.errors import InputError
from ser_peft.heads import LinearHead
from ser_peft.inference import EmotionClassifier, EmotionModel, load_model
from ser_peft.inference.export import export
from ser_peft.inference.hub import push
from ser_peft.lobes import load_lobe
from ser_peft.storage import released
from ser_peft.storage.closed import MANIFEST, origins_of

CLASSES = ["angry", "happy", "sad"]
CARD = """---
license: mit
library_name: ser_peft
---

# Mine

## How to load

As you like.

## Scores

None.
"""


@pytest.fixture(scope="module")
def folders(tiny_backbones, tmp_path_factory):
    """A model folder with its card, and its merged export."""
    root = tmp_path_factory.mktemp("run")
    encoder = PeftLobe(load_lobe(tiny_backbones["wav2vec2"]), "frozen")
    model = EmotionModel(encoder, LinearHead(encoder, CLASSES), CLASSES)
    about = {"corpus": "x", "protocol": "p", "protocol_sha": "a"}
    sets = {"train": {"1": {"speaker": "ann"}}, "valid": {}, "test": {}}
    model.save(root / "model", Heard(about, sets))
    (root / "model" / "README.md").write_text(CARD)
    export(root, root / "merged", merge=True)
    return SimpleNamespace(run=root, merged=root / "merged")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, where the user is logged in, and an empty cache."""
    server = Hub()
    here = "huggingface_hub.constants"
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{here}.ENDPOINT", server.address)
    monkeypatch.setattr(
        f"{here}.HUGGINGFACE_CO_URL_TEMPLATE", server.address + template
    )
    monkeypatch.setattr(f"{here}.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN_PATH", "AGENT_HARNESSES_PATH"):
        monkeypatch.setattr(f"{here}.{name}", str(tmp_path / name))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    released._snapshot.cache_clear()
    yield server
    server.close()
    released._snapshot.cache_clear()


def wavs():
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(2, 16000, generator=generator)


def test_what_is_pushed_is_loaded(hub, folders, capsys):
    main(["push", str(folders.merged), "anna/emotion"])
    (commit,) = {*hub.repositories["anna/emotion"]["branches"].values()}
    told = capsys.readouterr().out
    assert told == (
        f'pushed; load_model("anna/emotion", revision="{commit}")\n'
    )
    # One commit after the empty repository's.
    assert len(hub.repositories["anna/emotion"]["commits"]) == 2
    model = load_model("anna/emotion")
    with torch.no_grad():
        assert torch.equal(model(wavs()), load_model(folders.merged)(wavs()))
    assert model.origins == [{"source": "anna/emotion", "commit": commit}]
    tree = hub.repositories["anna/emotion"]["commits"][commit]
    card = ModelCard(tree["README.md"].decode())
    assert 'load_model("anna/emotion")' in card.text
    assert card.data.license == "mit"


def test_a_revision_is_that_one(hub, folders, tmp_path):
    first = push(folders.merged, "anna/emotion")
    export(folders.merged, tmp_path / "other")
    about = json.loads((tmp_path / "other" / "model.json").read_text())
    about["temperature"] = 2.0
    (tmp_path / "other" / "model.json").write_text(json.dumps(about))
    (tmp_path / "other" / "extra.json").write_text("{}")
    reseal(tmp_path / "other")
    second = push(tmp_path / "other", "anna/emotion", revision="warm")
    assert first != second
    for revision, temperature in ((first, 1), ("warm", 2), (second, 2)):
        model = load_model("anna/emotion", revision=revision)
        assert model.temperature == temperature
    assert load_model(f"anna/emotion@{second}").temperature == 2
    assert load_model("anna/emotion").temperature == 1
    # What the model has no more, the hub has no more, or nobody could load it.
    third = push(folders.merged, "anna/emotion", revision="warm")
    tree = hub.repositories["anna/emotion"]["commits"][third]
    assert "extra.json" not in tree and ".gitattributes" in tree
    assert load_model("anna/emotion", revision=third).temperature == 1


def test_what_is_made_from_it_names_the_commit(hub, folders, tmp_path):
    commit = push(folders.merged, "anna/emotion")
    source = [{"source": "anna/emotion", "commit": commit}]
    export("anna/emotion", tmp_path / "copy")
    export(f"anna/emotion@{commit}", tmp_path / "merged", merge=True)
    load_model("anna/emotion").save(tmp_path / "saved")
    about = {"corpus": "y", "protocol": "p", "protocol_sha": "b"}
    sets = {"train": {"1": {"speaker": "ben"}}, "valid": {}, "test": {}}
    heard = Heard(about, sets)
    heard.add("init_from", find("anna/emotion"))
    heard.add("teacher", tmp_path / "copy")
    load_model(folders.merged).save(tmp_path / "trained", heard)
    for name in ("copy", "merged", "saved", "trained"):
        manifest = json.loads((tmp_path / name / MANIFEST).read_text())
        assert manifest["origins"] == source, name
        assert origins_of(tmp_path / name) == source
    # It goes on from there.
    export(tmp_path / "trained", tmp_path / "again")
    assert origins_of(tmp_path / "again") == source


def test_only_what_is_no_code_is_downloaded(hub, folders):
    push(folders.merged, "anna/emotion")
    code = {"evil.py": b"raise", "pytorch_model.bin": b"\x80", "a.pkl": b"\x80"}
    hub.commit("anna/emotion", "main", code)
    load_model("anna/emotion")
    kinds = {path.rpartition(".")[2] for how, path in hub.asked if how == "GET"}
    assert "safetensors" in kinds and not {"py", "bin", "pkl"} & kinds
    hub.commit("anna/emotion", "main", {"more.json": b"{}"})
    released._snapshot.cache_clear()
    with pytest.raises(InputError, match="more.json: is not listed in"):
        load_model("anna/emotion")
    commit = hub.commit("anna/emotion", "main", {}, {MANIFEST, "more.json"})
    with pytest.raises(InputError, match="anna/emotion: has no manifest.json"):
        load_model("anna/emotion", revision=commit)


def test_speechbrain_loads_it_by_name(hub, folders, tmp_path):
    """Its own class runs the yaml that it downloads, ours opens none."""
    export(folders.merged, tmp_path / "out", speechbrain=True)
    commit = push(tmp_path / "out", "anna/emotion")
    answers = load_model(folders.merged).predict([*wavs().numpy()])
    labels = [answer["label"] for answer in answers]
    for kind, revision in (
        (EncoderClassifier, {"fetch_config": FetchConfig(revision=commit)}),
        (EmotionClassifier, {"revision": commit}),
    ):
        found = kind.from_hparams(
            "anna/emotion", savedir=str(tmp_path / "here"), **revision
        ).classify_batch(wavs())
        assert found[3] == labels
    tree = hub.repositories["anna/emotion"]["commits"][commit]
    assert b'EncoderClassifier.from_hparams("anna/emotion"' in tree["README.md"]


def test_without_network_it_is_what_was_downloaded(hub, folders):
    commit = push(folders.merged, "anna/emotion")
    load_model("anna/emotion")
    hub.close()
    released._snapshot.cache_clear()
    assert load_model("anna/emotion").origins[0]["commit"] == commit
    with pytest.raises(InputError, match="anna/other: no such folder here"):
        load_model("anna/other")


def test_other_folders_have_no_origins(tmp_path):
    """Though there be a file of that name."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / MANIFEST).write_text("[]")
    assert origins_of(tmp_path / "adapter") == []
    assert origins_of(tmp_path / "whisper") == []


def test_an_encoder_is_no_model(hub):
    """Which is told before its weights are downloaded."""
    hub.create("anna/whisper")
    weights = {"config.json": b"{}", "model.safetensors": b"0" * 100}
    hub.commit("anna/whisper", "main", weights)
    with pytest.raises(InputError, match="^anna/whisper: is on the"):
        load_model("anna/whisper")
    assert not [path for _, path in hub.asked if path.endswith("safetensors")]


def test_a_folder_goes_first(hub, folders, tmp_path):
    push(folders.merged, "anna/emotion")
    export(folders.merged, tmp_path / "anna" / "emotion")
    assert load_model("anna/emotion").origins == []
    for how in (
        lambda: load_model("anna/emotion", revision="main"),
        lambda: load_model("anna/emotion@main"),
    ):
        with pytest.raises(InputError, match="has its name; give the folder"):
            how()


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (
            "anna/nothing",
            None,
            "anna/nothing: no such folder here, and it",
        ),
        (
            "anna/emotion",
            "v9",
            "at v9 it cannot be .*Revision Not Found",
        ),
        ("anna/secret", None, "Repository [Nn]ot [Ff]ound.*hf auth login"),
        ("results/fold1/8", "v1", "revision v1: results/fold1/8 is no name"),
    ],
)
def test_what_is_not_there(hub, folders, monkeypatch, name, revision, message):
    hub.create("anna/emotion")
    hub.create("anna/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=message) as raised:
        load_model(name, revision=revision)
    assert "\n" not in str(raised.value)


def test_a_dry_run_needs_no_hub(hub, folders, capsys):
    main(["push", str(folders.merged), "anna/emotion", "--dry-run"])
    out, notes = capsys.readouterr()
    assert hub.asked == []
    for told in ("head.safetensors", "README.md", "library_name: ser_peft"):
        assert told in out
    assert "heard.json names the speakers" in notes


def test_what_others_could_not_load_is_refused(hub, folders, tmp_path, capsys):
    for model in (folders.run, tmp_path / "out"):
        if model.name == "out":
            export(folders.run, model)  # no place of the encoder is named
        for flags in ((), ("--dry-run",)):
            with pytest.raises(SystemExit) as stop:
                main(["push", str(model), "anna/emotion", *flags])
            assert stop.value.code == 2
            (line,) = [
                line
                for line in capsys.readouterr().err.splitlines()
                if line.startswith("error: ")
            ]
            assert "backbone: " in line and "export it first, with" in line
    assert hub.asked == []
    (tmp_path / "out" / "README.md").unlink()
    with pytest.raises(InputError, match="README.md: is missing"):
        push(tmp_path / "out", "anna/emotion")
    with pytest.raises(InputError, match="emotion: is no name of the Hugging"):
        push(folders.merged, "emotion")


def test_who_may_not_push_is_told(hub, folders, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(InputError, match="did not take it .*hf auth login"):
        push(folders.merged, "anna/emotion")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="not logged in .*HF_TOKEN"):
        push(folders.merged, "anna/emotion")
    assert hub.repositories == {}


def test_private_is_private(hub, folders):
    push(folders.merged, "anna/secret", private=True)
    assert hub.repositories["anna/secret"]["private"]
    assert load_model("anna/secret").classes == CLASSES
    push(folders.merged, "anna/emotion")
    with pytest.raises(InputError, match="^--private: anna/emotion is there"):
        push(folders.merged, "anna/emotion", private=True)
