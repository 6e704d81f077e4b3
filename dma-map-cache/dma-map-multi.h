/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust does for the entry points: see export_dma_map_multi!() in
 * rust/pdio/dma_map_multi.rs.
 */
#ifndef DMA_MAP_CACHE_DMA_MAP_MULTI_H
#define DMA_MAP_CACHE_DMA_MAP_MULTI_H

#include <linux/types.h>

#include "include/linux/dma-map-multi.h"

/* Whether the operations of the device are those of dma-map-cache. */
bool dma_map_cache_serves(const struct device *dev);

/* For a device that is served, n != 0 and a valid direction. */
int dma_map_cache_map_multi(struct device *dev,
			    struct dma_multi_buffer *buffers, unsigned int n,
			    enum dma_data_direction dir);
void dma_map_cache_unmap_multi(struct device *dev,
			       struct dma_multi_buffer *buffers,
			       unsigned int n, enum dma_data_direction dir);
int dma_map_cache_retain(struct device *dev,
			 const struct dma_multi_buffer *buffers, unsigned int n,
			 enum dma_data_direction dir);
void dma_map_cache_release(struct device *dev,
			   const struct dma_multi_buffer *buffers,
			   unsigned int n, enum dma_data_direction dir);

#endif /* DMA_MAP_CACHE_DMA_MAP_MULTI_H */
