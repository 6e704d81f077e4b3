/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Devices that work in the address space of a process, and serve themselves from
 * its memory page by page.
 *
 * See Documentation/iopf/driver-api.rst.
 */
#ifndef _LINUX_IOPF_H
#define _LINUX_IOPF_H

#include <linux/types.h>

struct device;
struct iopf_binding;
struct iopf_device;

/**
 * enum iopf_mode - how a device translates the addresses of a process
 * @IOPF_MODE_DEVICE: as the file "mode" of the device says when the process is
 *	bound
 * @IOPF_MODE_SVA: by the page tables of the CPU
 * @IOPF_MODE_MIRROR: by a copy of them that holds what the device has used, within
 *	a budget, and is kept exact
 * @IOPF_MODE_PINNED: by a table of what iopf_pin() was called for
 */
enum iopf_mode {
	IOPF_MODE_DEVICE,
	IOPF_MODE_SVA,
	IOPF_MODE_MIRROR,
	IOPF_MODE_PINNED,
};

/**
 * struct iopf_binding_ops - what iopf needs of the driver
 * @stop: keeps the device from beginning any access to the address space, and
 *	returns when it has been told so. Called once, by the time the address space
 *	goes or, if that is earlier, from iopf_unbind(), or before the driver is
 *	unbound; what the device asks for later is answered with an error. May sleep.
 *	Must not wait for answers to page requests: it may be called from where they
 *	are given. Must not take a lock that is held over a call of iopf_bind(),
 *	iopf_unbind() or iopf_unregister_device().
 */
struct iopf_binding_ops {
	void (*stop)(void *context);
};

struct iopf_device *iopf_register_device(struct device *dev);
void iopf_unregister_device(struct iopf_device *device);

struct iopf_binding *iopf_bind(struct iopf_device *device, enum iopf_mode mode,
			       const struct iopf_binding_ops *ops,
			       void *context);
void iopf_unbind(struct iopf_binding *binding);
u32 iopf_pasid(const struct iopf_binding *binding);
enum iopf_mode iopf_mode(const struct iopf_binding *binding);

int iopf_set_budget(struct iopf_binding *binding, u64 bytes);

int iopf_pin(struct iopf_binding *binding, unsigned long start, size_t len);
int iopf_unpin(struct iopf_binding *binding, unsigned long start, size_t len);

#endif /* _LINUX_IOPF_H */
