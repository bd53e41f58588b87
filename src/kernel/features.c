/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns CRIU's names of kernel features. What is older than any kernel that ferry runs on (5.6) and depends on no option of the kernel's is
 * always there.
 *
 * Kernel interface: SO_BUF_LOCK (5.14), IPV6_FREEBIND (4.15), memfd_create(2) MFD_HUGETLB (4.14).
 */
#include "kernel/features.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

struct kern_feature {
	const char *word;
	enum kern_cap_id any[2]; /* one of them will do; n: how many */
	int n;
	const char *path; /* is there with it */
	bool (*probe)(void);
};

static bool feature_buf_lock(void)
{
	int value;
	socklen_t n = sizeof(value);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &value, &n) == 0;
}

static bool feature_ipv6_freebind(void)
{
	const int on = 1;
	_cleanup_close_ int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && setsockopt(fd, SOL_IPV6, IPV6_FREEBIND, &on, sizeof(on)) == 0;
}

static bool feature_memfd_hugetlb(void)
{
	_cleanup_close_ int fd = memfd_create("ferry", MFD_CLOEXEC | MFD_HUGETLB);
	return fd >= 0;
}

#define ONE(id) {KERN_CAP_##id}, 1, NULL, NULL
#define EITHER(id, other) {KERN_CAP_##id, KERN_CAP_##other}, 2, NULL, NULL
#define FILE_OF(path) {0}, 0, path, NULL
#define PROBED(function) {0}, 0, NULL, function

static const struct kern_feature features[] = {
	{"mnt_id"},
	{"mem_dirty_track", EITHER(UFFD_WP_ASYNC, SOFT_DIRTY)},
	{"aio_remap"},
	{"timerfd", ONE(TFD_SET_TICKS)},
	{"tun", FILE_OF("/dev/net/tun")},
	{"tun_ns", FILE_OF("/dev/net/tun")},
	{"userns", FILE_OF("/proc/self/ns/user")},
	{"fdinfo_lock"},
	{"seccomp_suspend"},
	{"seccomp_filters", ONE(PTRACE_SECCOMP_FILTER)},
	{"loginuid", FILE_OF("/proc/self/loginuid")},
	{"cgroupns", FILE_OF("/proc/self/ns/cgroup")},
	{"autofs", FILE_OF("/dev/autofs")},
	{"tcp_half_closed", ONE(TCP_REPAIR)},
	{"compat_cr", FILE_OF("/proc/sys/abi/vsyscall32")},
	{"uffd", ONE(UFFD)},
	{"uffd-noncoop", ONE(UFFD)},
	{"can_map_vdso"},
	{"sk_ns"},
	{"sk_unix_file"},
	{"net_diag_raw"},
	{"nsid"},
	{"link_nsid"},
	{"kcmp_epoll", ONE(KCMP_EPOLL)},
	{"timens", ONE(TIME_NAMESPACE)},
	{"external_net_ns"},
	{"clone3_set_tid", ONE(CLONE3_SET_TID)},
	{"newifindex"},
	{"nftables", ONE(NFTABLES)},
	{"has_ipt_legacy", FILE_OF("/proc/net/ip_tables_names")},
	{"pidfd_store", ONE(PIDFD_GETFD)},
	{"ns_pid"},
	{"apparmor_stacking", FILE_OF("/sys/kernel/security/apparmor/features/domain/stack")},
	{"network_lock_nftables", ONE(NFTABLES)},
	{"sockopt_buf_lock", PROBED(feature_buf_lock)},
	{"memfd_hugetlb", PROBED(feature_memfd_hugetlb)},
	{"move_mount_set_group", ONE(MOVE_MOUNT_GROUP)},
	{"openat2", ONE(OPENAT2)},
	{"get_rseq_conf", ONE(RSEQ_CONFIG)},
	{"ipv6_freebind", PROBED(feature_ipv6_freebind)},
	{"pagemap_scan", ONE(PAGEMAP_SCAN)},
	{"timer_cr_ids", ONE(TIMER_RESTORE_IDS)},
	{"overlayfs_maps"},
	{"breakpoints"},
	{"pagemap_scan_guard_pages", ONE(PAGEMAP_GUARD)},
};

const char *kern_feature_word(size_t i)
{
	return i < ARRAY_SIZE(features) ? features[i].word : NULL;
}

int kern_feature(struct kern_caps *caps, const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const struct kern_feature *f = &features[i];
		if (strcmp(f->word, word))
			continue;
		if (f->path)
			return access(f->path, F_OK) == 0;
		if (f->probe)
			return f->probe();
		bool has = !f->n;
		for (int k = 0; k < f->n; k++)
			has |= kern_caps_probe(caps, f->any[k]) == KERN_PRESENT;
		return has;
	}
	return -ENOENT;
}
