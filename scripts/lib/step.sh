# SPDX-License-Identifier: GPL-2.0
# Long steps: output to a log, a line on the terminal for what takes over two seconds. Sourced by setup.
# shellcheck shell=bash

mkdir -p "$PDIO_CACHE/log"
log=$PDIO_CACHE/log/setup-$(date +%Y%m%d-%H%M%S)-$$.log
step_pid=

say() { printf '[%3d s] %s\n' "$SECONDS" "$*" >&2; }

# try_step WHAT COMMAND...: runs COMMAND (a function will do), reports, and leaves its status in step_status: as a
# condition (`if try_step`), COMMAND would run without `set -e`.
try_step() {
	local what=$1 began=$SECONDS shown=0
	step_status=0
	shift
	printf '\n== %s ==\n' "$what" >>"$log"
	step_log_start=$(stat -c %s -- "$log")
	# In the background, so that a signal ends the run at once, and in a process group, so that it ends all of the step.
	set -m
	(set +m && "$@") </dev/null >>"$log" 2>&1 &
	step_pid=$!
	set +m
	while kill -0 "$step_pid" 2>/dev/null; do
		sleep 0.2
		if [ $((SECONDS - began)) -lt 2 ] || [ "$shown" -eq "$SECONDS" ]; then continue; fi
		if [ -t 2 ]; then
			printf '\r[%3d s] %s ... ' "$SECONDS" "$what" >&2
		elif [ "$shown" -eq 0 ]; then
			say "$what ..."
		fi
		shown=$SECONDS
	done
	wait "$step_pid" || step_status=$?
	step_pid=
	[ "$shown" -eq 0 ] || [ ! -t 2 ] || printf '\r' >&2
	if [ "$step_status" -ne 0 ]; then
		say "$what: FAILED"
	elif [ "$shown" -ne 0 ]; then
		say "$what: done in $((SECONDS - began)) s"
	fi
}

step_stop() {
	[ -z "$step_pid" ] || { kill -TERM -- "-$step_pid" && wait "$step_pid"; } 2>/dev/null || :
}

step_failed() {
	tail -c "+$((step_log_start + 1))" -- "$log" | tail -n 20 >&2
	die "this step's last words are above, the whole log is" "$log"
}

# step WHAT COMMAND...: the same, and a failure ends the run.
step() {
	try_step "$@"
	[ "$step_status" -eq 0 ] || step_failed
}
