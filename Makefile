# What a person types here. Each target sets up what it needs, once, and works from a fresh clone.
.PHONY: help demo test check lint lanes bench chaos docs clean
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c conf/constraints/spark-4.2.txt
JARS := $(BIN)/python -c "from sparkscore.spark import jars; jars.ensure()"

help:
	@echo "make demo    score the 336,776 flights of 2013: environment, jars, data, then the main job"
	@echo "make test    the whole test suite, real parts included"
	@echo "make check   what to run before each commit: ruff, mypy, import contract, house rules, fast tests"
	@echo "make lanes   what takes minutes: all of the contract suite on each kind of cluster, kills in every place"
	@echo "make bench   docs/benchmarks.md, measured anew (half an hour); ARGS='--workloads T1,N1' for a part of it"
	@echo "make chaos   the faults of docs/reliability.md, played with real processes (about an hour)"
	@echo "make docs    the documentation, into site/"
	@echo "make clean   remove everything that the others made"

demo: $(VENV)/.demo
	@$(BIN)/sparkscore demo

# By folder, not by number of tests: the long files come early, and both workers end together.
test: $(VENV)/.dev .jars/spark.jsa
	$(BIN)/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

.jars/spark.jsa: $(VENV)/.demo
	@echo "Setting up Java's archive of the classes that runs load (once; a minute) …"
	@$(BIN)/python -m tests.archive $(CURDIR)/$@ >/dev/null 2>&1 || echo "… without it"

check: lint
	$(BIN)/python -m pytest tests -q -m "not spark and not slow" -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

lanes: $(VENV)/.dev .jars/spark.jsa
	SPARKSCORE_LANES=1 $(BIN)/python -m pytest tests/e2e/test_clusters.py -v --durations=0
	SPARKSCORE_LANES=1 $(BIN)/python -m pytest tests -m "lanes or turn" --deselect tests/e2e/test_clusters.py -v --durations=0

bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos --points --write

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(BENCH) .jars .data .demo build dist site *.egg-info spark-warehouse metastore_db derby.log
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What scoring on this machine needs: the package, ONNX Runtime, Spark, Delta's jars, and a Java where there is none.
$(VENV)/.demo: setup.py conf/constraints/spark-4.2.txt
	@echo "Setting up $(VENV) and .jars (once; a few minutes) …"
	@python=$$(conf/scripts/find-python.sh) && "$$python" -m venv $(VENV)
	@$(INSTALL) --editable '.[cpu,spark]'
	@$(BIN)/python -c "from sparkscore.spark import java; java.java_home()" 2>/dev/null || $(INSTALL) --editable '.[java]'
	@$(JARS)
	@touch $@

# What the tests and tools need on top of it.
$(VENV)/.dev: $(VENV)/.demo
	@echo "Setting up the tools and the parts that tests use (once; a few minutes) …"
	@$(INSTALL) --editable '.[local,dev]'
	@touch $@

# The arms of the benchmark in one environment, so that all have the same versions: Daft refuses the newest pyarrow.
$(BENCH)/.ready: setup.py conf/constraints/spark-4.2.txt
	@echo "Setting up $(BENCH) with Ray and Daft (once; a few minutes) …"
	@python=$$(conf/scripts/find-python.sh) && "$$python" -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c conf/constraints/spark-4.2.txt --editable '.[bench]'
	@$(BENCH)/bin/python -c "from sparkscore.spark import jars; jars.ensure()"
	@touch $@
