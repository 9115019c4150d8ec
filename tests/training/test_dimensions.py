"""Arousal, valence and dominance: measured, trained, predicted."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import trees_a
from safetensors.torch import load_file
from sealed import reseal
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ser_peft
from ser_peft.cli import main
from ser_peft.data import datasets, prepare, read_manifests
from ser_peft.errors import InputError
from ser_peft.evaluation.metrics import concordance, concordance_interval
from ser_peft.evaluation.summary import summarize
from ser_peft.report.tables import format_summary
from ser_peft.training.objectives import concordance_loss
from ser_peft.training.probe import ALPHAS, fit_probe
from ser_peft.training.probe_runs import run_probe

NAMES = ["arousal", "valence", "dominance"]

# ------------------------------------------------------------------- measure


def pairs(n=200, seed=0):
    """True values of two dimensions, and what somebody predicted."""
    rng = np.random.default_rng(seed)
    truth = rng.normal([3.0, -1.0], [0.8, 5.0], (n, 2))
    return truth, 0.5 * truth + rng.normal([1.0, 2.0], 0.7, (n, 2))


def test_concordance_is_lins():
    truth, guess = pairs()
    for x, y, found in zip(
        truth.T, guess.T, concordance(truth, guess), strict=True
    ):
        r = np.corrcoef(x, y)[0, 1]
        shift = (x.mean() - y.mean()) ** 2
        expected = 2 * r * x.std() * y.std() / (x.var() + y.var() + shift)
        assert found == pytest.approx(expected)
        assert abs(found) < abs(r)


def test_concordance_of_special_cases():
    truth, _ = pairs()
    assert concordance(truth, truth) == pytest.approx(1)
    assert (concordance(truth, truth + 0.1) < 1).all()
    assert (concordance(truth, 1.1 * truth) < 1).all()
    mirrored = 2 * truth.mean(0) - truth
    assert concordance(truth, mirrored) == pytest.approx(-1)
    assert concordance(truth, 0 * truth) == pytest.approx(0)
    assert concordance([[2.0]], [[2.0]]) == 0
    far = 1e4 + truth  # nothing is lost in the squares
    assert concordance(far, far + 0.1) == pytest.approx(
        concordance(truth, truth + 0.1)
    )


def test_interval_over_speakers():
    truth, guess = pairs()
    names = [f"s{i % 7}" for i in range(len(truth))]
    (low, high), reason = concordance_interval(truth, guess, names)
    assert low < concordance(truth, guess).mean() < high
    assert high - low < 0.4 and reason is None
    ends, reason = concordance_interval(truth, truth, names)
    assert (ends, reason) == (None, "all speakers score alike")


def test_loss_is_one_minus_the_measure():
    truth, guess = pairs()
    tensors = [torch.tensor(array).float() for array in (guess, truth)]
    loss = concordance_loss(*tensors)
    assert float(loss) == pytest.approx(1 - concordance(truth, guess).mean())
    # So it is no matter on which scale it is computed.
    scaled = [3 * tensor - 7 for tensor in tensors]
    assert float(concordance_loss(*scaled)) == pytest.approx(float(loss))


def test_loss_leads_to_the_truth():
    truth = torch.tensor(pairs(30)[0]).float()
    truth = (truth - truth.mean(0)) / truth.std(0)
    generator = torch.Generator().manual_seed(0)
    guess = (0.1 * torch.randn(30, 2, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        concordance_loss(guess, truth).backward()
        optimizer.step()
    assert float((guess.detach() - truth).abs().max()) < 0.05


@pytest.mark.parametrize("truth", [[[2.0, 3.0]], [[2.0, 3.0]] * 4])
def test_a_batch_without_variance_has_finite_gradients(truth):
    truth = torch.tensor(truth)
    for guess in (truth.clone(), 0 * truth):
        loss = concordance_loss(guess.requires_grad_(), truth)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(1)
        assert guess.grad.isfinite().all()


# ----------------------------------------------------------------- manifests


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A miniature IEMOCAP whose dimensions can be heard."""
    root = trees_a.iemocap_tree(tmp_path_factory.mktemp("IEMOCAP"))
    rng = np.random.default_rng(0)

    def rated(match):
        kind = trees_a.CODES.index(match[1])
        values = np.array([1.5 + 0.4 * kind, 4.5 - 0.3 * kind, 2 + 0.2 * kind])
        values += rng.uniform(-0.1, 0.1, 3)
        return f"\t{match[1]}\t[" + ", ".join(f"{v:.4f}" for v in values) + "]"

    for path in root.glob("Session*/dialog/EmoEvaluation/Ses*.txt"):
        text = path.read_text(encoding="cp1252")
        text = re.sub(r"\t(\w{3})\t\[[\d., ]+\]", rated, text)
        path.write_text(text, encoding="cp1252")
    return root


def test_dimensions_alone_need_no_emotion(tree, tmp_path):
    prepare("iemocap", tree, tmp_path, classes=0, dimensions=NAMES)
    about, manifests = read_manifests(tmp_path)
    assert (about["classes"], about["dimensions"]) == ([], NAMES)
    ids = {id_ for entries in manifests.values() for id_ in entries}
    assert "Ses01M_script01_1b_MXX0" in ids  # on which nobody agreed
    assert len(ids) == 47
    _, sets = datasets(tmp_path)
    item = sets["test"][0]
    entry = sets["test"].data[item["id"]]
    assert "emotion" not in entry and item["label"] == -1
    assert item["values"] == [entry[name] for name in NAMES]
    assert item["values"] != sets["test"][1]["values"]


def test_utterances_without_a_number_are_left_out(tmp_path, caplog):
    tree = trees_a.msp_improv_tree(tmp_path / "corpus")
    ids = []
    for names in ([], ["dominance"]):
        prepare("msp-improv", tree, tmp_path, fold=2, dimensions=names)
        _, manifests = read_manifests(tmp_path)
        ids.append({id_ for entries in manifests.values() for id_ in entries})
    assert ids[0] - ids[1] == {"MSP-IMPROV-S01A-M01-P-FM01"}
    assert "1 of 26 utterances lack dominance and are left out" in caplog.text
    with pytest.raises(InputError, match="train: valence is the same for ev"):
        prepare("msp-improv", tree, tmp_path, dimensions=["valence"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dimensions": ["pride"]}, "dimensions: iemocap has no .*'pride'"),
        ({"classes": 0}, "classes: 0: give at least two .*or 0 and dimensions"),
    ],
)
def test_what_cannot_be_predicted(tree, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        prepare("iemocap", tree, tmp_path, **settings)


def test_a_manifest_that_lost_a_number(tree, tmp_path):
    prepare("iemocap", tree, tmp_path, dimensions=NAMES)
    path = tmp_path / "valid.json"
    entries = json.loads(path.read_text())
    entries[min(entries)]["valence"] = None
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match="needs a number for each of arousal"):
        read_manifests(tmp_path)


def test_prepare_on_the_command_line(tree, tmp_path, capsys):
    argv = ["prepare", "iemocap", str(tree), str(tmp_path)]
    main([*argv, "--classes", "0", "--dimensions", *NAMES])
    assert re.search("utterances +2[0-9] +9 +1[0-9]", capsys.readouterr().out)
    assert read_manifests(tmp_path)[0]["dimensions"] == NAMES


# --------------------------------------------------------------------- probe


@pytest.mark.parametrize("dimensions", [1, 2])
def test_probe_is_a_ridge_regression(dimensions):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(12, 2))[:, :dimensions]
    x = rng.normal(2, 3, (150, 12))
    y = 4 + 5 * (x @ weight + rng.normal(0, 20, (150, dimensions)))
    labels = (y[:, 0] > y[:, 0].mean()).astype(int).tolist()
    states = torch.from_numpy(x).float().reshape(150, 3, 4)
    train = states[:80], labels[:80]
    valid = states[80:], labels[80:]
    values = y[:80], y[80:]
    found = {}
    for alpha in ALPHAS:
        ridge = make_pipeline(StandardScaler(), Ridge(alpha))
        guess = ridge.fit(x[:80], y[:80]).predict(x[80:])
        ccc = concordance(y[80:], guess.reshape(70, -1)).mean()
        found[alpha] = ccc, guess.reshape(70, -1)
    probe = fit_probe(train, valid, 0, values)
    assert probe.alpha == max(found, key=lambda alpha: found[alpha][0])
    ccc, guess = found[probe.alpha]
    assert probe.valid_ccc == pytest.approx(ccc, abs=1e-4)
    features = ((states[80:] - probe.mean) / probe.deviation).flatten(1)
    answer = (features @ probe.weight.T + probe.bias).numpy()
    answer = values[0].mean(0) + values[0].std(0) * answer
    np.testing.assert_allclose(answer, guess, rtol=1e-3, atol=1e-3)
    # Beside classes it is the same, and so are they.
    both, classes = (fit_probe(train, valid, 2, v) for v in (values, None))
    assert both.weight.equal(torch.cat([classes.weight, probe.weight]))
    assert both.bias.equal(torch.cat([classes.bias, probe.bias]))
    assert both.choice == f"{classes.choice}, {probe.choice}"


@pytest.mark.parametrize("classes", [0, 4])
def test_probe_of_a_backbone(tree, tiny_backbones, tmp_path, classes):
    made = tmp_path / "manifests"
    prepare("iemocap", tree, made, classes=classes, dimensions=NAMES)
    backbone = str(tiny_backbones["wavlm"])
    (results,) = run_probe(backbone, {made: tmp_path / "out"})
    check(tmp_path / "out", tree, results["classes"])
    assert results["ccc_mean"] > 0.5


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def run(train, arguments, tree):
    """Function: folder, overrides, how to end -> how it ended."""

    def start(folder, processes=1, kill_at=None, **more):
        settings = {
            "data_folder": tree,
            "manifests_folder": None,
            "dimensions": f"[{','.join(NAMES)}]",
            "number_of_epochs": 3,
            "head_lr": 0.003,
        }
        hparams = "IEMOCAP/hparams/whisper_lora.yaml"
        argv = arguments(folder, hparams, **settings | more)
        return train(argv, processes, kill_at)

    return start


class Page(HTMLParser):
    """The text of a page and what its images show."""

    def __init__(self, text):
        super().__init__()
        self.shown, self.images = "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "svg":
            self.images.append(dict(attrs)["aria-label"])

    def handle_data(self, data):
        self.shown += f"{data} "


def check(folder, tree, classes):
    """What a run with dimensions leaves, and that it can be used."""
    results = json.loads((folder / "results.json").read_text())
    assert results["classes"] == classes
    assert list(results["ccc"]) == NAMES
    assert results["ccc_mean"] == pytest.approx(
        np.mean([*results["ccc"].values()])
    )
    assert results["ccc_ci95"] is None  # a session is two speakers
    assert results["ccc_ci95_reason"] == "2 speakers, 4 are needed"
    assert -1 <= results["valid_ccc"] <= 1
    assert (results["ua"] is None) == (not classes)
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == results["test_utterances"]
    calibrated = [f"{name}_calibrated" for name in classes]
    of_classes = ["label", "predicted", *classes, *calibrated] * bool(classes)
    of_classes += ["start_predicted"] * bool(classes and results.get("start"))
    of_values = [n for name in NAMES for n in (name, f"predicted {name}")]
    assert list(rows[0]) == ["id", "speaker", *of_classes, *of_values]
    table = np.array([[float(row[n]) for n in of_values] for row in rows])
    truth, guess = table[:, ::2], table[:, 1::2]
    found = concordance(truth, guess)
    assert found == pytest.approx([*results["ccc"].values()], abs=1e-3)
    page = Page((folder / "report.html").read_text())
    for name in NAMES:
        assert any(f"against true {name}" in alt for alt in page.images)
    assert f"{results['ccc_mean']:.3f}" in page.shown
    assert ("Confusion" in page.shown) == bool(classes)
    assert (folder / "confusion.png").exists() == bool(classes)

    model = ser_peft.load_model(folder)
    wavs = [next(tree.rglob(f"{row['id']}.wav")) for row in rows[:4]]
    for answer, row in zip(model.predict(wavs), rows[:4], strict=True):
        assert list(answer["dimensions"]) == NAMES
        for name in NAMES:  # in the corpus's own units
            expected = float(row[f"predicted {name}"])
            assert answer["dimensions"][name] == pytest.approx(
                expected, abs=1e-3
            )
        assert list(answer.get("scores", [])) == classes
        assert answer.get("label") == row.get("predicted")
    assert np.abs(guess - truth.mean(0)).max() < 5
    again = folder / "again"
    model.save(again)
    samples = 0.1 * torch.randn(2, 8000)
    scores = model(samples)
    assert scores.shape == (2, len(classes) + 3)
    assert ser_peft.load_model(again)(samples).equal(scores)
    return results


def history(folder):
    """What the epochs measured."""
    files = (folder / "save").glob("CKPT*/history.ckpt")
    return max((json.loads(file.read_text()) for file in files), key=len)


@pytest.fixture(scope="module")
def classes_only(run, tmp_path_factory):
    """A run with four classes."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    end = run(folder, dimensions="[]", number_of_epochs=1)
    assert end.code == 0, end.log
    assert "ccc" not in json.loads((folder / "results.json").read_text())
    return folder


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """A run with dimensions alone."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    end = run(folder, classes=0, robustness="True", keep="best")
    assert end.code == 0, end.log
    assert "test mean CCC" in end.log
    return folder


def test_dimensions_alone(alone, tree):
    results = check(alone, tree, [])
    epochs = history(alone)
    assert len(epochs) == 3
    assert all("valid_ua" not in epoch for epoch in epochs)
    start = results["start"] | {"epoch": 0}
    best = max(start, *epochs, key=lambda epoch: epoch["valid_ccc"])
    assert best["valid_ccc"] > 0.8  # the numbers follow the pitch
    assert results["best_epoch"] == best["epoch"]
    assert results["valid_ccc"] == pytest.approx(best["valid_ccc"], abs=1e-4)
    name = f"epoch {best['epoch']}" if best["epoch"] else "the linear probe"
    assert results["kept"] == f"best valid CCC: {name}"
    # The loss of valid is that of the whole set.
    assert best["valid_loss"] == pytest.approx(1 - best["valid_ccc"])
    assert "linear probe: alpha=" in (alone / "train_log.txt").read_text()


def test_predict_on_the_command_line(alone, tree, capsys):
    wav = str(next(tree.rglob("*.wav")))
    main(["predict", str(alone), wav])
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"{wav}: arousal -?\d\.\d\d  valence \S+  dominance \S+\n", out
    )


def test_a_killed_run_goes_on(alone, run, tmp_path):
    for place, code in ((("CKPT.yaml", 2), -9), (None, 0)):
        end = run(
            tmp_path, kill_at=place, classes=0, robustness="True", keep="best"
        )
        assert end.code == code, end.log
    for name in ("predictions.csv", "model/head.safetensors"):
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()


def test_dimensions_beside_classes(run, tree, tmp_path):
    end = run(tmp_path, 2, distributed_backend="gloo")
    assert end.code == 0, end.log
    check(tmp_path, tree, ["neutral", "angry", "sad", "happy"])
    for epoch in history(tmp_path):
        assert 0 <= epoch["valid_ua"] <= 1 and -1 <= epoch["valid_ccc"] <= 1


def test_summary(alone, classes_only):
    text = format_summary(summarize([alone, classes_only]))
    ccc = json.loads((alone / "results.json").read_text())["ccc_mean"]
    assert f"{ccc:.3f}" in text and "CCC" in text and "UA" in text


def tensors(folder):
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {str(file.relative_to(folder)): load_file(file) for file in files}


@pytest.mark.parametrize(
    "settings",
    [{"classes": 0}, {"classes": 4}, {"classes": 6, "dimensions": "[]"}],
)
def test_from_classes_to_other_targets(classes_only, run, tmp_path, settings):
    """All but the layers that give the scores are taken over."""
    still = {"adapter_lr": 0.0, "head_lr": 0.0, "weight_decay": 0.0}
    end = run(
        tmp_path,
        init_from=classes_only,
        start_from_probe=False,
        number_of_epochs=1,
        **still,
        **settings,
    )
    assert end.code == 0, end.log
    before, after = tensors(classes_only), tensors(tmp_path)
    assert before.keys() == after.keys()
    for file, old in before.items():
        for key, tensor in old.items():
            gives = key.startswith(("out.2.", "probe.linear."))
            assert tensor.equal(after[file][key]) != gives, key


def test_from_dimensions_to_the_same(alone, run, tmp_path):
    more = {"adapter_lr": 0.0, "head_lr": 0.0, "weight_decay": 0.0}
    end = run(
        tmp_path,
        classes=0,
        init_from=alone,
        start_from_probe=False,
        number_of_epochs=1,
        **more,
    )
    assert end.code == 0, end.log
    before, after = tensors(alone), tensors(tmp_path)
    for file, old in before.items():
        for key, tensor in old.items():
            assert tensor.equal(after[file][key]), key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"head": "{dimensions: []}"},
            "head: gives 4 scores, .* 4 classes and 3 dimensions",
        ),
        ({"dimensions": "arousal"}, "dimensions: arousal is no list"),
        ({"dimensions": "[a, a]"}, "no list of different names"),
        ({"dimension_weight": -1}, "dimension_weight: -1 is no number"),
    ],
)
def test_refused(run, tmp_path, settings, message):
    end = run(tmp_path, **settings)
    assert end.code == 2
    assert re.search(message, end.log), end.log


@pytest.mark.parametrize("garbled", [{"arousal": 3}, {"arousal": [3, 0]}, [1]])
def test_a_garbled_scale(alone, tmp_path, garbled):
    shutil.copytree(alone / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"dimensions": garbled}))
    reseal(path.parent)
    with pytest.raises(InputError, match="model.json: describes no model"):
        ser_peft.load_model(tmp_path)
