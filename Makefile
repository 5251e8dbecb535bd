# Two commands set everything up, each in its own virtual environment:
#   make quickstart    the main job on real images, with a report
#   make test          lint, types and tests
# `make soak` runs the long tests too, and `make programs FROM=.. TO=..` the random programs of some numbers.
PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal -q
QUICKSTART_ARGS ?=
PIP_ARGS ?=

TEST_ENV := .venv
QUICKSTART_ENV := .venv-quickstart
BIN := $(TEST_ENV)/bin

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# All that docs/benchmarks.md says but the rows of torch.compile, some hours; `studies` and
# `distillation`, which train for longer, are called by hand.
BENCHMARKS := compiler growth scaling curves logits precision compiled networks

.PHONY: quickstart test lint types soak programs bench generated clean
.DELETE_ON_ERROR:

# PyTorch gets all cores here: this is one job, not many tests beside each other.
quickstart: export OMP_NUM_THREADS :=
quickstart: $(QUICKSTART_ENV)/.installed
	$(QUICKSTART_ENV)/bin/spacelang quickstart $(QUICKSTART_ARGS)

test: lint types
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(TEST_ENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST_ENV)/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

soak: $(TEST_ENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "soak or not soak" --hypothesis-profile soak

# The random programs of some numbers alone, so that a soak which was stopped goes on where it was:
#   make programs FROM=30200 TO=100000
FROM ?= 2000
TO ?= 100000
programs: $(TEST_ENV)/.installed
	PROGRAMS_FROM=$(FROM) PROGRAMS_TO=$(TO) $(BIN)/python -m pytest $(PYTEST_ARGS) -vv -m soak \
	  tests/differential/test_programs.py::test_more_random_programs

bench: $(TEST_ENV)/.installed
	@for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

# What is made from something else in the repository; tests compare it byte for byte.
generated: $(TEST_ENV)/.installed
	$(BIN)/python -m spacelang.grammars.build
	$(BIN)/python -m spacelang.editor.build
	$(BIN)/python docs/systems/build.py

clean:
	rm -rf $(TEST_ENV) $(QUICKSTART_ENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted installation is taken up again, and a finished one
# is repeated only when what it was made from changes.
$(TEST_ENV)/.installed: requirements/test.txt
$(QUICKSTART_ENV)/.installed: requirements/quickstart.txt
$(TEST_ENV)/.installed $(QUICKSTART_ENV)/.installed: %/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spacelang needs Python 3.11 or newer; say which with PYTHON=...")'
	$(PYTHON) -m venv $*
	@echo "installing PyTorch and what else is needed into $* (some minutes)"
	$*/bin/python -m pip install --quiet $(PIP_ARGS) $(addprefix -r ,$(filter requirements/%,$^)) -e .
	touch $@
