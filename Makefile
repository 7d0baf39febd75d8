# A fresh machine needs python3 (3.11 or 3.12, with venv), make and a C++ compiler:
#     make quickstart     install, then pre-train text_tiny on the shipped sample and probe it
#     make test           install, then the CPU test suite
#     make results        install, then what the small recipes are worth: hours, from the data sets in DATA
#     make wheels         install, then collect into wheels/ what a GPU machine without network lacks
# Where the package index serves torch with CUDA only and there is no GPU, name an index with CPU builds: make .venv TORCH_INDEX=URL

.PHONY: .venv quickstart compiled test test-slow test-slurm lint docs results wheels

# ninja, which DeepSpeed's first run needs for its CPU collectives, is looked up on PATH
export PATH := $(CURDIR)/.venv/bin:$(PATH)

FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
HAS_CUDA_TORCH := import sys, torch; sys.exit(not torch.cuda.is_available())
PIP := .venv/bin/python -m pip --disable-pip-version-check
# The machine that wheels/ is for: CPython 3.12 on Linux, x86-64. pip takes each platform tag literally.
FOR_PYTHON_3_12 := --only-binary=:all: --implementation cp --python-version 3.12 \
  $(foreach tag,_2_28 _2_27 _2_17 2014 1,--platform manylinux$(tag)_x86_64)
MAX_WHEELS_MIB := 30
# Two operators of torchvision's compiled part, without which its import fails
TORCHVISION_OPERATORS := [torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor") for op in ("nms", "qnms")]
# Without a GPU the launcher warns twice, even with -q, unless this variable is set
ON_CPU := $(if $(wildcard /dev/nvidiactl),,DS_ACCELERATOR=cpu)

quickstart: .venv
	$(ON_CPU) .venv/bin/deepspeed -q launch/pretrain_text.py
	.venv/bin/python launch/probe.py --from runs/text_tiny --task cloze

# Two processes run the test files in two thirds of the time. WORKERS=0 runs them in one, which also shows what the tests print (-s).
WORKERS ?= $(shell [ "$$(nproc 2>/dev/null || echo 1)" -ge 2 ] && echo 2 || echo 0)
test: .venv compiled
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not slurm and not gpu"

test-slow: .venv compiled
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile -m "slow and not slurm and not gpu"

# CPU Adam takes one to two minutes to compile, for which no test's time limit allows
compiled: .venv
	@$(ON_CPU) .venv/bin/python -W ignore -m tests.compiled

# On a real Slurm of two nodes on this machine: root, and tests/slurm/slurm-up --install
test-slurm: .venv
	.venv/bin/python -m pytest -m "slurm and not gpu" tests/slurm

# Scripts are checked for wrong calls, not for what torch, DeepSpeed and sections of recipes add to their classes
SCRIPTS_MAY = $(addprefix --disable-error-code=,attr-defined assignment call-arg call-overload import-untyped index misc operator union-attr unused-ignore var-annotated)
lint: .venv
	.venv/bin/ruff check .
	.venv/bin/mypy
	MYPYPATH=.:benchmarks .venv/bin/mypy $(SCRIPTS_MAY) launch benchmarks
	.venv/bin/lint-imports --no-logo

# docs/settings.md is made from the docstrings of the settings
docs: .venv
	.venv/bin/python -m recipes.reference

# Finished cells are in docs/results/ and are not computed again; KEPT=runs/mine computes all from nothing, MODALITY=speech
# speech alone. What is interrupted goes on.
DATA ?= ../shared/data
KEPT ?= docs/results
MODALITY ?= text speech vision
results: .venv compiled
	.venv/bin/python benchmarks/small_results.py --data $(DATA) --kept $(KEPT) --modality $(MODALITY)

# benchmarks/wheels.txt says what is carried and why. A second run collects again only where that list or .venv has changed.
wheels: wheels/.collected
	@echo "wheels/ holds $$(ls wheels/*.whl | wc -l) wheels, $$(cat wheels/*.whl | wc -c | awk '{printf "%.1f", $$1 / 2^20}') MiB." \
	  "In this folder on a machine without network:"
	@echo '    python3 -m pip install --no-index --no-deps --target site wheels/*.whl'
	@echo '    export PYTHONPATH=$$PWD:$$PWD/site PATH=$$PWD/site/bin:$$PATH'

wheels/.collected: .venv/.installed benchmarks/wheels.txt
	rm -rf wheels
# Of deepspeed only the source is published. Its operators compile where they run, so that this wheel fits any Python.
	DS_BUILD_OPS=0 $(PIP) wheel -q --no-deps --no-build-isolation -c constraints.txt -w wheels deepspeed
	$(PIP) download -q --no-deps $(FOR_PYTHON_3_12) --find-links wheels -r benchmarks/wheels.txt -d wheels
	@cat wheels/*.whl | wc -c | awk '$$1 > $(MAX_WHEELS_MIB) * 2^20 { \
	  printf "error: wheels/ takes %.1f MiB, at most $(MAX_WHEELS_MIB) may travel; ", $$1 / 2^20; \
	  print "take names out of benchmarks/wheels.txt (ls -lS wheels/ has the largest first)"; exit 2 }'
	touch $@

.venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: python3 is $$(python3 -V 2>&1), needed is 3.11 or 3.12; install one with venv or say make PYTHON=/path/to/it"; exit 2; }
	@test "$(PYTHON)" = python3 || echo "python3 is $$(python3 -V 2>&1), needed is 3.11 or 3.12: taking $(PYTHON)"
# A torch that already sees a GPU is used as it is; else torch comes first, since DeepSpeed's setup imports it. torchvision (the extra `vision`)
# comes with it from the same index, so that their builds fit.
	if $(PYTHON) -c '$(HAS_CUDA_TORCH)' 2>/dev/null; then $(PYTHON) -m venv --system-site-packages .venv; else $(PYTHON) -m venv .venv; \
	  $(PIP) install -c constraints.txt torch torchvision $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)); fi
	{ grep -v '^torch==' constraints.txt; .venv/bin/python -c 'from importlib.metadata import version as v; print("torch==" + v("torch"))'; } > .venv/constraints.txt
	$(PIP) install -c .venv/constraints.txt setuptools wheel ninja
	$(PIP) install -c .venv/constraints.txt --no-build-isolation deepspeed
	$(PIP) install -c .venv/constraints.txt --no-build-isolation -e '.[test]'
# torchaudio's compiled library wants CUDA's; only its pure-Python resampling is used, so where the library does not load it goes.
	.venv/bin/python -W ignore -c 'import torchaudio' 2>/dev/null || rm -f .venv/lib/python*/site-packages/torchaudio/lib/*.so
	.venv/bin/python -W ignore -c 'from torchaudio.functional import resample'
# Where an index has torchvision for CUDA only, its compiled part does not load with a CPU build of torch, and its import fails. Our augmentations
# do not use that part, so its operators are declared in Python. transformers imports torchvision too.
	for file in .venv/lib/python*/site-packages/torchvision/extension.py; do \
	  [ ! -e "$$file" ] || .venv/bin/python -W ignore -c 'import torchvision' 2>/dev/null || \
	  { printf '%s\n' '$(TORCHVISION_OPERATORS)' >> "$$file" && .venv/bin/python -W ignore -c 'import torchvision'; }; done
	touch $@
