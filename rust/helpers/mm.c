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

int pdio_vma_set_registers(struct vm_area_struct *vma)
{
	if (is_cow_mapping(vma->vm_flags))
		return -EINVAL;

	vm_flags_set(vma, VM_IO | VM_PFNMAP | VM_DONTCOPY | VM_DONTEXPAND |
			  VM_DONTDUMP);
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return 0;
}
