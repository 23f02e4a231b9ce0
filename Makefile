# Two commands: `make quickstart` and `make test`. Each creates the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test

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
	$(BIN)/python -m pytest

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/installed-test: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[test]"
	touch $(VENV)/installed $@
