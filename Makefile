# Everything works on a machine that has Python 3.11 with pip and venv, make and git.
# The first target that is run installs into .venv (minutes); after that it takes seconds.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread a process: the tests share the machine with each other, and small models gain nothing from more.
QUIET := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=agg
# By files, because the tests of one share what is dear to set up; in order, because the longest come early.
PYTEST := $(QUIET) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo docs test test-docs test-all test-hub1 check bench architectures cards clean reproduce
.DELETE_ON_ERROR:

help:
	@echo "make install    into .venv, minutes; every other target does it too when it is needed"
	@echo "make demo       the whole story on text of this machine, about ten minutes: demo-out/report.html"
	@echo "make reproduce CORPORA=DIR  the test of the paper in miniature, hours: reproduction-out/results.md"
	@echo "make docs       the documentation as pages: build/site/index.html"
	@echo "make test       the fast tests"
	@echo "make test-docs  the examples, the notebooks, the site, and the code in README and docs"
	@echo "make test-all   everything, slow tests too"
	@echo "make check      ruff and mypy"
	@echo "make bench      what is measured, not asserted"
	@echo "make architectures  grow every causal language model transformers knows, ten minutes: docs/architectures.md"
	@echo "make cards      the cards in model_cards/, from published coefficients and the demo's points"
	@echo "make clean      remove .venv, caches and build folders; results stay"

install: .venv/installed
	@echo "Installed into .venv. Next: . .venv/bin/activate && hf-bootstrap --help"

demo: .venv/installed
	$(BIN)/hf-bootstrap demo --out demo-out

# Stopped at any time it goes on where it was. The main study first, then those of other sizes and architectures.
reproduce: .venv/installed
	@test -n "$(CORPORA)" || { echo "say where the corpora are: make reproduce CORPORA=DIR"; exit 2; }
	for study in reproduction reproduction-docs reproduction-30k reproduction-400k reproduction-gpt2; do \
	  $(BIN)/hf-bootstrap study run examples/studies/$$study.yaml --corpora $(CORPORA) --out reproduction-out/$$study \
	  && $(BIN)/hf-bootstrap study report reproduction-out/$$study \
	  && $(BIN)/hf-bootstrap study points reproduction-out/$$study --to reproduction-out/points-$$study.jsonl || exit; done
	$(BIN)/python docs/reproduction/shuffled_copies.py reproduction-out/shuffled --corpora $(CORPORA)
	cp reproduction-out/shuffled/points-reproduction-shuffled.jsonl reproduction-out
	$(BIN)/python docs/reproduction/analyse.py reproduction-out

# Strict: a link or a reference that leads nowhere ends it.
docs: .venv/installed-for-tests
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html; with its search: $(PYTHON) -m http.server -d build/site"

test: .venv/installed-for-tests
	$(PYTEST) tests --ignore=tests/docs -m "not slow"

test-docs: .venv/installed-for-tests
	$(PYTEST) tests/docs -m "not slow"

test-all: .venv/installed-for-tests test-hub1
	$(PYTEST) tests

# The Hub's client of the major version before, without torch: what it raises and repeats is not what the newest does.
test-hub1: .venv-hub1/installed
	$(QUIET) .venv-hub1/bin/python -m pytest tests/hub/test_push.py tests/hub/test_faults.py tests/hub/test_waits.py tests/hub/test_attacks.py tests/hub/test_laws.py

.venv-hub1/installed: setup.cfg
	test -x .venv-hub1/bin/python || $(PYTHON) -m venv .venv-hub1
	.venv-hub1/bin/python -m pip install --quiet --disable-pip-version-check 'huggingface_hub<2' numpy scipy matplotlib jinja2 pyyaml rich typer pytest
	touch $@

check: .venv/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	@for file in benchmarks/*.py; do echo "== $$file"; $(QUIET) $(BIN)/python $$file || exit 1; done

# What was done is kept in build/, so a run that was cut off goes on; `make clean` makes it start anew.
architectures: .venv/installed-for-tests
	mkdir -p build
	$(QUIET) $(BIN)/python -m tests.growth.coverage --results build/architectures.jsonl --write docs/architectures.md

cards: .venv/installed
	$(QUIET) $(BIN)/python model_cards/make_cards.py

clean:
	rm -rf .venv .venv-hub1 build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: it is most of the download, and pip settles the rest around it.
.venv/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e .
	touch $@

.venv/installed-for-tests: .venv/installed
	$(PIP) -e '.[test,docs]'
	touch $@
