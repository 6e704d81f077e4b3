/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C inline functions and macros that Rust cannot call by itself, one file for
 * each C header they come from.
 */
#ifndef PDIO_HELPERS_H
#define PDIO_HELPERS_H

#include <linux/bottom_half.h>
#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/iommu.h>
#include <linux/iova.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

/* bottom-half.c */
void pdio_local_bh_disable(void);
void pdio_local_bh_enable(void);

/* device.c */
void pdio_device_lock(struct device *dev);
void pdio_device_unlock(struct device *dev);

/* dma-map-ops.c */
void pdio_set_dma_ops(struct device *dev, const struct dma_map_ops *ops);
bool pdio_dev_dma_iommu(const struct device *dev);
void pdio_dev_assign_dma_iommu(struct device *dev, bool value);
void pdio_dev_assign_dma_skip_sync(struct device *dev, bool value);
void pdio_dma_reset_need_sync(struct device *dev);
unsigned int pdio_dma_get_max_seg_size(struct device *dev);
u64 pdio_dma_get_seg_boundary(struct device *dev);

/* dma-mapping.c */
void pdio_dma_sync_single_for_cpu(struct device *dev, dma_addr_t addr,
				  size_t size, enum dma_data_direction dir);
void pdio_dma_sync_sg_for_cpu(struct device *dev, struct scatterlist *sg,
			      int nents, enum dma_data_direction dir);

/* interrupt.c */
void pdio_tasklet_schedule(struct tasklet_struct *t);

/* iommu.c */
void pdio_iommu_flush_iotlb_all(struct iommu_domain *domain);
void pdio_iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather);
void pdio_iommu_iotlb_sync(struct iommu_domain *domain,
			   struct iommu_iotlb_gather *gather);
void pdio_iommu_put_pages(struct iommu_pages_list *list);

/* kthread.c */
unsigned int pdio_num_online_cpus(void);
struct task_struct *pdio_kthread_run_on_nth_cpu(int (*func)(void *data),
						void *data, unsigned int n);
void pdio_cond_resched(void);

/* mm.c */
bool pdio_is_vmalloc_addr(const void *addr);
void *pdio_vzalloc(unsigned long size);
void pdio_vfree(const void *addr);
int pdio_vma_set_registers(struct vm_area_struct *vma);

/* pci.c */
int pdio_pci_domain_nr(struct pci_bus *bus);
typedef void (*pdio_pci_window_func)(void *arg, u64 start, u64 end);

void pdio_pci_walk_bridge_windows(struct pci_dev *pdev, pdio_pci_window_func f,
				  void *arg);
bool pdio_pci_driver_managed_dma(struct pci_dev *pdev);
bool pdio_pci_pasid_enabled(struct pci_dev *pdev);
bool pdio_pci_pri_enabled(struct pci_dev *pdev);
bool pdio_pci_bar_is_memory(struct pci_dev *pdev, int bar);
struct resource *pdio_pci_bus_ports(struct pci_dev *pdev, unsigned int first,
				    unsigned int count);

/* percpu.c */
void __percpu *pdio_alloc_percpu(size_t size, size_t align);
u64 pdio_percpu_sum(u64 __percpu *counter);

/* spinlock.c */
void pdio_spin_lock_init(spinlock_t *lock);
unsigned long pdio_spin_lock_irqsave(spinlock_t *lock);
void pdio_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);

/* vfio.c */
int pdio_vfio_check_irqs(const u32 *header, unsigned int num_irqs,
			 size_t *data_size);

/* wait.c */
void pdio_init_waitqueue_head(struct wait_queue_head *wq);
void pdio_wake_up_all(struct wait_queue_head *wq);
long pdio_wait_for_change(struct wait_queue_head *wq, const u64 *value, u64 seen,
			  unsigned int timeout_ms);
long pdio_wait_killable(struct wait_queue_head *wq, const u64 *value, u64 seen,
			unsigned int timeout_ms);

/* workqueue.c */
void pdio_init_delayed_work(struct delayed_work *work, work_func_t func);
void pdio_mod_delayed_work(struct delayed_work *work, unsigned int ms);
void pdio_queue_delayed_work(struct delayed_work *work, unsigned int ms);

#endif /* PDIO_HELPERS_H */
