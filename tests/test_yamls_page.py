"""docs/yamls.md: what it quotes, says and runs is true."""

import re
import shlex
import shutil

import pytest
import torch
from ruamel.yaml import YAML
from scripts import RECIPES

from ser_peft.settings.arguments import parse_arguments
from ser_peft.settings.yamls import OPTIONAL, read_settings
from ser_peft.training import EmotionBrain
from ser_peft.training.checks import check_settings
from ser_peft.training.run import NEEDED, READ

PAGE = (RECIPES.parent / "docs" / "yamls.md").read_text("utf-8")
SHOWN = "RAVDESS/hparams/wavlm_lora.yaml"


def lines(text):
    """Lines of a yaml that are neither empty nor a comment."""
    return [line for line in text.splitlines() if line and line[0] != "#"]


@pytest.fixture
def settings(tmp_path):
    """Function: flags -> resolved values of the yaml that the page shows."""
    path = tmp_path / SHOWN
    path.parent.mkdir(parents=True)
    shutil.copy(RECIPES / SHOWN, path)
    for name in ("augmentation.yaml", "methods"):
        (tmp_path / name).symlink_to(RECIPES / name)
    own = (RECIPES / "augmentation.yaml").read_text("utf-8")
    own = own.replace("speeds: [80,", "speeds: [95,")
    path.with_name("my_augmentation.yaml").write_text(own, "utf-8")

    def resolve(*flags):
        argv = [str(path), "--data_folder=a", *flags]
        _, options, given = parse_arguments(argv)
        reads = {*NEEDED, *READ, *EmotionBrain.defaults}
        values = YAML().load(read_settings(str(path), given, reads, options))
        check_settings(values)
        return values

    return resolve


def test_the_yaml_is_shown_whole():
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert lines("".join(blocks)) == lines((RECIPES / SHOWN).read_text())


def test_keys_that_may_be_added(settings):
    rows = re.findall(r"^\| `(\w+): (.*?)` \|", PAGE, re.MULTILINE)
    assert {key for key, _ in rows} == OPTIONAL - {"sorting"}
    for key, value in rows:
        assert key in settings(f"--{key}={value}")


def test_flags(settings):
    rows = re.findall(r"^\| `(--.*?)` \|", PAGE, re.MULTILINE)
    plain = settings()
    for row in rows:
        assert settings(*shlex.split(row)) != plain
    found = settings(*(flag for row in rows for flag in shlex.split(row)))
    assert found["output_folder"] == "results/ravdess/16"
    assert found["peft"]["method"]["use_dora"]
    assert found["encoder"]["method"]["r"] == 8
    assert found["encoder"]["targets"] == "attention"
    speed = found["wav_augment"]["augmentations"][0]
    assert speed["speeds"][:2] == [95, 84]


def test_plain_python(tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = code.replace('"recipes/', f'"{RECIPES}/')
    backbone = str(tiny_backbones["wavlm"])
    names = {}
    exec(code.replace("microsoft/wavlm-base-plus", backbone), names)
    states, frames = names["encoder"](
        torch.rand(2, 16000), torch.tensor([1.0, 0.5])
    )
    assert frames.tolist() == [49, 24]
    assert names["head"](states, frames).shape == (2, 4)
    assert names["hparams"]["peft"]["method"].r == 8
