// SPDX-License-Identifier: GPL-2.0

#include <linux/percpu.h>

void __percpu *pdio_alloc_percpu(size_t size, size_t align)
{
	return __alloc_percpu(size, align);
}

u64 pdio_percpu_sum(u64 __percpu *counter)
{
	unsigned int cpu;
	u64 sum = 0;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter, cpu));

	return sum;
}
