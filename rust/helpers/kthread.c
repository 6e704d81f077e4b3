// SPDX-License-Identifier: GPL-2.0

#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/sched/task.h>

unsigned int pdio_num_online_cpus(void)
{
	return num_online_cpus();
}

/* Referenced, so that it can be waited for after its function has returned. */
struct task_struct *pdio_kthread_run_on_nth_cpu(int (*func)(void *data),
						void *data, unsigned int n)
{
	unsigned int cpu = cpumask_nth(n, cpu_online_mask);
	struct task_struct *task;

	if (cpu >= nr_cpu_ids)
		return ERR_PTR(-EINVAL);

	task = kthread_create_on_cpu(func, data, cpu, "pdio/%u");
	if (!IS_ERR(task)) {
		get_task_struct(task);
		wake_up_process(task);
	}
	return task;
}

void pdio_cond_resched(void)
{
	cond_resched();
}
