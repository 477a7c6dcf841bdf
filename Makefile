# Set-up and checks. `make run` and `make test` need nothing but Python 3.10 to 3.13 and a network for the first time.
PYTHON ?= python3
VENV ?= .venv
OUT ?=
ARGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := cast_lens tests benchmarks studies

.DEFAULT_GOAL := run
.PHONY: help run quick test test-slow test-tl4 check format docs notebooks figures bench bench-peers clean

help:
	@echo "make run        the main job and its report (OUT=directory, ARGS='--quick ...')"
	@echo "make quick      a small version of it, in less than a minute"
	@echo "make test       install the development tools and run the tests but the slow ones"
	@echo "make test-slow  run the slow tests: whole commands, every experiment on every mixture of tasks, browsers"
	@echo "make test-tl4   run the tests of the engine, steering and the report under TransformerLens 4"
	@echo "make check      format, lint and types, as they are checked before a change is taken"
	@echo "make format     format and mend what can be mended"
	@echo "make docs       build the documentation into site/, and fail on a broken link"
	@echo "make notebooks  execute the notebooks"
	@echo "make figures    make the gallery of figures"
	@echo "make bench      time the engine"
	@echo "make clean      remove the environment and what was built"

run: $(VENV)/.installed
	$(BIN)/cast-lens run $(if $(OUT),--out $(OUT)) $(ARGS)

quick: $(VENV)/.installed
	$(BIN)/cast-lens run --quick --out runs/quick $(ARGS)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m slow $(ARGS)

# TransformerLens 4 in an environment of its own, which finds everything else in the other one.
TL4 := .venv-tl4
TL4_TESTS := tests/engine/test_huggingface.py tests/engine/test_architectures.py tests/engine/test_devices.py \
	tests/engine/test_equality.py tests/models/test_decoder.py tests/models/test_bridge.py tests/test_hooks.py \
	tests/test_steering.py tests/test_steered_decoding.py tests/test_extraction.py tests/report/test_page.py

test-tl4: $(TL4)/.installed
	OMP_NUM_THREADS=1 $(TL4)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow" $(TL4_TESTS) $(ARGS)

PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

# Without the pins, which ask for the other TransformerLens.
$(TL4)/.installed: $(VENV)/.installed-dev
	$(BIN)/python -m venv --without-pip $(TL4)
	there=$$($(TL4)/bin/python $(PACKAGES)) && \
	  { $(BIN)/python $(PACKAGES); echo $(CURDIR); } > $$there/everything_else.pth && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $$there \
	    transformer-lens==4.3.0
	touch $@

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/vermin --target=3.10- --eval-annotations --no-tips --quiet cast_lens
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS)
	@echo "Open site/index.html"

notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/execute.py $(ARGS)

figures: $(VENV)/.installed-dev
	$(BIN)/python figures/make.py $(ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/capture.py

# Without their own pins, which ask for other versions of torch and numpy than the ones compared here.
bench-peers: $(VENV)/.installed-dev
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . nnsight scikit-learn
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps steering-vectors repeng
	.venv-peers/bin/python benchmarks/peers.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-peers $(TL4) build site *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "cast_lens needs Python 3.10 to 3.13; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing cast_lens into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e '.[static]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing cast_lens with its development tools into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e '.[static,dev]'
	touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev pyproject.toml constraints.txt
	@echo "Installing what builds the documentation into $(VENV)"
	$(INSTALL) -e '.[docs]'
	touch $@
