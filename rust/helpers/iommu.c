// SPDX-License-Identifier: GPL-2.0

#include <linux/iommu.h>

/* Exported for IOMMU drivers, declared in drivers/iommu/iommu-pages.h only. */
void iommu_put_pages_list(struct iommu_pages_list *list);

void pdio_iommu_flush_iotlb_all(struct iommu_domain *domain)
{
	iommu_flush_iotlb_all(domain);
}

void pdio_iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_gather_init(gather);
}

void pdio_iommu_iotlb_sync(struct iommu_domain *domain,
			   struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_sync(domain, gather);
}

void pdio_iommu_put_pages(struct iommu_pages_list *list)
{
	iommu_put_pages_list(list);
}
