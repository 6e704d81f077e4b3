#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What a guest's port accesses come to: without KVM, with the kernel's own, and with one that has
# vpio/kvm/kvm-pio.patch. All of KVM's modules are exchanged for that, so no VM may run.
#
#   PDIO_TEST_KVM=/pdio/kvm
#	The modules that have the patch: what `make modules` leaves in out/modules/kvm.

set -eu

patched=${PDIO_TEST_KVM:-/pdio/kvm}

skip()
{
	echo 'KTAP version 1'
	echo "1..0 # SKIP $*"
	exit 4
}

[ "$(id -u)" -eq 0 ] || skip 'needs root'
command -v kvm-ports-test >/dev/null || skip 'needs kvm-ports-test: make tool'
[ -e "$patched/kvm.ko" ] || skip "there is no $patched/kvm.ko: make modules"
case " $(sed -n '/^flags/{s/.*://p;q}' /proc/cpuinfo) " in
*' svm '*) vendor=amd ;;
*' vmx '*) vendor=intel ;;
*) skip 'the CPU cannot run guests' ;;
esac

# unload MODULE: as far as it is there.
unload()
{
	! [ -e "/sys/module/$1" ] || rmmod "$1"
}

unload_kvm()
{
	unload "kvm_$vendor" && unload kvm
}

if ! unload kvm_ports || ! unload_kvm; then
	skip 'KVM is in use'
fi

echo 'KTAP version 1'
cases=2
for group in absent stock patched; do
	cases=$((cases + $(kvm-ports-test count $group)))
done
echo "1..$cases"
number=1
failures=0

# result NAME COMMAND...: a case of this script's own.
result()
{
	name=$1
	shift
	if "$@"; then
		echo "ok $number $name"
	else
		echo "not ok $number $name"
		failures=$((failures + 1))
	fi
	number=$((number + 1))
}

# run GROUP: cases of the program.
run()
{
	kvm-ports-test "$1" "$number" || failures=$((failures + 1))
	number=$((number + $(kvm-ports-test count "$1")))
}

load_patched()
{
	# What KVM needs was loaded for the kernel's own.
	insmod "$patched/kvm.ko" && insmod "$patched/kvm-$vendor.ko"
}

unload_all()
{
	rmmod kvm_ports && unload_kvm
}

modprobe kvm_ports
run absent
modprobe "kvm_$vendor"
run stock
result 'a module that has asked KVM for something lets it go' unload_kvm
load_patched
run patched
result 'nothing keeps the modules when they are not in use' unload_all
[ $failures -eq 0 ]
