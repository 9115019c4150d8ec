"""A Space, started as Hugging Face starts it."""

import os
import re
import socket
import subprocess
import sys

import httpx
import pytest
import yaml
from packaging.requirements import Requirement

from ser_peft.errors import InputError
from ser_peft.service import export_space


@pytest.fixture(scope="module")
def space(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spaces ä") / "space"
    export_space(run, folder, merge=True)
    return folder


def test_what_is_in_it(space, run):
    _, front, _ = (space / "README.md").read_text("utf-8").split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["sdk"] == "gradio" and about["app_file"] == "app.py"
    assert re.fullmatch(r"6\.\d+\.\d+", about["sdk_version"])
    lines = (space / "requirements.txt").read_text().split("\n")
    names = {Requirement(line).name for line in lines[:-1]}
    assert {"torch", "speechbrain", "transformers", "soundfile"} <= names
    assert not {"pytest", "mkdocs"} & names
    assert (
        space / "ser_peft" / "report" / "templates" / "login.html.j2"
    ).exists()
    assert not [*space.rglob("__pycache__")]
    for path in space.rglob("*"):
        if path.is_file():
            assert str(run).encode() not in path.read_bytes()


def test_it_runs(space, tmp_path):
    """From its own folder alone, where no ser_peft is installed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH"
    }
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=space,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment
        | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path),
           "GRADIO_SERVER_PORT": port, "CUDA_VISIBLE_DEVICES": "",
           "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    try:
        printed = ""
        while "Running on local URL" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        url = re.search(r"http://[\d.:]+", printed)[0]
        assert "Speech emotion recognition: tiny ä" in httpx.get(url).text
        refused = httpx.get(f"{url}/gradio_api/file=/etc/passwd")
        assert refused.status_code in (403, 404)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_an_encoder_that_it_could_not_find(run, tmp_path):
    with pytest.raises(InputError, match="give --merge, or --backbone"):
        export_space(run, tmp_path / "space")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="is there already"):
        export_space(run, tmp_path / "there")
