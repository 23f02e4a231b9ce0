# `make quickstart` and `make test` are all that a newcomer needs. Each target creates the virtual environment that it needs.
# PYTHON and TORCH choose versions, each combination in its own environment: `make test PYTHON=python3.12 TORCH=2.6.0`.
PYTHON ?= python3
TORCH ?=
# The tests run in JOBS processes, and in one without pytest-xdist if JOBS is 0.
JOBS ?= 2
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))$(if $(TORCH),-torch-$(TORCH))
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install $(if $(TORCH),torch==$(TORCH))

.PHONY: quickstart test test-release site

quickstart: $(VENV)/installed
	$(BIN)/python tools/train_net.py --config-file configs/quickstart.yaml
	$(BIN)/python tools/test_net.py --config-file output/quickstart/config.yaml --predictions output/quickstart --report
	@echo
	@echo "Pictures of ground truth and detections: output/quickstart/pictures"
	@echo "Report on the mistakes: output/quickstart/report.html"
	@echo "Next, look inside the detector, and train one on a folder of your annotated images:"
	@echo "  . $(BIN)/activate"
	@echo "  detlite visualize --what proposals --weights output/quickstart/model_final.pth"
	@echo "  detlite init data/cells"
	@echo "  detlite train --config-file cells.yaml"

test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-release: $(VENV)/installed-release
	$(BIN)/python -m pytest -o addopts=--import-mode=importlib tests/release

site: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed-%: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[$*]"
	touch $(VENV)/installed $@
