// SPDX-License-Identifier: GPL-2.0
/*
 * The entry points that other modules call. What a device that is attached
 * needs is done by the strategies, in Rust.
 */

#include <linux/bug.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/export.h>

#include "include/linux/dma-map-multi.h"
#include "dma-map-multi.h"

/* Whether buffers can be given to the strategies of the device. */
static bool is_attached(const struct device *dev, unsigned long attrs)
{
	/* Registers of another device are always mapped one by one. */
	return !(attrs & DMA_ATTR_MMIO) && dma_map_cache_serves(dev);
}

/**
 * dma_map_multi - map buffers for a device
 * @dev: device that will use the buffers
 * @buffers: the buffers; @phys and @len of each are read, @dma_addr is written
 * @n: number of buffers, at least 1
 * @dir: which way data goes, the same for all buffers
 * @attrs: DMA_ATTR_* as for dma_map_phys()
 *
 * As dma_map_phys() for each of the buffers, but all of them are mapped or none
 * is, and a device that is attached to dma-map-cache has them mapped together:
 * by one allocation of IOVA space and one page-table pass for each piece of
 * contiguous memory. For any other device this is a loop over dma_map_phys(), so
 * a driver need not know.
 *
 * Each buffer can be unmapped on its own, by dma_unmap_phys() and those built
 * on it, or with any others of the same direction that were mapped for the same
 * device by this function or dma_map_phys(), in any order, by dma_unmap_multi().
 *
 * Unlike those of a scatter-gather list, buffers are never merged, and they
 * obey no dma_get_seg_boundary(): each @dma_addr is valid for all of its @len.
 *
 * Context: Any context. Does not sleep.
 * Return: 0, -EINVAL if @n is 0, @dir is not a direction or the device has no
 * DMA mask, or -ENOMEM; nothing is mapped then, and each @dma_addr is undefined.
 */
int dma_map_multi(struct device *dev, struct dma_multi_buffer *buffers,
		  unsigned int n, enum dma_data_direction dir,
		  unsigned long attrs)
{
	unsigned int i;

	if (!n || !valid_dma_direction(dir) || !dev->dma_mask)
		return -EINVAL;

	if (is_attached(dev, attrs))
		return dma_map_cache_map_multi(dev, buffers, n, dir);

	for (i = 0; i < n; i++) {
		struct dma_multi_buffer *buffer = &buffers[i];

		buffer->dma_addr = dma_map_phys(dev, buffer->phys, buffer->len,
						dir, attrs);
		if (dma_mapping_error(dev, buffer->dma_addr)) {
			while (i--)
				dma_unmap_phys(dev, buffers[i].dma_addr,
					       buffers[i].len, dir, attrs);
			return -ENOMEM;
		}
	}
	return 0;
}
EXPORT_SYMBOL_GPL(dma_map_multi);

/**
 * dma_unmap_multi - unmap buffers that were mapped for a device
 * @dev: device that has used the buffers
 * @buffers: the buffers; @dma_addr and @len of each are read, @phys is not
 * @n: number of buffers; 0 does nothing
 * @dir: which way data went, as when the buffers were mapped
 * @attrs: DMA_ATTR_*, as when the buffers were mapped
 *
 * The counterpart of dma_map_multi(), and of dma_map_phys(): the buffers need
 * not have been mapped together, and those that were mapped together need not be
 * unmapped together. For a device that is attached to dma-map-cache the page
 * table is cleared for all of them first, then the IOTLB is invalidated once, if
 * the strategy of the device does so at all, and then the IOVA space is given
 * back. For any other device this is a loop over dma_unmap_phys().
 *
 * Context: Any context. Does not sleep.
 */
void dma_unmap_multi(struct device *dev, struct dma_multi_buffer *buffers,
		     unsigned int n, enum dma_data_direction dir,
		     unsigned long attrs)
{
	unsigned int i;

	if (!n || WARN_ON_ONCE(!valid_dma_direction(dir)))
		return;

	if (is_attached(dev, attrs)) {
		dma_map_cache_unmap_multi(dev, buffers, n, dir);
		return;
	}

	for (i = 0; i < n; i++)
		dma_unmap_phys(dev, buffers[i].dma_addr, buffers[i].len, dir,
			       attrs);
}
EXPORT_SYMBOL_GPL(dma_unmap_multi);

/**
 * dma_retain - keep buffers mapped for a device, however it maps them
 * @dev: device that will use the buffers
 * @buffers: the buffers; @phys and @len of each are read, @dma_addr is neither
 *	read nor written
 * @n: number of buffers, at least 1
 * @dir: what the device may do with them
 *
 * For the owner of pages that are mapped again and again over a long time, as
 * those of a packet pool or of registered buffers: from now on each map of a
 * buffer within these pages, by any function of the DMA API and under every
 * strategy, finds them mapped. Maps that let the device do more than @dir says
 * are served as if nothing had been retained.
 *
 * It is the whole pages that are retained: the device can reach all of them, all
 * the time, until dma_release(). How much may be is bounded by
 * retain_budget_bytes of the device. Buffers may be retained several times, by
 * up to 31 owners.
 *
 * As mappings must, retentions must end before the driver is unbound.
 *
 * Context: Process context. May sleep.
 * Return: 0, or a negative errno and nothing is retained: -EINVAL if @n is 0,
 * @dir is not a direction or the device has no DMA mask; -EOPNOTSUPP if the
 * device is not attached to dma-map-cache, where there is nothing to gain, so
 * that the owner can go on without; -EPERM if the device is not trusted; -ENOSPC
 * if it would be more than the budget; -ERANGE if the pages are beyond the
 * device's reach; -EAGAIN if one of them is being mapped or withdrawn at this
 * moment; -ENOMEM.
 */
int dma_retain(struct device *dev, const struct dma_multi_buffer *buffers,
	       unsigned int n, enum dma_data_direction dir)
{
	might_sleep();
	if (!n || !valid_dma_direction(dir) || !dev->dma_mask)
		return -EINVAL;
	if (!dma_map_cache_serves(dev))
		return -EOPNOTSUPP;

	return dma_map_cache_retain(dev, buffers, n, dir);
}
EXPORT_SYMBOL_GPL(dma_retain);

/**
 * dma_release - end what dma_retain() began
 * @dev: device that has used the buffers
 * @buffers: the buffers, as they were retained, all of them or some
 * @n: number of buffers; 0 does nothing
 * @dir: as it was when they were retained
 *
 * Pages that the driver has not mapped at this moment are unreachable for the
 * device when this returns. The others are withdrawn when the driver has
 * unmapped them, as the strategy of that moment does it.
 *
 * Context: Process context. May sleep.
 */
void dma_release(struct device *dev, const struct dma_multi_buffer *buffers,
		 unsigned int n, enum dma_data_direction dir)
{
	might_sleep();
	if (n && !WARN_ON_ONCE(!valid_dma_direction(dir)) &&
	    dma_map_cache_serves(dev))
		dma_map_cache_release(dev, buffers, n, dir);
}
EXPORT_SYMBOL_GPL(dma_release);
