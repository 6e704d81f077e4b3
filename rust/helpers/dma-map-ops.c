// SPDX-License-Identifier: GPL-2.0

#include <linux/dma-map-ops.h>

void pdio_set_dma_ops(struct device *dev, const struct dma_map_ops *ops)
{
	set_dma_ops(dev, ops);
}

bool pdio_dev_dma_iommu(const struct device *dev)
{
	return dev_dma_iommu(dev);
}

void pdio_dev_assign_dma_iommu(struct device *dev, bool value)
{
	dev_assign_dma_iommu(dev, value);
}

void pdio_dev_assign_dma_skip_sync(struct device *dev, bool value)
{
	dev_assign_dma_skip_sync(dev, value);
}

void pdio_dma_reset_need_sync(struct device *dev)
{
	dma_reset_need_sync(dev);
}

unsigned int pdio_dma_get_max_seg_size(struct device *dev)
{
	return dma_get_max_seg_size(dev);
}

u64 pdio_dma_get_seg_boundary(struct device *dev)
{
	return dma_get_seg_boundary(dev);
}
