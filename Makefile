# Every target does its own set-up; tools/bootstrap.py works the same where there is no make.
#   make test ARGS="-k lease -x"      make demo ARGS="--limit 200"
PYTHON ?= python3
ARGS ?=
BOOTSTRAP = $(PYTHON) tools/bootstrap.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all soak lint format check bench bench-quick setup clean

help:
	@$(BOOTSTRAP) --help

demo test test-all soak lint format check bench bench-quick setup clean:
	@$(BOOTSTRAP) $@ $(ARGS)
