# Every target is one `python -m helpers …` line, which works without make as well.
PYTHON ?= python3
PROFILE ?= embedded

.PHONY: setup course test test-slow coverage regress hub bench gpu-check colab-check data sync lab book lint doctor clean

setup:
	$(PYTHON) -m helpers setup

course:
	$(PYTHON) -m helpers course --profile $(PROFILE)

test:
	$(PYTHON) -m helpers test

test-slow:
	$(PYTHON) -m helpers test-slow

coverage:
	$(PYTHON) -m helpers coverage

regress:
	$(PYTHON) -m helpers regress

hub:
	$(PYTHON) -m helpers hub

bench:
	$(PYTHON) -m helpers bench

gpu-check:
	$(PYTHON) -m helpers gpu-check

colab-check:
	$(PYTHON) -m helpers colab-check

data:
	$(PYTHON) -m helpers data

sync:
	$(PYTHON) -m helpers sync

lab:
	$(PYTHON) -m helpers lab

book:
	$(PYTHON) -m helpers book

lint:
	$(PYTHON) -m helpers lint

doctor:
	$(PYTHON) -m helpers doctor

clean:
	$(PYTHON) -m helpers clean
