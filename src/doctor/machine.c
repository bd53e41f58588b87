/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what rights, limits and the kernel let ferry do here, and what it costs where they do not. */
#include <fcntl.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "doctor/doctor.h"
#include "kernel/caps.h"

enum { FEW_FILES = 4096 };

void doctor_release(struct doctor *d)
{
	vec_release(&d->engines);
	vec_release(&d->findings);
}

void doctor_find(struct doctor *d, enum doctor_level level, const char *about, const char *fix,
		 const char *fmt, ...)
{
	char text[sizeof(((struct doctor_finding *)NULL)->text)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	vec_foreach(known, &d->findings) {
		size_t n = strlen(known->about);
		if (strcmp(known->text, text) != 0)
			continue;
		snprintf(known->about + n, sizeof(known->about) - n, ", %s", about);
		return;
	}
	struct doctor_finding *f = vec_push(&d->findings);
	if (!f)
		return;
	f->level = level;
	snprintf(f->about, sizeof(f->about), "%s", about);
	snprintf(f->text, sizeof(f->text), "%s", text);
	snprintf(f->fix, sizeof(f->fix), "%s", fix);
}

static const struct {
	int right;
	const char *word;
	enum doctor_level level;
	const char *cost, *fix;
} rights[] = {
	{CAP_SYS_ADMIN, "CAP_SYS_ADMIN", DOCTOR_FAIL,
	 "namespaces and mounts of containers cannot be entered or made",
	 "run it as root, outside of a container without privileges"},
	{CAP_SYS_PTRACE, "CAP_SYS_PTRACE", DOCTOR_FAIL, "processes of other users cannot be dumped",
	 "run it as root, outside of a container without privileges"},
	{CAP_NET_ADMIN, "CAP_NET_ADMIN", DOCTOR_WARN,
	 "established TCP connections and networks of containers cannot be taken along",
	 "give the right to whoever starts ferry"},
	{CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", DOCTOR_WARN,
	 "limits cannot be raised: a container whose limits are above those here is not started or restored",
	 "podman: default_ulimits = [\"nofile=20000:20000\", \"nproc=20000:20000\"] in [containers] of containers.conf"},
};

/* Without CAP_SYS_ADMIN: CAP_CHECKPOINT_RESTORE alone gives some of it. */
static void look_at_rights(struct doctor *d, const struct kern_caps *caps)
{
	uint64_t has = kern_rights(caps)->effective;
	if (geteuid())
		doctor_find(d, DOCTOR_WARN, "rights",
			    "run it as root, or start programs with ferry run, which moves them without",
			    "not root: only processes of a user namespace can be moved");
	for (size_t i = 0; i < ARRAY_SIZE(rights) && !geteuid(); i++)
		if (!(has >> rights[i].right & 1))
			doctor_find(d, rights[i].level, "rights", rights[i].fix, "%s is missing: %s",
				    rights[i].word, rights[i].cost);
}

static void look_at_limits(struct doctor *d, const struct kern_caps *caps)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_max >= FEW_FILES)
		return;
	bool may_raise = kern_rights(caps)->effective >> CAP_SYS_RESOURCE & 1;
	doctor_find(d, may_raise ? DOCTOR_NOTE : DOCTOR_WARN, "limits",
		    "raise the hard limit: ulimit -Hn, LimitNOFILE= of the unit",
		    "%llu descriptors at most: a tree that has more open is refused",
		    (unsigned long long)files.rlim_max);
}

static void look_at_yama(struct doctor *d)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	if (fd_read_path(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", 16, &text, &n) >= 0 && n &&
	    text[0] == '3')
		doctor_find(
			d, DOCTOR_FAIL, "kernel",
			"it stays so until the next boot: remove kernel.yama.ptrace_scope=3 from sysctl.d",
			"no process may be traced (kernel.yama.ptrace_scope is 3)");
}

static const struct {
	enum kern_cap_id any[2];
	enum doctor_level level;
	const char *cost;
} features[] = {
	{{KERN_CAP_CLONE3_SET_TID, KERN_CAP_CLONE3_SET_TID},
	 DOCTOR_FAIL,
	 "nothing can be restored with its PID"},
	{{KERN_CAP_PIDFD_GETFD, KERN_CAP_PIDFD_GETFD},
	 DOCTOR_FAIL,
	 "descriptors of processes cannot be looked at"},
	{{KERN_CAP_KCMP, KERN_CAP_KCMP},
	 DOCTOR_WARN,
	 "what processes share is found out slowly, or not at all"},
	{{KERN_CAP_UFFD_WP_ASYNC, KERN_CAP_SOFT_DIRTY},
	 DOCTOR_WARN,
	 "no pre-dumps and no live dumps: processes stand while all of their memory is stored"},
	{{KERN_CAP_PAGEMAP_SCAN, KERN_CAP_PAGEMAP_SCAN},
	 DOCTOR_WARN,
	 "pages are found more slowly, so stops are longer"},
	{{KERN_CAP_TIME_NAMESPACE, KERN_CAP_TIME_NAMESPACE},
	 DOCTOR_WARN,
	 "clocks of restored processes jump"},
	{{KERN_CAP_UFFD, KERN_CAP_UFFD}, DOCTOR_WARN, "no lazy restores"},
	{{KERN_CAP_TCP_REPAIR, KERN_CAP_TCP_REPAIR},
	 DOCTOR_WARN,
	 "established TCP connections cannot be taken along"},
	{{KERN_CAP_NFTABLES, KERN_CAP_NFTABLES},
	 DOCTOR_WARN,
	 "established TCP connections cannot be taken along"},
};

static void look_at_kernel(struct doctor *d, struct kern_caps *caps)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		bool has = false;
		for (size_t k = 0; k < ARRAY_SIZE(features[i].any); k++)
			has |= kern_caps_probe(caps, features[i].any[k]) == KERN_PRESENT;
		const struct kern_cap_info *info = kern_cap_info(features[i].any[0]);
		char fix[128];
		snprintf(fix, sizeof(fix),
			 kern_denied(caps, features[i].any[0]) ? "run it as root" : "Linux %s has it",
			 info->version);
		if (!has)
			doctor_find(d, features[i].level, "kernel", fix, "no %s: %s", info->word,
				    features[i].cost);
	}
}

void doctor_look_at_machine(struct doctor *d)
{
	struct kern_caps caps;
	kern_caps_init(&caps);
	look_at_rights(d, &caps);
	look_at_limits(d, &caps);
	look_at_yama(d);
	look_at_kernel(d, &caps);
}
