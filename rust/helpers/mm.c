// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>
#include <linux/vmalloc.h>

bool pdio_is_vmalloc_addr(const void *addr)
{
	return is_vmalloc_addr(addr);
}

void *pdio_vzalloc(unsigned long size)
{
	return vzalloc(size);
}

void pdio_vfree(const void *addr)
{
	vfree(addr);
}
