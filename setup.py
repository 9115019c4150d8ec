"""Packaging of ser_peft."""

from pathlib import Path

from setuptools import find_packages, setup

ONNX = ["onnx", "onnxruntime", "onnxscript"]
SERVE = ["gradio>=6.31,<7", "fastapi", "uvicorn", "python-multipart"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]"]

setup(
    name="ser_peft",
    version="0.1.0",
    description="Parameter-efficient speech emotion recognition",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ser_peft", "ser_peft.*"]),
    package_data={
        "ser_peft": ["methods/*.yaml"],
        "ser_peft.inference": ["templates/*"],
        "ser_peft.report": ["templates/*"],
    },
    install_requires=[
        # One matched pair: PyPI's torchaudio ends at 2.11.0 and fails to
        # import beside any other build of torch.
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "speechbrain>=1.1.2,<1.2",
        "transformers>=5.23,<6",
        "peft>=0.21.2,<0.22",
        "hyperpyyaml>=1.2.3",
        "sentencepiece",
        "soundfile",
        "soxr",
        "pydantic>=2.14,<3",
        "safetensors",
        "scikit-learn",
        "scipy",
        "matplotlib",
        "jinja2",
        "markupsafe",
        "tqdm",
        # Timelines and streams: where somebody speaks. Of silero-vad only the
        # weights are used; it needs torch, which they do not.
        "onnxruntime",
        "silero-vad>=6.2.3,<7",
    ],
    extras_require={
        # GPL, and only ever run in a process of its own.
        "demo": ["espeakng-loader==0.2.4"],
        # To sign model folders, and to check signatures.
        # (pyopenssl: model-signing imports it without saying so.)
        "sign": ["model-signing>=1.1,<2", "pyopenssl"],
        # For `ser-peft export --onnx`. Its files run with onnxruntime, numpy,
        # soundfile and soxr alone: docs/onnx.md.
        "onnx": ONNX,
        # To read m4a, mp4, webm, mkv, wma and the like.
        "media": ["av>=16"],
        # For `ser-peft serve`.
        "serve": SERVE,
        # For `ser-peft crossval --cluster slurm`.
        "slurm": ["submitit"],
        # For `ser-peft tune`.
        "tune": ["optuna>=5,<6"],
        # For `mkdocs build`.
        "docs": DOCS,
        "dev": [
            *DOCS,
            *ONNX,
            "av>=16",
            *SERVE,
            "httpx",
            "hypothesis",
            "markdown-it-py",
            "optuna>=5,<6",
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "submitit",
        ],
    },
    entry_points={"console_scripts": ["ser-peft=ser_peft.cli:main"]},
)
