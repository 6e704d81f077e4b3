// SPDX-License-Identifier: GPL-2.0

#include <linux/wait.h>

void pdio_init_waitqueue_head(struct wait_queue_head *wq)
{
	init_waitqueue_head(wq);
}

void pdio_wake_up_all(struct wait_queue_head *wq)
{
	wake_up_all(wq);
}

/* 0: it has not changed in time; negative: there is a signal. */
long pdio_wait_for_change(struct wait_queue_head *wq, const u64 *value, u64 seen,
			  unsigned int timeout_ms)
{
	return wait_event_interruptible_timeout(*wq, READ_ONCE(*value) != seen,
						msecs_to_jiffies(timeout_ms));
}

/* The same, but that only a signal that kills is one. */
long pdio_wait_killable(struct wait_queue_head *wq, const u64 *value, u64 seen,
			unsigned int timeout_ms)
{
	return ___wait_event(*wq, ___wait_cond_timeout(READ_ONCE(*value) != seen),
			     TASK_KILLABLE, 0, msecs_to_jiffies(timeout_ms),
			     __ret = schedule_timeout(__ret));
}
