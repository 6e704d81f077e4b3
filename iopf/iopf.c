// SPDX-License-Identifier: GPL-2.0
/*
 * The entry points that other modules call. What they do is done in Rust.
 */

#include <linux/device.h>
#include <linux/err.h>
#include <linux/export.h>
#include <linux/mm.h>
#include <linux/sched.h>

#include "include/linux/iopf.h"
#include "iopf.h"

/**
 * iopf_register_device - let processes be bound to a device
 * @dev: PCI function with PASID and PRI, to which the caller is bound as its driver
 *
 * Makes the directory "iopf" of the device in sysfs. When the driver is unbound, or
 * its probe fails, all processes are unbound before its remove is called and none can
 * be bound any more: no PASID is left attached, whatever the driver does.
 *
 * Context: May sleep. From probe, or later.
 * Return: The device, or an ERR_PTR: -EOPNOTSUPP if it or its IOMMU lacks PASID or
 * PRI, which the kernel log names; -ENOMEM, also if it is registered already.
 */
struct iopf_device *iopf_register_device(struct device *dev)
{
	return iopf_serve_register(dev);
}
EXPORT_SYMBOL_GPL(iopf_register_device);

/**
 * iopf_unregister_device - end what iopf_register_device() began
 * @device: the device
 *
 * Processes that are still bound are unbound, as by iopf_unbind(), which has to be
 * called for each of them nevertheless, before or after, and for the same reason the
 * device must not use their PASIDs any more. Calls of iopf_unbind() that have begun
 * are waited for.
 *
 * Context: May sleep. At the latest in remove.
 */
void iopf_unregister_device(struct iopf_device *device)
{
	if (!IS_ERR_OR_NULL(device))
		iopf_serve_unregister(device);
}
EXPORT_SYMBOL_GPL(iopf_unregister_device);

/**
 * iopf_bind - bind the current process to a device
 * @device: the device
 * @mode: how the device is to translate
 * @ops: what is called back; must stay until the process is unbound
 * @context: what it is called with
 *
 * From now on the device can use addresses of the process under the PASID that
 * iopf_pasid() returns. Bindings of the same process in mode sva share a PASID,
 * others have one of their own each. The binding holds no part of the address
 * space; after the process has gone it remains until iopf_unbind(), to no effect.
 *
 * Context: May sleep. From a process with an address space.
 * Return: The binding, or an ERR_PTR: -EINVAL if @mode is none or there is no
 * address space, -ENODEV if the device is being unregistered or its driver unbound,
 * -ENOSPC if no PASID is left, -ENOMEM, and what the IOMMU driver says.
 */
struct iopf_binding *iopf_bind(struct iopf_device *device, enum iopf_mode mode,
			       const struct iopf_binding_ops *ops,
			       void *context)
{
	if (IS_ERR_OR_NULL(device) || !ops || !ops->stop || !current->mm)
		return ERR_PTR(-EINVAL);

	return iopf_serve_bind(device, mode, ops, context);
}
EXPORT_SYMBOL_GPL(iopf_bind);

/**
 * iopf_unbind - end what iopf_bind() began
 * @binding: the binding
 *
 * The device must not use the PASID any more, by the driver's own doing: it has
 * stopped, and no request of it is on its way. What it has asked for and was not
 * answered yet is answered during the call. &iopf_binding_ops.stop is called unless
 * it was, and not after the return. Whatever has begun to unbind the process before,
 * has ended then.
 *
 * Context: May sleep. From any process.
 */
void iopf_unbind(struct iopf_binding *binding)
{
	if (!IS_ERR_OR_NULL(binding))
		iopf_serve_unbind(binding);
}
EXPORT_SYMBOL_GPL(iopf_unbind);

/**
 * iopf_pasid - the PASID of a binding
 * @binding: the binding
 *
 * Context: Any context.
 * Return: The PASID, which does not change.
 */
u32 iopf_pasid(const struct iopf_binding *binding)
{
	return iopf_serve_pasid(binding);
}
EXPORT_SYMBOL_GPL(iopf_pasid);

/**
 * iopf_mode - the mode of a binding
 * @binding: the binding
 *
 * Context: Any context.
 * Return: The mode, which does not change, and is not IOPF_MODE_DEVICE.
 */
enum iopf_mode iopf_mode(const struct iopf_binding *binding)
{
	return iopf_serve_mode(binding);
}
EXPORT_SYMBOL_GPL(iopf_mode);

/**
 * iopf_set_budget - set what a device may keep of a process
 * @binding: the binding
 * @bytes: most bytes, a multiple of the page size, not 0, up to 2^52
 *
 * As long as it is less than the file "binding_budget_bytes" of the device says for
 * every binding. In mode mirror what is too much is taken before this returns. A
 * binding has no budget of its own to begin with.
 *
 * Context: May sleep. From any process.
 * Return: 0; -EINVAL if @bytes is none of these, the mode is sva, in which a device
 * keeps nothing, or the process is not bound any more.
 */
int iopf_set_budget(struct iopf_binding *binding, u64 bytes)
{
	return iopf_serve_set_budget(binding, bytes);
}
EXPORT_SYMBOL_GPL(iopf_set_budget);

/**
 * iopf_pin - pin a range of the current process for a binding in mode pinned
 * @binding: a binding of the current process
 * @start: first address, a multiple of the page size
 * @len: number of bytes, a multiple of the page size, not 0
 *
 * All pages are brought into memory, kept there and given to the device, or none
 * is. The device may write to those that the process may write to. They count
 * against RLIMIT_MEMLOCK and the budgets of the device.
 *
 * Context: May sleep.
 * Return: 0; -EINVAL if the mode is another or the range is malformed; -EPERM if the
 * binding is that of another process; -EEXIST if part of the range is pinned;
 * -EFAULT if part of it is not mapped; -ENOMEM, also if a limit is exceeded.
 */
int iopf_pin(struct iopf_binding *binding, unsigned long start, size_t len)
{
	if (!len || !PAGE_ALIGNED(start | len) || start + len < start)
		return -EINVAL;

	return iopf_serve_pin(binding, start, len);
}
EXPORT_SYMBOL_GPL(iopf_pin);

/**
 * iopf_unpin - end what iopf_pin() began
 * @binding: the binding
 * @start: as for iopf_pin()
 * @len: as for iopf_pin()
 *
 * The device cannot reach the range any more when this returns.
 *
 * Context: May sleep. From any process.
 * Return: 0, or -ENOENT if there was no such call of iopf_pin().
 */
int iopf_unpin(struct iopf_binding *binding, unsigned long start, size_t len)
{
	return iopf_serve_unpin(binding, start, len);
}
EXPORT_SYMBOL_GPL(iopf_unpin);
