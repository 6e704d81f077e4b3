/* SPDX-License-Identifier: GPL-2.0 */
/* Events of vpio. */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM vpio

#if !defined(_VPIO_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _VPIO_TRACE_H

#include <linux/device.h>
#include <linux/tracepoint.h>

/* A guest has accessed a port: trapped (0) or hooked (1). */
TRACE_EVENT(vpio_access,
	TP_PROTO(struct device *dev, u8 guest, u8 route, bool write, u8 port,
		 u8 bytes, u32 value),
	TP_ARGS(dev, guest, route, write, port, bytes, value),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u8, guest)
		__field(u8, route)
		__field(bool, write)
		__field(u8, port)
		__field(u8, bytes)
		__field(u32, value)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->guest = guest;
		__entry->route = route;
		__entry->write = write;
		__entry->port = port;
		__entry->bytes = bytes;
		__entry->value = value;
	),
	TP_printk("%s guest=%u route=%u write=%d port=0x%02x bytes=%u value=0x%x",
		  __get_str(device), __entry->guest, __entry->route,
		  __entry->write, __entry->port, __entry->bytes, __entry->value)
);

/* A write of a guest was dropped. */
TRACE_EVENT(vpio_denied,
	TP_PROTO(struct device *dev, u8 guest, u8 port, u8 bytes, u32 value),
	TP_ARGS(dev, guest, port, bytes, value),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u8, guest)
		__field(u8, port)
		__field(u8, bytes)
		__field(u32, value)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->guest = guest;
		__entry->port = port;
		__entry->bytes = bytes;
		__entry->value = value;
	),
	TP_printk("%s guest=%u port=0x%02x bytes=%u value=0x%x",
		  __get_str(device), __entry->guest, __entry->port,
		  __entry->bytes, __entry->value)
);

/* A guest may access the ports of these bits directly now, and no others. */
TRACE_EVENT(vpio_ports,
	TP_PROTO(struct device *dev, u8 guest, u16 first, u64 direct),
	TP_ARGS(dev, guest, first, direct),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u8, guest)
		__field(u16, first)
		__field(u64, direct)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->guest = guest;
		__entry->first = first;
		__entry->direct = direct;
	),
	TP_printk("%s guest=%u first=0x%04x direct=0x%llx",
		  __get_str(device), __entry->guest, __entry->first,
		  __entry->direct)
);

/* The card has changed hands; -1 is nobody. */
TRACE_EVENT(vpio_switch,
	TP_PROTO(struct device *dev, int from, int to, u64 ns),
	TP_ARGS(dev, from, to, ns),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(int, from)
		__field(int, to)
		__field(u64, ns)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->from = from;
		__entry->to = to;
		__entry->ns = ns;
	),
	TP_printk("%s from=%d to=%d ns=%llu",
		  __get_str(device), __entry->from, __entry->to, __entry->ns)
);

/* A guest is interrupted. */
TRACE_EVENT(vpio_interrupt,
	TP_PROTO(struct device *dev, u8 guest),
	TP_ARGS(dev, guest),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u8, guest)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->guest = guest;
	),
	TP_printk("%s guest=%u", __get_str(device), __entry->guest)
);

/* A guest gets the card, and so many frames are still held for it. */
TRACE_EVENT(vpio_frames,
	TP_PROTO(struct device *dev, u8 guest, u32 held),
	TP_ARGS(dev, guest, held),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u8, guest)
		__field(u32, held)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->guest = guest;
		__entry->held = held;
	),
	TP_printk("%s guest=%u held=%u", __get_str(device), __entry->guest,
		  __entry->held)
);

#endif /* _VPIO_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
