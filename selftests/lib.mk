# SPDX-License-Identifier: GPL-2.0
#
# What a kselftest Makefile needs where there is no kernel source with a better one. Runs the tests
# one after the other, each within the time that `settings` grants.

OUTPUT ?= $(CURDIR)
COLLECTION ?= $(notdir $(CURDIR))
TIMEOUT := $(or $(shell sed -n 's/^timeout=//p' settings 2>/dev/null),45)

.PHONY: all run_tests install emit_tests clean

all clean:

# A result line for each program, around its own, and a status for the caller.
run_tests:
	@echo 'TAP version 13'; echo '1..$(words $(TEST_PROGS))'; number=0; failed=0; \
	for test in $(TEST_PROGS); do \
		number=$$((number + 1)); \
		echo "# timeout set to $(TIMEOUT)"; echo "# selftests: $(COLLECTION): $$test"; \
		timeout --foreground -k 10 $(TIMEOUT) ./$$test >$$test.log 2>&1; status=$$?; \
		sed 's/^/# /' $$test.log; rm -f $$test.log; \
		case $$status in \
		0) echo "ok $$number selftests: $(COLLECTION): $$test" ;; \
		4) echo "ok $$number selftests: $(COLLECTION): $$test # SKIP" ;; \
		*) echo "not ok $$number selftests: $(COLLECTION): $$test # exit=$$status"; failed=1 ;; \
		esac; \
	done; exit $$failed

install:
	mkdir -p $(INSTALL_PATH)
	cp $(TEST_PROGS) $(TEST_PROGS_EXTENDED) $(TEST_FILES) $(wildcard config settings) $(INSTALL_PATH)/

emit_tests:
	@for test in $(TEST_PROGS); do echo "$(COLLECTION):$$test"; done
