/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mapping many buffers for a device by one call.
 *
 * See Documentation/dma-map-cache/dma-map-multi.rst.
 */
#ifndef _LINUX_DMA_MAP_MULTI_H
#define _LINUX_DMA_MAP_MULTI_H

#include <linux/dma-direction.h>
#include <linux/types.h>

struct device;

/**
 * struct dma_multi_buffer - one of the buffers of dma_map_multi()
 * @phys: physical address of the first byte, in RAM
 * @len: number of bytes, at least 1
 * @dma_addr: where the device finds the buffer; set by dma_map_multi()
 */
struct dma_multi_buffer {
	phys_addr_t phys;
	size_t len;
	dma_addr_t dma_addr;
};

int dma_map_multi(struct device *dev, struct dma_multi_buffer *buffers,
		  unsigned int n, enum dma_data_direction dir,
		  unsigned long attrs);
void dma_unmap_multi(struct device *dev, struct dma_multi_buffer *buffers,
		     unsigned int n, enum dma_data_direction dir,
		     unsigned long attrs);

int dma_retain(struct device *dev, const struct dma_multi_buffer *buffers,
	       unsigned int n, enum dma_data_direction dir);
void dma_release(struct device *dev, const struct dma_multi_buffer *buffers,
		 unsigned int n, enum dma_data_direction dir);

#endif /* _LINUX_DMA_MAP_MULTI_H */
