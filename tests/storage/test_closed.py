"""Closed model folders: proven, and nothing of them is run."""

import ast
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sealed import reseal

import ser_peft
from ser_peft.adapters import BottleneckConfig, PeftLobe, PromptConfig, of_peft
from ser_peft.adapters import folder as adapter_folder
from ser_peft.data.provenance import Heard
from ser_peft.errors import InputError
from ser_peft.heads import LayerMixHead, MeanHead
from ser_peft.inference import EmotionModel, load_model, read_model
from ser_peft.inference.export import export
from ser_peft.lobes import load_lobe
from ser_peft.storage.closed import MANIFEST, hashes

PACKAGE = Path(ser_peft.__file__).parent
PLAIN = ("Config", "Tokenizer", "FeatureExtractor")
"""Endings of the names of classes that have no weights."""
CLASSES = ["neutral", "angry", "sad", "happy"]
LONG = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def model_of(backbone, method=None, head=LayerMixHead):
    """A model with random weights."""
    encoder = PeftLobe(load_lobe(backbone), method or peft.LoraConfig(r=2))
    return EmotionModel(encoder, head(encoder, CLASSES), CLASSES).eval()


@pytest.fixture(scope="module")
def saved(tiny_backbones, tmp_path_factory):
    """A run's folder with a model in it."""
    run = tmp_path_factory.mktemp("run")
    about = {"corpus": "x", "protocol_sha": "a", "protocol": "p"}
    sets = {"train": {"1": {"speaker": "s"}}, "valid": {}, "test": {}}
    model = model_of(tiny_backbones["whisper"])
    model.save(run / "model", Heard(about, sets))
    return run


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.fixture(scope="module")
def merged(saved, tmp_path_factory):
    """The same model with its encoder beside it."""
    out = tmp_path_factory.mktemp("merged") / "model"
    export(saved, out, merge=True)
    return out


def edit(path, **changes):
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    content = {k: v for k, v in content.items() if v is not None}
    path.write_text(json.dumps(content))


def test_no_from_pretrained_runs_code_or_unpickles():
    """Each says so itself: left out, transformers asks at the terminal."""
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = isinstance(node, ast.Call) and node.func
            name = getattr(called, "attr", None)
            owner = ast.unparse(getattr(called, "value", called or node))
            if name not in ("from_pretrained", "from_config"):
                continue
            found += 1
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            where = f"{path}:{node.lineno}"
            assert said["trust_remote_code"] == "False", where
            if name == "from_pretrained" and not owner.endswith(PLAIN):
                assert said["use_safetensors"] == "True", where
    assert found >= 7


# -------------------------------------------------------------- the manifest


def test_every_file_is_proven(run):
    folder = run / "model"
    files = {*json.loads((folder / MANIFEST).read_text())["files"]}
    assert files == {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.*")
        if path.name != MANIFEST
    }
    assert "heard.json" in files and "adapter/adapter_config.json" in files
    load_model(run)
    for name in files:
        path = folder / name
        before = path.read_bytes()
        changed = bytes([before[0] ^ 1]) + before[1:]
        for after, says in ((changed, "has SHA-256"), (b"", "has 0 bytes")):
            path.write_bytes(after)
            with pytest.raises(InputError, match=f"{name}: was .*{says}"):
                load_model(run)
        path.unlink()
        with pytest.raises(InputError, match=f"{name}: is missing"):
            load_model(folder)
        path.write_bytes(before)
    for name in ("README.md", ".gitattributes"):
        (folder / name).touch()
    load_model(run)
    (folder / "adapter" / "base").mkdir()
    (folder / "adapter" / "base" / "adapter_config.json").touch()
    with pytest.raises(InputError, match="base/adapter_config.json: is not"):
        adapter_folder.find(run)


def test_a_folder_without_a_manifest_is_an_old_one(run, caplog):
    (run / "model" / MANIFEST).unlink()
    load_model(run)
    assert f"has no {MANIFEST}" in caplog.text
    # Nobody knows whether it was trained there.
    other = str(run / "other")
    edit(run / "model" / "model.json", backbone=other)
    with pytest.raises(InputError, match="backbone: /.*: is outside of"):
        load_model(run)


def test_registered_models_are_proven(run, tmp_path, monkeypatch, caplog):
    """By their hashes; swapped classes and other encoders are told."""
    (run / "model" / MANIFEST).unlink()
    path = tmp_path / "models.json"
    monkeypatch.setenv("SER_PEFT_REGISTRY", str(path))
    entry = {"source": str(run / "model"), "sha256": hashes(run / "model")}
    path.write_text(json.dumps({"mine": entry}))
    load_model("mine")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    for changes in ({"classes": CLASSES[::-1]}, {"backbone": "x/y"}):
        edit(run / "model" / "model.json", **changes)
        with pytest.raises(InputError, match="model.json has SHA-256"):
            load_model("mine")


def test_the_encoder_is_the_one_of_the_training(
    tiny_backbones, tmp_path, caplog
):
    backbone = shutil.copytree(tiny_backbones["wavlm"], tmp_path / "wavlm")
    model_of(backbone).save(tmp_path / "model")
    about = json.loads((tmp_path / "model" / MANIFEST).read_text())
    assert about["encoders"]["backbone"]["source"] == str(backbone)
    tensors = load_file(backbone / "model.safetensors")
    tensors["encoder.layer_norm.weight"] += 1
    save_file(tensors, backbone / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="backbone: /.* has other weights"):
        load_model(tmp_path / "model")
    assert not caplog.records
    load_model(tmp_path / "model", backbone=backbone)  # as the caller says
    assert "has other weights than" in caplog.text


def test_hub_encoders_are_of_one_commit(tiny_backbones, tmp_path, monkeypatch):
    """That of the training, whatever is newest."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cache = tmp_path / "cache"
    repo = cache / "models--some--encoder"
    commits = {"wavlm": "a" * 40, "wavlm_large": "b" * 40}
    for name, commit in commits.items():
        shutil.copytree(tiny_backbones[name], repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    newest = repo / "refs" / "main"
    newest.write_text(commits["wavlm"])
    lobe = load_lobe("some/encoder", cache)
    assert lobe.identity == {"commit": commits["wavlm"]}
    encoder = PeftLobe(lobe, peft.LoraConfig(r=2))
    model = EmotionModel(encoder, MeanHead(encoder, CLASSES), CLASSES).eval()
    model.save(tmp_path / "model")
    newest.write_text(commits["wavlm_large"])
    assert load_lobe("some/encoder", cache).config.do_stable_layer_norm
    again = load_model(tmp_path / "model", save_path=cache)
    wav = torch.randn(1, 8000)
    with torch.no_grad():
        assert torch.equal(again(wav), model(wav))


@pytest.fixture
def keys(tmp_path):
    """Files of a private key and its public one, and of a stranger's."""
    reason = "pip install 'ser_peft[sign]'"
    pytest.importorskip("model_signing", reason=reason, exc_type=ImportError)
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    paths = []
    for name in ("own", "strange"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            form.Encoding.PEM,
            form.PrivateFormat.PKCS8,
            form.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
        )
        for suffix, text in (("key", private), ("pub", public)):
            paths.append(tmp_path / f"{name}.{suffix}")
            paths[-1].write_bytes(text)
    return paths[0], paths[1], paths[3]


def test_signatures(saved, merged, tmp_path, keys, monkeypatch):
    """A manifest can be written anew, a signature cannot."""
    private, public, strange = keys
    monkeypatch.chdir(tmp_path)
    export(merged, "before", sign_with=private)
    out = (tmp_path / "before").rename(tmp_path / "out")
    (out / "README.md").touch()
    load_model(out, verify=public)
    for key in (strange, private, tmp_path / "none"):
        with pytest.raises(InputError, match="model.sig: does not prove"):
            load_model(out, verify=key)
    edit(out / "model.json", classes=CLASSES[::-1])
    reseal(out)
    load_model(out)
    with pytest.raises(InputError, match="model.sig: does not prove"):
        load_model(out, verify=public)
    with pytest.raises(InputError, match="model.sig: does not prove"):
        load_model(saved, verify=public)  # has none
    with pytest.raises(InputError, match="--sign .*: cannot sign"):
        export(merged, tmp_path / "other", sign_with=public)
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------ hostile folders

MARK = "import os; open(os.environ['SER_PEFT_MARK'], 'w')\n"
AUTO_MAP = {
    f"Auto{kind}": "theirs.Theirs"
    for kind in ("Config", "Model", "FeatureExtractor", "Tokenizer")
}


@pytest.fixture
def nothing_runs(tmp_path, monkeypatch):
    """Fails where code is run or somebody is asked."""
    mark = tmp_path / "mark"
    monkeypatch.setenv("SER_PEFT_MARK", str(mark))
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("asked"))
    yield
    assert not mark.exists()


OPENED = None
sys.addaudithook(
    lambda event, args: (
        OPENED.append(str(args[0]))
        if OPENED is not None and event in ("open", "os.scandir", "os.listdir")
        else None
    )
)


@pytest.fixture
def outside(tiny_backbones, tmp_path, monkeypatch):
    """A folder that no model folder may read."""
    folder = shutil.copytree(tiny_backbones["whisper"], tmp_path / "outside")
    monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
    yield folder
    assert not [path for path in OPENED if path.startswith(str(folder))]


@pytest.mark.parametrize("sealed", [True, False])
def test_code_is_refused(merged, tmp_path, nothing_runs, sealed):
    folder = shutil.copytree(merged, tmp_path / "model")
    configs = [*folder.rglob("*config.json")]
    assert len(configs) == 3
    for path in configs:
        edit(path, auto_map=AUTO_MAP)
        (path.parent / "theirs.py").write_text(MARK)
        reseal(folder)
        if not sealed:
            (folder / MANIFEST).unlink()
        with pytest.raises(InputError, match="is code, or may hold some"):
            load_model(folder)
        (path.parent / "theirs.py").unlink()
        if sealed:
            reseal(folder)
        with pytest.raises(InputError, match="config.json: auto_map: "):
            load_model(folder)
        edit(path, auto_map=None)
        shutil.copy(merged / MANIFEST, folder)


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_code_of_an_encoder_is_left_alone(
    tiny_backbones, tmp_path, nothing_runs, family
):
    folder = shutil.copytree(tiny_backbones[family], tmp_path / "encoder")
    (folder / "theirs.py").write_text(MARK)
    for path in folder.glob("*config.json"):
        edit(path, auto_map=AUTO_MAP, feature_extractor_type="Theirs")
    load_lobe(folder)
    edit(folder / "config.json", model_type="theirs")
    with pytest.raises(InputError, match="encoder: cannot be read"):
        load_lobe(folder)


def test_a_checkpoint_has_no_parts_elsewhere(tiny_backbones, tmp_path):
    folder = shutil.copytree(tiny_backbones["wavlm"], tmp_path / "encoder")
    for place, name in (
        (tmp_path, "../a.safetensors"),
        (folder, "a.safetensors"),
    ):
        (folder / "model.safetensors").rename(place / "a.safetensors")
        names = load_file(place / "a.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index))
        if place == folder:
            load_lobe(folder)
            break
        with pytest.raises(InputError, match="weight_map: .*another folder"):
            load_lobe(folder)
        (place / "a.safetensors").rename(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["model.json", "adapter", "head.safetensors"])
def test_links_are_refused(run, outside, tmp_path, name):
    path = run / "model" / name
    path.rename(outside / name)
    path.symlink_to(outside / name)
    with pytest.raises(InputError, match=f"{name}: is a link"):
        load_model(run)
    with pytest.raises(InputError, match=f"{name}: is a link"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (run / "model").rename(outside / "model")
    (run / "model").symlink_to(outside / "model")
    with pytest.raises(InputError, match="model: is a link"):
        load_model(run)


def test_the_cache_of_the_hub_is_made_of_links(merged, tmp_path):
    """Into its own blobs, and those alone."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("a" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for path in merged.rglob("*.*"):
        blob = blobs / str(len([*blobs.iterdir()]))
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(merged)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    load_model(snapshot)
    export(snapshot, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    load_model(tmp_path / "out")
    (snapshot / "model.json").unlink()
    (snapshot / "model.json").symlink_to(merged / "model.json")
    with pytest.raises(InputError, match="model.json: is a link"):
        load_model(snapshot)


def test_a_folder_ends_somewhere(run):
    deep = run / "model" / "adapter"
    for _ in range(40):
        deep /= "base"
    deep.mkdir(parents=True)
    (deep / "adapter_config.json").touch()
    with pytest.raises(InputError, match="too deep"):
        load_model(run)


def test_a_folder_is_no_file(merged, tmp_path):
    folder = shutil.copytree(merged, tmp_path / "model")
    (folder / "encoder" / "model.safetensors").unlink()
    (folder / "encoder" / "model.safetensors").mkdir()
    reseal(folder)
    with pytest.raises(InputError, match="model.safetensors is missing"):
        load_model(folder)


def test_pipes_are_refused(run):
    (run / "model" / "model.json").unlink()
    os.mkfifo(run / "model" / "model.json")
    with pytest.raises(InputError, match="model.json: is no file"):
        load_model(run)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    "place", ["../outside", "{}", "outside", "./outside", "adapter/../../x",
              "~/outside", "..\\outside", "a b", "hub//x", "outside\0"],
)  # fmt: skip
def test_paths_outward_are_refused(
    run, outside, tmp_path, monkeypatch, place, sealed
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = (run / "model").rename(tmp_path / "model")
    edit(folder / "model.json", backbone=place.format(outside))
    edit(folder / MANIFEST, encoders={"backbone": {"source": "x"}})
    reseal(folder)
    if not sealed:
        (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match="model.json: .*backbone: "):
        load_model(folder)


def test_an_exported_folder_names_no_folder(run, tmp_path):
    """It still tells the encoder that it is for from others."""
    before = json.loads((run / "model" / MANIFEST).read_text())["encoders"]
    export(run, tmp_path / "out")
    about = json.loads((tmp_path / "out" / MANIFEST).read_text())["encoders"]
    assert about["backbone"].pop("source") is None
    assert about["backbone"]["sha256"] == before["backbone"]["sha256"]
    place = before["backbone"]["source"]
    wav = torch.randn(1, 8000)
    with torch.no_grad():
        assert torch.equal(
            load_model(tmp_path / "out", backbone=place)(wav),
            load_model(run)(wav),
        )


def test_no_answer_is_no_number(run, tiny_backbones, tmp_path):
    head = run / "model" / "head.safetensors"
    adapter = run / "model" / "adapter" / "adapter_model.safetensors"
    for path in (head, adapter):
        before = path.read_bytes()
        for value in ("nan", "-inf"):
            tensors = load_file(path)
            next(iter(tensors.values())).view(-1)[0] = float(value)
            save_file(tensors, path, {"format": "pt"})
            reseal(run / "model")
            with pytest.raises(InputError, match=f"{path.name}: .* holds NaN"):
                load_model(run)
        path.write_bytes(before)
    tensors = load_file(head)
    tensors["out.2.weight"] *= 1e35
    save_file(tensors, head, {"format": "pt"})
    reseal(run / "model")
    with pytest.raises(InputError, match=r"recordings\[0\]: the model scores"):
        load_model(run).predict([0.1 * torch.randn(8000)])
    folder = shutil.copytree(tiny_backbones["whisper"], tmp_path / "encoder")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer_norm.weight"][0] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="encoder: .*layer_norm.* holds NaN"):
        load_model(run, backbone=folder)


# ----------------------------------------------------------------- the schemas

METHODS = [
    peft.LoraConfig(r=2, use_dora=True),
    peft.AdaLoraConfig(init_r=3, target_r=2, total_step=9),
    peft.VeraConfig(r=4),
    peft.IA3Config(),
    BottleneckConfig(4),
    [PromptConfig(1), peft.LoraConfig(r=2)],
    "frozen",
]


@pytest.fixture(scope="module")
def adapters(tiny_backbones, tmp_path_factory):
    """Folders of one adapter each."""
    root = tmp_path_factory.mktemp("adapters")
    for number, method in enumerate(METHODS):
        encoder = PeftLobe(load_lobe(tiny_backbones["wavlm"]), method)
        encoder.export(root / str(number))
    return [
        folder
        for number in range(len(METHODS))
        for folder in adapter_folder.several(root / str(number))
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 10**7), ("r", -5), ("r", "8"), ("r", True), ("r", 10**400),
        ("target_modules", "(a+)+b"), ("target_modules", ".*.*.*.*.*x"),
        ("target_modules", "|".join(["(a|a)"] * 30)), ("target_modules", "["),
        ("target_modules", "(?=a)b"), ("target_modules", 7),
        ("exclude_modules", "(x*)*y"), ("layers_pattern", ["(x*)*y"]),
        ("rank_pattern", {"a": 10**6}), ("rank_pattern", {"(a*)*": 1}),
        ("lora_alpha", float("inf")), ("lora_dropout", float("nan")),
        ("layer_replication", [[0, 10**6]]), ("peft_type", "PICKLE"),
        ("megatron_config", {"a": 1}), ("peft_type", ["LORA"]),
    ],
)  # fmt: skip
def test_adapter_settings_are_bounded(run, key, value):
    path = run / "model" / "adapter" / "adapter_config.json"
    edit(path, **{key: value})
    reseal(run / "model")
    with pytest.raises(InputError, match=f"{path}: .*{key}"):
        load_model(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head", "Sequential"), ("head", "FusionHead"), ("depth", 0),
        ("frame_stride", 10**9), ("temperature", 1e-300),
        ("temperature", "1"), ("unsure", 1.5),
        ("classes", ["a", "a"]), ("classes", [1]),
        ("head_settings", {"dropout": 2}), ("classes", []),
        ("head_settings", {"order": "paper"}),
        ("head_settings", {"fuse": "cross"}), ("first_seconds", 1e-9),
        ("dimensions", {"arousal": [1e300, 1]}), ("unheard_of", 1),
    ],
)  # fmt: skip
def test_models_are_bounded(run, key, value):
    edit(run / "model" / "model.json", **{key: value})
    reseal(run / "model")
    with pytest.raises(InputError, match=f"model.json: .*no model .*{key}"):
        read_model(run)


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**7, -(10**9), 10**400])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["LORA", "XLORA", "FULL", "(a+)+", "../x", "encoder"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)  # fmt: skip


def places(content, before=()):
    """Paths to all that a JSON value holds."""
    pairs = ()
    if isinstance(content, dict):
        pairs = content.items()
    elif isinstance(content, list):
        pairs = enumerate(content[:3])
    for key, value in pairs:
        yield (*before, key)
        yield from places(value, (*before, key))


@st.composite
def changed(draw, content):
    """JSON as `content`, one to three values of which are others or gone."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        ways = [*places(content)]
        if not ways:
            break
        *way, key = draw(st.sampled_from(ways))
        inside = content
        for step in way:
            inside = inside[step]
        if isinstance(inside, dict) and draw(st.booleans()):
            del inside[key]
        else:
            inside[key] = draw(ANY)
    return content


@settings(LONG, max_examples=50)
@given(st.data())
def test_no_model_json_is_a_traceback(saved, tmp_path, data):
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved / "model", folder)
    (folder / MANIFEST).unlink()
    path = folder / data.draw(st.sampled_from(["model.json", MANIFEST]))
    content = json.loads((saved / "model" / path.name).read_text())
    path.write_text(json.dumps(data.draw(changed(content))))
    try:
        read_model(folder)
    except InputError as error:
        assert path.name in str(error)


@settings(LONG, max_examples=100)
@given(st.data())
def test_no_adapter_config_is_a_traceback(adapters, tmp_path, data):
    one = data.draw(st.sampled_from(adapters))
    content = json.loads((one / "adapter_config.json").read_text())
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(data.draw(changed(content))))
    for tensors in one.glob("*.safetensors"):
        shutil.copy(tensors, tmp_path)
    try:
        adapter_folder.read(tmp_path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")


@settings(LONG, max_examples=15)
@given(st.data())
def test_no_changed_model_is_a_traceback(saved, tmp_path, data):
    """Built and asked, too."""
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved / "model", folder)
    path = folder / data.draw(
        st.sampled_from(["model.json", "adapter/adapter_config.json"])
    )
    content = json.loads(path.read_text())
    path.write_text(json.dumps(data.draw(changed(content))))
    reseal(folder)
    backbone = json.loads((saved / "model" / "model.json").read_text())
    try:
        model = load_model(folder, backbone=backbone["backbone"])
        (answer,) = model.predict([0.1 * torch.randn(8000)])
    except InputError:
        return
    assert sum(answer["scores"].values()) == pytest.approx(1)


def test_every_method_of_peft_is_read():
    """As its own class writes it."""
    for kind in of_peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        for check in of_peft._hints(kind).values():
            assert check
