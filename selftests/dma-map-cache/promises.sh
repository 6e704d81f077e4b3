#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What each strategy promises, counted: invalidations, page-table updates, and how much stays
# reachable after unmap. Counted by the module and by the kernel's own tracepoints.
#
#   PDIO_TEST_ROUNDS=N	set: only what may come out differently on another IOMMU

# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

page=4096
cpus=$(grep -c '^processor' /proc/cpuinfo)

# measure ADDRESS COMMAND...: snapshots before and after, and what the kernel saw in between.
measure()
{
	measured=$1
	shift
	trace iommu/map iommu/unmap "$qi_iotlb" dma/dma_map_phys dma/dma_unmap_phys dma/dma_map_sg dma/dma_unmap_sg \
		dma/dma_alloc dma/dma_free
	snapshot before "$measured"
	began=$(now_ms)
	"$@"
	elapsed_ms=$(($(now_ms) - began))
	snapshot after "$measured"
	trace_end
	info "$(for name in maps unmaps hits misses evictions flushes pte_updates; do
		printf '%s +%s ' $name "$(grown $name)"
	done)in $elapsed_ms ms"
}

# invalidations: that the kernel saw.
invalidations()
{
	traced ' qi_submit: '
}

# table_updates: pages that the kernel saw being mapped and unmapped.
table_updates()
{
	awk '/ (map|unmap): IOMMU:/ {
		for (i = 1; i <= NF; i++) {
			if (/ map:/ && $i ~ /^size=/) total += substr($i, 6)
			if ($i ~ /^unmapped_size=/) total += substr($i, 15)
		}
	} END { print total / 4096 }' "$scratch/trace"
}

# caching_mode: whether VT-d says that it caches what is not mapped, so that each map is an
# invalidation as well (bit 7 of its capabilities).
caching_mode()
{
	# All 64 bits are more than the shell counts with.
	[ $((0x$(sed 's/.*\(..\)$/\1/' /sys/class/iommu/dmar0/intel-iommu/cap) >> 7 & 1)) -eq 1 ]
}

# seen_by_kernel [LEAST [MOST]]: the module's numbers are the kernel's. Only VT-d's driver has an event for
# invalidations. One call maps LEAST to MOST runs of pages (1, LEAST).
seen_by_kernel()
{
	mapped=0
	least=${1:-1}

	if [ -d /sys/class/iommu/dmar0 ]; then
		flushes=$(grown flushes)
		! caching_mode || mapped=$(traced ' map: IOMMU:')
		at_least 'invalidations that the kernel saw' "$(invalidations)" $((flushes + mapped / ${2:-$least}))
		at_most 'invalidations that the kernel saw' "$(invalidations)" $((flushes + mapped / least))
	fi
	is 'page-table updates that the kernel saw' "$(table_updates)" "$(grown pte_updates)"
}

# --- With the benchmark module: the number of buffers is known ---------------

nothing_waits()
{
	[ "$(statistic "$idle" exposed_pages)" -eq 0 ]
}

# bench_and_settle ADDRESS...: and lets the last batch end, which is soon but not at once.
bench_and_settle()
{
	bench "$@"
	case $(setting "$1" strategy) in
	*'[contiguous]'*) eventually 10 nothing_waits || fail 'a batch does not end' ;;
	esac
}

# counted STRATEGY API BATCH TURNS LAYOUT
counted()
{
	need_bench
	attach "$idle"
	use "$1" "$idle"
	[ "$1" != cached ] || setting "$idle" cached_max_age_ms 3600000
	if [ "$1" = deferred ]; then
		setting "$idle" deferred_max_unmaps 64
		setting "$idle" deferred_max_us 1000000
	fi
	measure "$idle" bench_and_settle "$idle" "$2" "$3" "$4" "$5"

	calls=$(($4 + 1))
	buffers=$(($3 * calls))
	[ "$2" != page ] || calls=$buffers
	is maps "$(grown maps)" $buffers
	is unmaps "$(grown unmaps)" $buffers
	is fallbacks "$(grown fallbacks)" 0
	is 'live pages' "$(value after live_pages)" "$(value before live_pages)"
	case $1-$2-$5 in
	# Each page is a hit or a miss of its own, or there is one at a time, or all are one run.
	cached-* | persistent-* | premapped-* | pool-* | *-page-* | *-contiguous) seen_by_kernel ;;
	*) seen_by_kernel 16 ;;
	esac

	case $1 in
	premapped)
		is hits "$(grown hits)" $buffers
		is flushes "$(grown flushes)" 0
		is 'page-table updates' "$(grown pte_updates)" 0
		;;
	strict)
		is misses "$(grown misses)" $buffers
		is flushes "$(grown flushes)" $calls
		is 'page-table updates' "$(grown pte_updates)" $((2 * buffers))
		;;
	deferred)
		is misses "$(grown misses)" $buffers
		at_most flushes "$(grown flushes)" $((calls / 64 + elapsed_ms / 1000 + 1 + cpus))
		at_least flushes "$(grown flushes)" $((calls / 64 - cpus))
		is 'page-table updates' "$(grown pte_updates)" $((2 * buffers))
		;;
	batched | auto)
		# To auto nothing is allowed by default.
		if [ "$2" = sg ]; then
			is misses "$(grown misses)" $buffers
		fi
		# The pages of the module share nothing.
		is flushes "$(grown flushes)" $calls
		is 'page-table updates' "$(grown pte_updates)" $((2 * buffers))
		is 'exposed pages' "$(value after exposed_pages)" 0
		;;
	contiguous)
		is misses "$(grown misses)" $buffers
		is 'page-table updates' "$(grown pte_updates)" $((2 * buffers))
		if [ "$2" = sg ]; then
			# Lists are batches of their own.
			is flushes "$(grown flushes)" $calls
		else
			at_most flushes "$(grown flushes)" $calls
			at_least flushes "$(grown flushes)" $((calls / 64))
		fi
		is 'exposed pages' "$(value after exposed_pages)" 0
		;;
	pool)
		# The memory that is mapped in advance is enough. Both directions are copied.
		is hits "$(grown hits)" $buffers
		is flushes "$(grown flushes)" 0
		is 'page-table updates' "$(grown pte_updates)" 0
		is 'copied bytes' "$(grown copied_bytes)" $((2 * page * buffers))
		is 'exposed pages' "$(value after exposed_pages)" 0
		;;
	cached | persistent)
		# The pages are new to the cache once.
		is 'hits + misses' $(($(grown hits) + $(grown misses))) $buffers
		at_most misses "$(grown misses)" "$3"
		is flushes "$(grown flushes)" 0
		is 'page-table updates' "$(grown pte_updates)" "$(grown misses)"
		at_least 'idle pages' "$(value after idle_pages)" "$3"
		;;
	esac
}

# --- With a disk: the driver is as stock as they come --------------------------

# reads COUNT [FIO-OPTION...]
reads()
{
	count=$1
	shift
	timeout -s KILL 120 fio --name=reads --filename="$(disk_of "$disk")" --size=64m --rw=randread --bs=4k --direct=1 \
		--ioengine=psync --number_ios="$count" --allow_file_create=0 --eta=never --output="$scratch/fio" "$@" ||
		fail "fio: $(cat "$scratch/fio")"
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
}

prepare()
{
	disk=$2
	attach "$disk"
	disk_of "$disk" >/dev/null
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
	use "$1" "$disk"
}

# unmap_calls: DMA API calls by which the driver gave something back.
unmap_calls()
{
	traced " dma_(unmap_phys|unmap_sg|free): $disk "
}

strict_flushes()
{
	prepare strict "$1"
	measure "$disk" reads 150
	at_least unmaps "$(grown unmaps)" 150
	is 'flushes, one for each unmap call,' "$(grown flushes)" "$(unmap_calls)"
	is hits "$(grown hits)" 0
	seen_by_kernel
}

# The interrupt is the batch: no flush for each page of a request, though the driver gives them back
# one by one.
contiguous_flushes()
{
	prepare contiguous "$1"
	measure "$disk" reads 150 --bs=128k --iomem=malloc
	at_least unmaps "$(grown unmaps)" 150
	at_most 'flushes, one for each request,' "$(grown flushes)" $((150 + $(grown unmaps) / 64 + $(traced ' dma_free: ')))
	is 'exposed pages' "$(value after exposed_pages)" 0
	# Its requests are lists.
	case $(driver_of "$disk") in
	ahci) seen_by_kernel 1 16 ;;
	*) seen_by_kernel ;;
	esac

	setting "$disk" contiguous_max_unmaps 1
	measure "$disk" reads 50
	is 'flushes with one unmap each' "$(grown flushes)" "$(unmap_calls)"
}

deferred_flushes()
{
	prepare deferred "$1"
	setting "$disk" deferred_max_us 1000000
	for max_unmaps in 16 64; do
		setting "$disk" deferred_max_unmaps $max_unmaps
		measure "$disk" reads 300
		at_least unmaps "$(grown unmaps)" 300
		# Coherent buffers are not deferred.
		at_most "flushes with $max_unmaps unmaps each" "$(grown flushes)" \
			$((300 / max_unmaps + $(grown unmaps) - 300 + elapsed_ms / 1000 + 1 + cpus + $(traced ' dma_free: ')))
		seen_by_kernel
	done

	setting "$disk" deferred_max_unmaps 1
	reads 10
	measure "$disk" reads 100
	is 'flushes with one unmap each' "$(grown flushes)" "$(unmap_calls)"
}

flushed_since()
{
	[ "$(statistic "$disk" flushes)" -gt "$1" ]
}

# A single unmap does not wait for others for ever.
deferred_timer()
{
	prepare deferred "$1"
	setting "$disk" deferred_max_unmaps 1024
	for max_us in 100 10000 500000; do
		setting "$disk" deferred_max_us $max_us
		sleep 1.2
		flushes=$(statistic "$disk" flushes)
		reads 3
		eventually 20 flushed_since "$flushes" || fail "nothing is flushed after $max_us us"
	done
}

# steady: reads of the same few buffers, for long, and few enough for the trace.
steady()
{
	background fio --name=steady --filename="$(disk_of "$disk")" --size=64m --rw=randread --bs=4k --direct=1 \
		--ioengine=libaio --iodepth=4 --rate_iops=400 --time_based --runtime=200 --allow_file_create=0 --eta=never
}

# Misses have ended once all buffers are in the cache.
warm()
{
	snapshot before "$disk"
	sleep 0.5
	snapshot after "$disk"
	[ "$(grown misses)" -eq 0 ] && [ "$(grown hits)" -ge 50 ]
}

no_work()
{
	at_least hits "$(grown hits)" 50
	is misses "$(grown misses)" 0
	is flushes "$(grown flushes)" 0
	is 'page-table updates' "$(grown pte_updates)" 0
	is evictions "$(grown evictions)" 0
	seen_by_kernel
	at_least 'maps that the kernel saw' "$(traced " dma_map_(phys|sg): $disk ")" 50
}

cached_steady()
{
	prepare cached "$1"
	setting "$disk" cached_max_age_ms 3600000
	steady
	eventually 60 warm || fail "still $(grown misses) misses among $(grown hits) hits"
	measure "$disk" sleep 1
	no_work
}

premapped_steady()
{
	prepare premapped "$1"
	steady
	eventually 60 warm || fail "still $(grown misses) misses among $(grown hits) hits"
	measure "$disk" sleep 1
	no_work
}

pool_steady()
{
	prepare pool "$1"
	steady
	eventually 60 warm || fail "still $(grown misses) misses among $(grown hits) hits"
	measure "$disk" sleep 1
	no_work
	# The statistics are read one after the other, and some reads are under way.
	at_least 'copied bytes' "$(grown copied_bytes)" $((2 * page * $(grown unmaps) * 9 / 10))
}

# pool_has ADDRESS BYTES
pool_has()
{
	[ "$(statistic "$1" pool_bytes)" -eq "$2" ]
}

# grown_and_shrunk: the pool grows for 64 pages, and gives all back when nobody needs them.
grown_and_shrunk()
{
	bench "$idle" page 64 10 scattered
	eventually 20 pool_has "$idle" 0 || fail "$(statistic "$idle" pool_bytes) bytes are left"
}

# The pool grows as far as it may, serves the rest exactly, and gives back what nobody needs.
pool_limits()
{
	need_bench
	chunk=65536
	attach "$idle"
	setting "$idle" pool_min_bytes 0
	use pool "$idle"
	is 'bytes before the first map' "$(statistic "$idle" pool_bytes)" 0

	# 64 pages are four chunks. Idle ones would leave after a second, which is soon on a busy machine:
	# what is to be counted exactly is kept.
	setting "$idle" pool_max_bytes $((2 * chunk))
	setting "$idle" pool_min_bytes $((2 * chunk))
	measure "$idle" bench "$idle" page 64 10 scattered
	is 'bytes at most' "$(value after pool_bytes)" $((2 * chunk))
	is fallbacks "$(grown fallbacks)" $((32 * 11))
	is 'copied bytes' "$(grown copied_bytes)" $((2 * page * 32 * 11))
	is flushes "$(grown flushes)" $((32 * 11))
	is misses "$(grown misses)" $((32 * 11))
	seen_by_kernel

	setting "$idle" pool_max_bytes $((64 << 20))
	setting "$idle" pool_min_bytes 0
	eventually 20 pool_has "$idle" 0 || fail "$(statistic "$idle" pool_bytes) bytes are kept"
	measure "$idle" grown_and_shrunk
	is fallbacks "$(grown fallbacks)" 0
	is misses "$(grown misses)" 4
	is 'page-table updates, up and down' "$(grown pte_updates)" $((2 * 64))
	at_least flushes "$(grown flushes)" 1
	# Who cleans up has no more than a few looks at it.
	at_most flushes "$(grown flushes)" 4
	seen_by_kernel

	setting "$idle" pool_min_bytes $((8 * chunk))
	is 'bytes in advance' "$(statistic "$idle" pool_bytes)" $((8 * chunk))
	setting "$idle" pool_max_bytes $((3 * chunk))
	is 'bytes, lowered at once' "$(statistic "$idle" pool_bytes)" $((3 * chunk))

	# What is too large for a copy.
	setting "$idle" pool_max_bytes $((64 << 20))
	setting "$idle" pool_max_buffer_bytes 3840
	measure "$idle" bench "$idle" page 1 10 scattered
	is fallbacks "$(grown fallbacks)" 11
	is 'copied bytes' "$(grown copied_bytes)" 0
	setting "$idle" pool_max_buffer_bytes 4096
	measure "$idle" bench "$idle" page 1 10 scattered
	is hits "$(grown hits)" 11

	use strict "$idle"
	eventually 5 pool_has "$idle" 0 || fail "$(statistic "$idle" pool_bytes) bytes are left"
}

# Nothing is left of the pool when another strategy is used, nor when the device goes.
pool_given_back()
{
	prepare pool "$1"
	fill_cache
	at_least 'pool bytes' "$(statistic "$disk" pool_bytes)" $((1 << 20))
	snapshot before "$disk"
	use strict "$disk"
	eventually 10 pool_has "$disk" 0 || fail "$(statistic "$disk" pool_bytes) bytes are left"
	snapshot after "$disk"
	at_least flushes "$(grown flushes)" 1
	is 'unsettled pages' "$(setting "$disk" unsettled_pages)" 0

	use pool "$disk"
	fill_cache
	detach "$disk"
	attach "$disk"
	is 'bytes when attached again' "$(statistic "$disk" pool_bytes)" 0
}

# fill_cache: leaves many pages idle.
fill_cache()
{
	disk_verify "$disk" 2m
	eventually 10 all_unmapped "$disk" || fail 'buffers stay mapped'
}

cached_budget()
{
	prepare cached "$1"
	setting "$disk" cached_max_age_ms 3600000
	for pages in 0 1 16 200; do
		setting "$disk" cached_budget_bytes $((pages * page))
		fill_cache
		info "budget $pages pages: $(statistic "$disk" idle_pages) idle, $(statistic "$disk" evictions) evicted"
		at_most "idle pages with a budget of $pages" "$(statistic "$disk" idle_pages)" $pages
	done
	at_least evictions "$(statistic "$disk" evictions)" 100

	# A budget that is lowered holds when the write returns.
	setting "$disk" cached_budget_bytes $((64 << 20))
	fill_cache
	at_least 'idle pages with a large budget' "$(statistic "$disk" idle_pages)" 100
	for pages in 50 7 0; do
		setting "$disk" cached_budget_bytes $((pages * page))
		at_most "idle pages, budget lowered to $pages," "$(statistic "$disk" idle_pages)" $pages
	done
	maps_add_up "$disk"
	snapshot now "$disk"
	at_most flushes "$(value now flushes)" "$(value now evictions)"
}

# Evictions are batched: under a small budget far fewer invalidations than pages.
cached_batches()
{
	prepare cached "$1"
	setting "$disk" cached_max_age_ms 3600000
	setting "$disk" cached_budget_bytes $((128 * page))
	measure "$disk" disk_verify "$disk" 4m
	at_least evictions "$(grown evictions)" 200
	at_most 'flushes, at 8 evictions each,' "$(grown flushes)" $(($(grown evictions) / 8 + $(traced ' dma_free: ')))
	seen_by_kernel
}

no_idle()
{
	[ "$(statistic "$disk" idle_pages)" -eq 0 ]
}

cached_age()
{
	prepare cached "$1"
	setting "$disk" cached_max_age_ms 3600000
	fill_cache
	sleep 2
	at_least 'idle pages, within their age,' "$(statistic "$disk" idle_pages)" 100
	evictions=$(statistic "$disk" evictions)

	setting "$disk" cached_max_age_ms 300
	# The new limit counts from the next look, and the old one allows a second between two.
	eventually 30 no_idle || fail "$(statistic "$disk" idle_pages) pages stay idle beyond their age"
	at_least evictions "$(statistic "$disk" evictions)" $((evictions + 100))
}

# What was mapped once stays mapped, but for the cap.
persistent_cap()
{
	prepare persistent "$1"
	fill_cache
	idle_pages=$(statistic "$disk" idle_pages)
	at_least 'idle pages' "$idle_pages" 100
	is 'exposed pages' "$(statistic "$disk" exposed_pages)" "$idle_pages"
	# Far longer than cached_max_age_ms, which has no say here.
	setting "$disk" cached_max_age_ms 1
	sleep 3
	is 'idle pages later' "$(statistic "$disk" idle_pages)" "$idle_pages"
	is evictions "$(statistic "$disk" evictions)" 0
	for pages in 50 7 0; do
		setting "$disk" persistent_cap_bytes $((pages * page))
		at_most "idle pages, cap lowered to $pages," "$(statistic "$disk" idle_pages)" $pages
	done
	fill_cache
	is 'idle pages with a cap of 0' "$(statistic "$disk" idle_pages)" 0
	at_least 'longest exposure [ms]' "$(statistic "$disk" exposure_max_ms)" 3000
	maps_add_up "$disk"
}

# From one that keeps pages to another: nothing is withdrawn that both keep.
keeps_on()
{
	prepare cached "$1"
	setting "$disk" cached_max_age_ms 3600000
	fill_cache
	idle_pages=$(statistic "$disk" idle_pages)
	measure "$disk" use persistent "$disk"
	is 'idle pages' "$(value after idle_pages)" "$idle_pages"
	is flushes "$(grown flushes)" 0
	is 'unsettled pages' "$(setting "$disk" unsettled_pages)" 0
}

# What promises that nothing stays reachable has nothing exposed, whatever the load.
nothing_exposed()
{
	prepare "$1" "$2"
	snapshot before "$disk"
	fill_cache
	snapshot after "$disk"
	at_least maps "$(grown maps)" 100
	is 'exposed pages' "$(value after exposed_pages)" 0
	is histogram "$(statistic "$disk" exposure_histogram)" ''
}

# switch_away STRATEGY ADDRESS
switch_away()
{
	prepare cached "$2"
	fill_cache
	idle_pages=$(statistic "$disk" idle_pages)
	at_least 'idle pages' "$idle_pages" 100
	snapshot before "$disk"
	use "$1" "$disk"
	snapshot after "$disk"
	is 'idle pages at once' "$(value after idle_pages)" 0
	is evictions "$(grown evictions)" "$idle_pages"
	at_least flushes "$(grown flushes)" 1
}

# What was mapped in advance is taken down again.
premapped_withdrawn()
{
	prepare premapped "$1"
	pages=$(statistic "$disk" pte_updates)
	ram=$(awk '/^MemTotal:/ { print int($2 / 4) }' /proc/meminfo)
	at_least 'pages mapped in advance' "$pages" "$ram"
	measure "$disk" use strict "$disk"
	at_least 'pages taken down' "$(grown pte_updates)" "$ram"
	is flushes "$(grown flushes)" 1
	at_most 'invalidations that the kernel saw' "$(invalidations)" 2
}

# --------------------------------------------------------------------------------

if [ -n "$pairs" ]; then
	# An interface that is down does nothing on its own.
	idle=${pairs%%,*}
	for strategy in $strategies; do
		add_case "$strategy: pages one by one, counted" counted "$strategy" page 1 500 scattered
		add_case "$strategy: runs of 64 pages, counted" counted "$strategy" page 64 10 contiguous
		add_case "$strategy: lists of 32 scattered pages, counted" counted "$strategy" sg 32 20 scattered
		add_case "$strategy: lists of 64 contiguous pages, counted" counted "$strategy" sg 64 10 contiguous
		add_case "$strategy: dma_map_multi of 32 scattered pages, counted" counted "$strategy" multi 32 20 scattered
		add_case "$strategy: dma_map_multi of 64 contiguous pages, counted" counted "$strategy" multi 64 10 contiguous
	done
	add_case 'pool: limits' pool_limits
fi
# Where only another IOMMU is to be seen, one driver will do, and what is kept has nothing to do with it.
[ -z "${PDIO_TEST_ROUNDS:-}" ] || disks=${disks%% *}
for disk in $disks; do
	driver=$(driver_of "$disk")
	add_case "$driver: strict: a flush for each unmap" strict_flushes "$disk"
	add_case "$driver: deferred: one flush for N unmaps" deferred_flushes "$disk"
	add_case "$driver: contiguous: one flush for a request" contiguous_flushes "$disk"
	add_case "$driver: cached: a hit costs neither flush nor update" cached_steady "$disk"
	add_case "$driver: premapped: neither flush nor update" premapped_steady "$disk"
	add_case "$driver: pool: neither flush nor update" pool_steady "$disk"
done
for disk in $disks; do
	add_case 'premapped: withdrawn' premapped_withdrawn "$disk"
	[ -z "${PDIO_TEST_ROUNDS:-}" ] || break
	add_case 'deferred: no unmap waits for ever' deferred_timer "$disk"
	add_case 'cached: the budget' cached_budget "$disk"
	add_case 'cached: evictions share flushes' cached_batches "$disk"
	add_case 'cached: the age' cached_age "$disk"
	for strategy in $strategies; do
		case $strategy in
		cached | persistent) ;;
		*) add_case "cached: switched to $strategy" switch_away "$strategy" "$disk" ;;
		esac
	done
	add_case 'pool: given back' pool_given_back "$disk"
	for strategy in strict batched pool auto; do
		add_case "$strategy: nothing is exposed" nothing_exposed "$strategy" "$disk"
	done
	add_case 'persistent: the cap' persistent_cap "$disk"
	add_case 'persistent: after cached' keeps_on "$disk"
	break
done
need ip fio timeout
run_cases
