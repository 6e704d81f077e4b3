// SPDX-License-Identifier: GPL-2.0

#include <linux/vfio.h>

/* @header: struct vfio_irq_set up to its data, of which there is @data_size. */
int pdio_vfio_check_irqs(const u32 *header, unsigned int num_irqs,
			 size_t *data_size)
{
	struct vfio_irq_set set = {
		.argsz = header[0],
		.flags = header[1],
		.index = header[2],
		.start = header[3],
		.count = header[4],
	};

	return vfio_set_irqs_validate_and_prepare(&set, num_irqs,
						  VFIO_PCI_NUM_IRQS, data_size);
}
