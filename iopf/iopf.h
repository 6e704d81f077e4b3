/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust does for the entry points: see export_iopf!() in
 * rust/pdio/iopf_service.rs.
 */
#ifndef IOPF_IOPF_H
#define IOPF_IOPF_H

#include "include/linux/iopf.h"

struct iopf_device *iopf_serve_register(struct device *dev);
void iopf_serve_unregister(struct iopf_device *device);
struct iopf_binding *iopf_serve_bind(struct iopf_device *device,
				     enum iopf_mode mode,
				     const struct iopf_binding_ops *ops,
				     void *context);
void iopf_serve_unbind(struct iopf_binding *binding);
u32 iopf_serve_pasid(const struct iopf_binding *binding);
enum iopf_mode iopf_serve_mode(const struct iopf_binding *binding);
int iopf_serve_set_budget(struct iopf_binding *binding, u64 bytes);
int iopf_serve_pin(struct iopf_binding *binding, unsigned long start,
		   size_t len);
int iopf_serve_unpin(struct iopf_binding *binding, unsigned long start,
		     size_t len);

#endif /* IOPF_IOPF_H */
