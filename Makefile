# `make run` shows the whole way from pages to a chat; `make test` passes the tests. Both install first; a second time they do not.
# PYTHON=python3.12 names an interpreter, TORCH=cpu|cuda a build of torch.
PYTHON ?=
TORCH ?=
export TORCH

CANDIDATES = $(if $(PYTHON),$(PYTHON),.venv/bin/python python3.13 python3.12 python3.11 python3)
USABLE = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
INSTALL = @python=; for p in $(CANDIDATES); do \
	if "$$p" -c '$(USABLE)' 2>/dev/null; then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then echo "install: needs Python 3.11, 3.12 or 3.13 with its venv module; found none as $(CANDIDATES): \
	install one (Debian, Ubuntu: python3-venv; macOS: python.org or Homebrew) or give PYTHON=/path/to/python" >&2; exit 2; fi; \
	"$$python" scripts/install

run: install
	@.venv/bin/openherd run recipes/laptop.toml --out runs/laptop

test: install-dev
	@scripts/test

install:
	$(INSTALL)

install-dev:
	$(INSTALL) --dev

.PHONY: run test install install-dev
