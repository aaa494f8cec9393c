# make serve [GPU=1]   start the service on http://localhost:8000      make test    run every test
# make check           ruff, mypy, hadolint, compose's schema          make clean   remove the environments
PYTHON ?= python3
SERVE := .venv$(if $(GPU),-gpu)
DEV := .venv-dev
INSTALL = install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: serve test check clean

serve: $(SERVE)/installed
	$(SERVE)/bin/okdhp serve

test: $(DEV)/installed
	$(DEV)/bin/python -m pytest

check: $(DEV)/installed
	$(DEV)/bin/ruff check . && $(DEV)/bin/ruff format --check . && $(DEV)/bin/mypy
	$(DEV)/bin/hadolint Dockerfile
	$(DEV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml deploy/gpu.yml

# A Debian python3 without python3-venv cannot make a virtual environment: say what to do instead of a traceback.
%/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -c 'import ensurepip, venv' || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip $(INSTALL) '.[$(EXTRA)]'
	touch $@

.venv/installed: EXTRA = cpu
.venv-gpu/installed: EXTRA = gpu
.venv-dev/installed: EXTRA = dev

clean:
	rm -rf .venv .venv-gpu .venv-dev
