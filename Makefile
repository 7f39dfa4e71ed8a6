# Two commands need nothing but Python: `make tour` and `make test`. Both make .venv and install by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# nothing below reaches for a hub or draws a progress bar into a log
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help tour test lab docs bench notebooks check readme clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

tour: $(STAMP) ## run the main job and write _tour/tour.html
	@$(BIN)/python tools/tour.py

test: $(STAMP) ## everything CI checks: clean, export, no drift, lint, types, notebooks, tests
	@BIN=$(BIN) tools/check

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=nbs

docs: $(STAMP) ## build the website into _docs (needs Quarto)
	@command -v quarto >/dev/null || { echo "The website is built with Quarto, which is not installed. Get it from quarto.org, then run make docs again."; exit 1; }
	$(BIN)/nbdev-docs

bench: $(STAMP) ## measure, beside the alternatives, in one run
	@for f in benchmarks/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

readme: $(STAMP) ## write README.md from nbs/index.ipynb
	@$(BIN)/python tools/readme.py

clean: ## remove everything that can be made again
	rm -rf $(VENV) _tour _proc _docs build dist *.egg-info

# not pyproject.toml: nbdev-export writes it anew each time, with the same text
$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("llmops_nb needs Python 3.11 or later; this is %d.%d. Try: make PYTHON=python3.12" % v[:2])'
	@echo "Installing into $(VENV): about two minutes the first time, nothing after that."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@echo "  1/2 torch" && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@echo "  2/2 the rest" && $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	@touch $(STAMP)
