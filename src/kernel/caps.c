/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the table of kernel capabilities and the limits of the machine. Kernel interface: capget(2), uname(2),
 * /proc/sys. The probes themselves are in probe_*.c.
 */
#include "kernel/caps.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/probe.h"
#include "kernel/syscalls.h"

static const struct kern_cap_info cap_infos[KERN_CAP_COUNT] = {
#define KERN_CAP(name, word_, probe_, version_, text_) \
	[KERN_CAP_##name] = {.word = word_, .version = version_, .text = text_, .probe = kern_probe_##probe_},
#include "kernel/caps.def"
#undef KERN_CAP
};

const struct kern_cap_info *kern_cap_info(enum kern_cap_id id)
{
	return (unsigned)id < KERN_CAP_COUNT ? &cap_infos[id] : NULL;
}

int kern_cap_find(const char *word)
{
	for (int i = 0; i < KERN_CAP_COUNT; i++)
		if (!strcmp(cap_infos[i].word, word))
			return i;
	return -EINVAL;
}

/* One that keeps nothing by itself has one user. */
static void caps_lock(struct kern_caps *caps)
{
	if (caps->keeps)
		pthread_mutex_lock(&caps->lock);
}

static void caps_unlock(struct kern_caps *caps)
{
	if (caps->keeps)
		pthread_mutex_unlock(&caps->lock);
}

enum kern_cap_state kern_caps_probe(struct kern_caps *caps, enum kern_cap_id id)
{
	uint8_t state = __atomic_load_n(&caps->state[id], __ATOMIC_ACQUIRE);
	if (state != KERN_UNKNOWN)
		return state;
	caps_lock(caps);
	state = caps->state[id];
	if (state == KERN_UNKNOWN) {
		int reason = 0;
		state = (uint8_t)cap_infos[id].probe(caps, &reason);
		caps->reason[id] = (int16_t)reason;
		__atomic_store_n(&caps->state[id], state, __ATOMIC_RELEASE);
	}
	caps_unlock(caps);
	return state;
}

void kern_caps_init(struct kern_caps *caps)
{
	*caps = (struct kern_caps){.keeps = caps, .lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP};
}

enum kern_cap_state kern_cap_state(const struct kern_caps *caps, enum kern_cap_id id)
{
	if (!caps)
		return KERN_UNKNOWN;
	return caps->keeps ? kern_caps_probe(caps->keeps, id) : (enum kern_cap_state)caps->state[id];
}

void kern_caps_probe_some(struct kern_caps *caps, const enum kern_cap_id *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		kern_caps_probe(caps, ids[i]);
}

void kern_caps_probe_all(struct kern_caps *caps)
{
	for (int i = 0; i < KERN_CAP_COUNT; i++)
		kern_caps_probe(caps, i);
}

int kern_capabilities(uint64_t *ret_effective)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	long r = sys_call(SYS_capget, &header, data);
	if (r < 0)
		return (int)r;
	*ret_effective = (uint64_t)data[1].effective << 32 | data[0].effective;
	return 0;
}

static const struct {
	const char *path;
	uint32_t standard; /* where it does not exist or cannot be read */
} cap_limits[KERN_LIMIT_COUNT] = {
	[KERN_LIMIT_PID_MAX] = {"/proc/sys/kernel/pid_max", 32768},
	[KERN_LIMIT_MAX_MAP_COUNT] = {"/proc/sys/vm/max_map_count", 65530},
	[KERN_LIMIT_CAP_LAST] = {"/proc/sys/kernel/cap_last_cap", CAP_LAST_CAP},
};

static uint32_t read_limit(enum kern_limit limit)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	char *end;
	if (fd_read_path(AT_FDCWD, cap_limits[limit].path, 64, &text, &n) < 0)
		return cap_limits[limit].standard;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	return errno || end == text ? cap_limits[limit].standard : (uint32_t)MIN(value, UINT32_MAX);
}

uint32_t kern_limit(const struct kern_caps *caps, enum kern_limit limit)
{
	uint32_t value = __atomic_load_n(&caps->limits[limit], __ATOMIC_RELAXED);
	if (value || !caps->keeps)
		return value ? value : cap_limits[limit].standard;
	value = read_limit(limit);
	__atomic_store_n(&caps->keeps->limits[limit], value, __ATOMIC_RELAXED);
	return value ? value : cap_limits[limit].standard;
}

const struct kern_rights *kern_rights(const struct kern_caps *caps)
{
	if (__atomic_load_n(&caps->rights.read, __ATOMIC_ACQUIRE) || !caps->keeps)
		return &caps->rights;
	struct kern_rights *rights = &caps->keeps->rights;
	caps_lock(caps->keeps);
	if (!rights->read) {
		if (kern_capabilities(&rights->effective) < 0)
			rights->effective = 0;
		for (unsigned i = 0; i <= kern_limit(caps, KERN_LIMIT_CAP_LAST) && i < 64; i++)
			if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
				rights->bounding |= 1ULL << i;
		__atomic_store_n(&rights->read, true, __ATOMIC_RELEASE);
	}
	caps_unlock(caps->keeps);
	return rights;
}

int kern_need(const struct kern_caps *caps, enum kern_cap_id id, const char *what, struct ferry_error *err)
{
	if (kern_has(caps, id))
		return 0;
	const struct kern_cap_info *info = &cap_infos[id];
	if (kern_denied(caps, id))
		return error_errno(err, FERRY_ERROR_PERMISSION, caps->reason[id] ? caps->reason[id] : EPERM,
				   "%s needs '%s' (%s), which is forbidden here", what, info->word,
				   info->text);
	struct utsname uts;
	if (uname(&uts) < 0)
		snprintf(uts.release, sizeof(uts.release), "unknown");
	error_set(err, FERRY_ERROR_KERNEL_FEATURE, EOPNOTSUPP,
		  "%s needs '%s' (%s); the running kernel %s lacks it", what, info->word, info->text,
		  uts.release);
	error_hint(err, "Linux %s or later has it, if it was built with that option.", info->version);
	return -EOPNOTSUPP;
}
