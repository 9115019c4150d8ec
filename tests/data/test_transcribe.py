"""Texts in manifests, by a tiny Whisper and by the real one."""

import json
import shutil

import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ser_peft.cli import main
from ser_peft.corpora import ravdess
from ser_peft.data import datasets, prepare, read_audio, read_manifests
from ser_peft.data.transcribe import Transcriber, transcribe
from ser_peft.errors import InputError

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
STEPS = 6


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Folder of a tiny random Whisper that spells in letters."""
    folder = tmp_path_factory.mktemp("whisper") / "whisper-nano.en"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    end, start, _ = map(tokenizer.token_to_id, SPECIAL)
    config = transformers.WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        max_target_positions=2 * STEPS,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=1.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.WhisperForConditionalGeneration(config)
    model.save_pretrained(folder)
    # As some are published: what it says of decoding is in config.json.
    (folder / "generation_config.json").unlink()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def copied(manifests, tmp_path):
    """Manifests that may be changed; the first two test clips have a text."""
    folder = shutil.copytree(manifests, tmp_path / "manifests")
    for split, entries in read_manifests(folder)[1].items():
        for entry in entries.values():
            del entry["text"], entry["text_source"]
        if split == "test":
            first, second, third, *_ = entries.values()
            first |= {"text": "Kids are talking.", "text_source": "gold"}
            second |= {"text": "Kids [SIGH] talk."}
            third |= {"text": "  ", "text_source": "gold"}
        (folder / f"{split}.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def spoken(monkeypatch):
    """A Whisper that hears how long a clip is; nothing in the shortest."""
    asked = []

    class Fake:
        def __init__(self, checkpoint, device, language):
            asked.append((str(checkpoint), device, language))

        def __call__(self, wavs):
            asked.extend(len(wav) for wav in wavs)
            return [f"{len(wav)} samples" * (len(wav) > 5000) for wav in wavs]

    monkeypatch.setattr("ser_peft.data.transcribe.Transcriber", Fake)
    return asked


def by_hand(folder, wavs):
    """Greedy tokens, one clip at a time and without a cache."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end, *prompt = map(tokenizer.token_to_id, SPECIAL)
    texts = []
    for wav in wavs:
        mel = transformers.WhisperFeatureExtractor()(
            wav.numpy(), sampling_rate=16000, return_tensors="pt"
        ).input_features
        tokens = list(prompt)
        for _ in range(STEPS):
            with torch.no_grad():
                logits = model(
                    mel, decoder_input_ids=torch.tensor([tokens])
                ).logits
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == end:
                break
        texts.append(" ".join(tokenizer.decode(tokens).split()))
    return texts


def test_greedy_and_alone_as_in_a_batch(whisper, ravdess_tree):
    paths = sorted(ravdess_tree.rglob("*.wav"))[:12:4]
    wavs = [read_audio(path) for path in paths]
    texts = Transcriber(whisper)(wavs)
    assert texts == by_hand(whisper, wavs)
    assert len(set(texts)) > 1 and all(texts)


def test_long_clips_are_joined_from_equal_parts(whisper):
    torch.manual_seed(0)
    long = 0.1 * torch.randn(16000 * 40)
    transcriber = Transcriber(whisper)
    text, short, _ = transcriber([long, long[:16000], long[: 16000 * 30]])
    first, second = transcriber([*long.split(16000 * 20)])
    assert text == " ".join(f"{first} {second}".split())
    assert [short] == transcriber([long[:16000]])


def test_only_what_has_no_text(copied, spoken):
    about, before = read_manifests(copied)
    counts = transcribe(copied, "openai/whisper-small", language="en")
    same, after = read_manifests(copied)
    assert same == about
    assert spoken[0] == ("openai/whisper-small", "cpu", "en")
    # Long clips come first, to the 0.1 ms that manifests tell.
    pairs = zip(spoken[1:], spoken[2:], strict=False)
    assert all(one >= other - 2 for one, other in pairs)
    heard = [n for n in spoken[1:] if n > 5000]
    assert 0 < len(heard) < len(spoken) - 1 == 60 + 16 + 18
    unheard = 0
    for split, entries in after.items():
        for key, entry in entries.items():
            wav = entry["wav"].format(data_root=about["data_folder"])
            samples = soundfile.info(wav).frames
            old = before[split][key]
            if old.get("text", "").strip():
                assert entry == old
            elif samples > 5000:
                assert entry.pop("text") == f"{samples} samples"
                assert entry.pop("text_source") == "openai/whisper-small"
                assert entry.items() <= old.items()
            else:
                unheard += 1
                assert not {"text", "text_source"} & set(entry)
    assert unheard == len(spoken) - 1 - len(heard)
    assert sum(part["openai/whisper-small"] for part in counts.values()) == len(
        heard
    )
    assert counts["test"]["gold"] == 2 and "gold" not in counts["train"]
    spoken.clear()
    transcribe(copied, "openai/whisper-small")
    assert len(spoken) == 1 + unheard


def test_all(copied, spoken, tmp_path):
    folder = tmp_path / "whisper-own"
    folder.mkdir()
    counts = transcribe(copied, f"{folder}/", replace=True)
    assert set(counts["test"]) <= {"whisper-own", "none"}
    assert len(spoken) == 1 + 60 + 16 + 20
    texts = [e.get("text") for e in read_manifests(copied)[1]["test"].values()]
    assert "Kids are talking." not in texts


def test_a_training_keeps_them_and_reads_them(copied, spoken, ravdess_tree):
    transcribe(copied, "openai/whisper-small")
    written = (copied / "test.json").read_text()
    prepare("ravdess", ravdess_tree, copied, classes=4, fold=1)
    assert (copied / "test.json").read_text() == written
    _, sets = datasets(copied)
    for split, entries in read_manifests(copied)[1].items():
        for item in sets[split]:
            text = entries[item["id"]].get("text", "")
            assert item["text"] == text.replace(" [SIGH]", "")
    assert sets["test"][1]["text"] == "Kids talk."


def test_stopped_halfway_nothing_is_written(copied, spoken, monkeypatch):
    before = {path: path.read_text() for path in copied.glob("*.json")}
    _, manifests = read_manifests(copied)
    shortest = min(manifests["train"].values(), key=lambda e: e["duration"])

    def broken(path):
        if path.endswith(shortest["wav"].partition("/")[2]):
            raise InputError(f"{path}: cannot be read as audio")
        return read_audio(path)

    monkeypatch.setattr("ser_peft.data.transcribe.read_audio", broken)
    with pytest.raises(InputError, match="cannot be read as audio"):
        transcribe(copied, "openai/whisper-small")
    assert len(spoken) > 1
    assert {path: path.read_text() for path in copied.glob("*.json")} == before


def test_command(copied, whisper, capsys):
    main(["transcribe", str(copied), str(whisper), "--device", "cpu"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["train", "valid", "test"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["gold"] == ["0", "0", "2"]
    assert {len(line) for line in lines} == {len(head)}
    _, manifests = read_manifests(copied)
    written = [
        sum(e.get("text_source") == whisper.name for e in entries.values())
        for entries in manifests.values()
    ]
    assert rows[whisper.name] == list(map(str, written))
    assert sum(written) > 0


@pytest.fixture
def unfit(whisper, tiny_backbones, tmp_path):
    """Function: what is wrong -> folder of such a checkpoint."""

    def make(what):
        if what in tiny_backbones:
            return tiny_backbones[what]
        folder = shutil.copytree(whisper, tmp_path / what)
        weights = folder / "model.safetensors"
        if what == "encoder":
            tensors = {
                key.removeprefix("model."): tensor
                for key, tensor in load_file(weights).items()
                if ".encoder." in key
            }
            save_file(tensors, weights, {"format": "pt"})
        elif what == "damaged":
            weights.write_bytes(weights.read_bytes()[:5000])
        elif what == "unspoken":
            (folder / "tokenizer.json").unlink()
        elif what == "stranger":
            path = folder / "tokenizer.json"
            text = path.read_text().replace("<|notimestamps|>", "<|other|>")
            path.write_text(text)
        elif what == "polyglot":
            config = json.loads((folder / "config.json").read_text())
            config["vocab_size"] = 51865
            (folder / "config.json").write_text(json.dumps(config))
            tensors = load_file(weights)
            for key, tensor in tensors.items():
                if "embed_tokens" in key:
                    tensors[key] = torch.zeros(51865, tensor.shape[1])
            save_file(tensors, weights, {"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("wavlm", "wavlm: 'wavlm' does not transcribe; give a whisper"),
        ("whisper", "whisper: .*tokenizer"),
        ("unspoken", "unspoken: .*tokenizer"),
        ("encoder", r"encoder: .*lacks \d+ tensors \(model.decoder"),
        ("damaged", "damaged: cannot be read .*model.safetensors"),
        ("stranger", "stranger: its tokenizer has no <|notimestamps|>"),
        ("polyglot", "polyglot: no generation_config.json"),
    ],
)
def test_unfit_checkpoints(unfit, what, message):
    with pytest.raises(InputError, match=message):
        Transcriber(unfit(what))


def test_languages(whisper, tmp_path):
    with pytest.raises(InputError, match="--language de: .* but one"):
        Transcriber(whisper, language="de")
    folder = shutil.copytree(whisper, tmp_path / "two")
    tokens = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    vocabulary = tokens["model"]["vocab"]
    names = {i: name for name, i in (vocabulary | ids).items()}
    settings = {
        "decoder_start_token_id": ids[SPECIAL[1]],
        "eos_token_id": ids[SPECIAL[0]],
        "pad_token_id": ids[SPECIAL[0]],
        "no_timestamps_token_id": ids[SPECIAL[2]],
        "is_multilingual": True,
        # Any tokens would do.
        "lang_to_id": {"<|de|>": vocabulary["a"], "<|en|>": vocabulary["b"]},
        "task_to_id": {"transcribe": vocabulary["c"], "translate": 4},
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="--language fr: .* takes de, en"):
        Transcriber(folder, language="fr")
    torch.manual_seed(0)
    wav = 0.1 * torch.randn(16000)
    for language in ("de", "en", None):
        prompts = []
        transcriber = Transcriber(folder, language=language)
        transcriber.model.get_decoder().register_forward_pre_hook(
            lambda _, args, inputs, seen=prompts: seen.append(
                inputs["input_ids"].tolist()
            ),
            with_kwargs=True,
        )
        transcriber([wav])
        (prompt,) = (p[0] for p in prompts if len(p[0]) > 1)
        start, spoken, *rest = (names.get(i) for i in prompt)
        assert start == SPECIAL[1] and rest == ["c", SPECIAL[2]]
        # Without a language it is guessed.
        assert spoken in {"de": "a", "en": "b", None: "ab"}[language]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["{out}/none", "{whisper}"],
            "No such file or directory); make",
        ),
        (["{out}/manifests", "{out}/none"], "none: cannot be read"),
        (["{out}/manifests", "{whisper}", "--language", "de"], "--language de"),
        (["{out}/manifests", "{whisper}", "--device", "gpu"], "--device gpu"),
    ],
)
def test_command_refuses(copied, whisper, tmp_path, capsys, argv, message):
    before = {path: path.read_text() for path in copied.glob("*")}
    argv = [part.format(out=tmp_path, whisper=whisper) for part in argv]
    with pytest.raises(SystemExit) as stop:
        main(["transcribe", *argv])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert {path: path.read_text() for path in copied.glob("*")} == before


def test_real_speech(shared_whisper, ravdess_folder, tmp_path):
    """Both sentences, by both sexes, neutral and angry."""
    said = {"01": "Kids are talking by the door",
            "02": "Dogs are sitting by the door"}  # fmt: skip
    names = [
        f"03-01-{emotion}-01-{sentence}-01-{actor}"
        for emotion, actor in (("01", "01"), ("05", "02"))
        for sentence in said
    ]
    clips = {u.id: u for u in ravdess.read(ravdess_folder)}
    wavs = [read_audio(clips[name].wav) for name in names]
    texts = Transcriber(shared_whisper)(wavs)
    for name, text in zip(names, texts, strict=True):
        assert text.rstrip(".!") == said[name.split("-")[4]]
