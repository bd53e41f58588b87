/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns credentials of threads: user and group ids, supplementary groups, capability sets, securebits.
 *
 * Kernel interface: /proc/PID/task/TID/status, prctl(2) PR_GET_SECUREBITS; setgroups(2), setresgid(2), setfsgid(2),
 * setresuid(2), setfsuid(2), capset(2), prctl(2) PR_CAPBSET_DROP and PR_CAP_AMBIENT (4.3). All of these act on
 * the calling thread alone, so every thread restores its own. no_new_privs belongs to prctl.c.
 * Does not handle: labels of security modules (/proc/PID/attr) that are not ferry's own, refused; keyrings of the
 * session, process or thread: a restored task has ferry's session keyring, for a keyring is joined by name only.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/caps.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

enum {
	CREDS_CAP_WORDS = 2,
	CREDS_LABEL_BYTES = 512,
	CREDS_GROUPS = 256, /* more are set in any case */
};

/* The label that a security module keeps for a task; empty where none does. */
static void creds_label(int proc_dir, const char *name, char label[static CREDS_LABEL_BYTES])
{
	char path[32];
	snprintf(path, sizeof(path), "attr/%s", name);
	_cleanup_close_ int fd = fd_open(proc_dir, path, O_RDONLY, 0);
	ssize_t n = fd < 0 ? -1 : read(fd, label, CREDS_LABEL_BYTES - 1);
	label[MAX(n, 0)] = '\0';
}

/* A restored task has ferry's own label, and none for what it makes. */
static int creds_check_task(pid_t pid, int proc_dir, const struct proc_status *status,
			    const struct kind_options *options, struct ferry_error *err)
{
	static const char *const names[] = {"current", "exec", "fscreate", "keycreate", "sockcreate"};
	/* A module that keeps any label keeps this one. */
	if (kern_cap_state(options->caps, KERN_CAP_LSM_LABELS) == KERN_ABSENT)
		return 0;
	int self = proc_open(getpid(), err), r = MIN(self, 0);
	for (size_t i = 0; i < ARRAY_SIZE(names) && r >= 0; i++) {
		char label[CREDS_LABEL_BYTES], ours[CREDS_LABEL_BYTES];
		creds_label(proc_dir, names[i], label);
		creds_label(self, names[i], ours);
		if (!strcmp(label, ours))
			continue;
		error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			  "pid %d (%s) has the security label '%.*s' (attr/%s), ferry has '%.*s'", pid,
			  status->name, (int)strcspn(label, "\n"), label, names[i], (int)strcspn(ours, "\n"),
			  ours);
		error_hint(err, "start ferry with the label of the program");
		r = -ENOTSUP;
	}
	if (self >= 0)
		close(self);
	return r;
}

static void creds_ask_thread(const struct snap_task *t unused, const struct snap_thread *th unused,
			     struct script *s)
{
	script_call(s, "reading securebits", SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0);
}

static int creds_caps(struct arena *a, uint64_t set, size_t *ret_n, uint32_t **ret_words)
{
	uint32_t words[CREDS_CAP_WORDS] = {(uint32_t)set, (uint32_t)(set >> 32)};
	*ret_words = arena_copy(a, words, sizeof(words));
	*ret_n = *ret_words ? CREDS_CAP_WORDS : 0;
	return *ret_words ? 0 : -ENOMEM;
}

static int creds_fill(struct arena *a, const struct proc_status *st, CredsEntry *c)
{
	c->uid = st->uid.real;
	c->euid = st->uid.effective;
	c->suid = st->uid.saved;
	c->fsuid = st->uid.fs;
	c->gid = st->gid.real;
	c->egid = st->gid.effective;
	c->sgid = st->gid.saved;
	c->fsgid = st->gid.fs;
	if (creds_caps(a, st->cap_inheritable, &c->n_cap_inh, &c->cap_inh) < 0 ||
	    creds_caps(a, st->cap_permitted, &c->n_cap_prm, &c->cap_prm) < 0 ||
	    creds_caps(a, st->cap_effective, &c->n_cap_eff, &c->cap_eff) < 0 ||
	    creds_caps(a, st->cap_bounding, &c->n_cap_bnd, &c->cap_bnd) < 0 ||
	    creds_caps(a, st->cap_ambient, &c->n_cap_amb, &c->cap_amb) < 0)
		return -ENOMEM;
	c->groups = arena_copy(a, st->groups, st->n_groups * sizeof(uint32_t));
	c->n_groups = c->groups ? st->n_groups : 0;
	if (st->no_new_privs)
		record_set(c, no_new_privs, 1);
	return c->groups ? 0 : -ENOMEM;
}

static int creds_collect_thread(struct collect *c, struct snap_task *t unused, struct snap_thread *th,
				int proc_dir unused, const struct answers *a, struct ferry_error *err)
{
	CredsEntry *creds = record_new(&c->snap->arena, CredsEntry, creds_entry);
	if (!creds || creds_fill(&c->snap->arena, &th->status, creds) < 0)
		return error_memory(err);
	if (a->calls[0].ret < 0)
		return error_errno(err, FERRY_ERROR_INJECT, (int)-a->calls[0].ret,
				   "reading the securebits of thread %d", th->tid);
	creds->secbits = (uint32_t)a->calls[0].ret;
	th->core->thread_core->creds = creds;
	return 0;
}

/* The securebits went with it; threads that part in them are rare. */
static int creds_collect_ended(struct collect *c, struct snap_task *t, struct snap_thread *th,
			       int proc_dir unused, const struct answers *a unused, struct ferry_error *err)
{
	CredsEntry *creds = record_new(&c->snap->arena, CredsEntry, creds_entry);
	if (!creds || creds_fill(&c->snap->arena, &th->status, creds) < 0)
		return error_memory(err);
	creds->secbits = snapshot_look(t)->core->thread_core->creds->secbits;
	th->core->thread_core->creds = creds;
	return 0;
}

static uint64_t creds_words(const uint32_t *words, size_t n)
{
	return (n > 0 ? words[0] : 0) | (n > 1 ? (uint64_t)words[1] << 32 : 0);
}

/* An ordinary user may not set groups even in a user namespace, and has no need to where they stay. */
static bool creds_groups_are_ours(const CredsEntry *c)
{
	gid_t ours[CREDS_GROUPS];
	int n = getgroups(CREDS_GROUPS, ours);
	if (n < 0 || (size_t)n != c->n_groups)
		return false;
	for (int i = 0; i < n; i++)
		if (ours[i] != c->groups[i])
			return false;
	return true;
}

static void creds_ids(struct script *s, const CredsEntry *c)
{
	/* Keep capabilities over the change of user ids; the sets are given exactly afterwards. */
	script_call(s, "keeping capabilities", SYS_prctl, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
		->check = BLOB_CHECK_NONE;
	if (!creds_groups_are_ours(c))
		script_call(s, "setting groups", SYS_setgroups, c->n_groups,
			    script_put(s, c->groups, c->n_groups * sizeof(uint32_t)))
			->data_mask = 1 << 1;
	script_call(s, "setting group ids", SYS_setresgid, c->gid, c->egid, c->sgid);
	script_call(s, "setting the file system group id", SYS_setfsgid, c->fsgid)->check = BLOB_CHECK_NONE;
	script_call(s, "setting user ids", SYS_setresuid, c->uid, c->euid, c->suid);
	script_call(s, "setting the file system user id", SYS_setfsuid, c->fsuid)->check = BLOB_CHECK_NONE;
}

/* With the final ids, which stay what they are outside; inside a task has every right at first, and no other than there. */
static int creds_enter_userns(struct plan *p, struct plan_task *t, struct script *s, struct ferry_error *err)
{
	const struct plan_ns *ns = plan_ns(p, PROC_NS_USER, t->ns_id[PROC_NS_USER]);
	int number = ns && ns->fd >= 0 ? plan_temp_source(t, ns->fd) : -ENOMEM;
	if (number < 0)
		return error_memory(err);
	script_call(s, "entering the user namespace", SYS_setns, (uint64_t)number, CLONE_NEWUSER);
	return 0;
}

static void creds_capset(struct script *s, uint64_t inheritable, uint64_t permitted, uint64_t effective)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2];
	for (int i = 0; i < 2; i++) {
		sets[i].inheritable = (uint32_t)(inheritable >> 32 * i);
		sets[i].permitted = (uint32_t)(permitted >> 32 * i);
		sets[i].effective = (uint32_t)(effective >> 32 * i);
	}
	uint64_t head_at = script_put(s, &head, sizeof(head));
	script_call(s, "setting capabilities", SYS_capset, head_at, script_put(s, sets, sizeof(sets)))
		->data_mask = 1 << 0 | 1 << 1;
}

static int creds_check_caps(const struct kern_caps *caps, const CredsEntry *c, pid_t tid,
			    struct ferry_error *err)
{
	uint64_t permitted = creds_words(c->cap_prm, c->n_cap_prm);
	unsigned last = kern_limit(caps, KERN_LIMIT_CAP_LAST);
	uint64_t known = last >= 63 ? ~0ull : (1ull << (last + 1)) - 1;
	uint64_t missing = permitted & known & ~kern_rights(caps)->effective;
	if (!missing)
		return 0;
	error_set(err, FERRY_ERROR_PERMISSION, EPERM, "thread %d has capability number %d, which ferry lacks",
		  tid, __builtin_ctzll(missing));
	error_hint(err, "run the restore with all capabilities that the image has");
	return -EPERM;
}

static void creds_drop_bounding(struct script *s, unsigned last, uint64_t set)
{
	for (unsigned cap = 0; cap <= last; cap++) {
		if (!(set >> cap & 1))
			continue;
		script_call(s, "dropping from the bounding set", SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
		script_detail(s, cap);
	}
}

static int creds_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
				struct script *s, struct ferry_error *err)
{
	const CredsEntry *c = th->core->thread_core ? th->core->thread_core->creds : NULL;
	if (!c)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "thread %d of pid %d has no credentials in the image", th->tid, t->pid);
	bool own_userns = t->ns_id[PROC_NS_USER];
	unsigned last = kern_limit(r->caps, KERN_LIMIT_CAP_LAST);
	uint64_t every = (last >= 63 ? 0 : 1ull << (last + 1)) - 1;
	uint64_t here = own_userns ? every : kern_rights(r->caps)->effective;
	int ret = own_userns ? 0 : creds_check_caps(r->caps, c, th->tid, err);
	if (ret < 0)
		return ret;
	if (own_userns) {
		creds_ids(s, c);
		ret = creds_enter_userns(r->plan, t, s, err);
	}
	if (ret < 0)
		return ret;
	creds_drop_bounding(s, last,
			    (own_userns ? every : kern_rights(r->caps)->bounding) &
				    ~creds_words(c->cap_bnd, c->n_cap_bnd));
	uint64_t ambient = creds_words(c->cap_amb, c->n_cap_amb);
	if (!own_userns)
		creds_ids(s, c);
	uint64_t inheritable = creds_words(c->cap_inh, c->n_cap_inh);
	if (ambient) {
		creds_capset(s, inheritable, here, here);
		for (unsigned cap = 0; cap <= last; cap++)
			if (ambient >> cap & 1)
				script_call(s, "raising an ambient capability", SYS_prctl, PR_CAP_AMBIENT,
					    PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	}
	/* They may forbid what came before, and need CAP_SETPCAP, which the sets may lack. Without it ours have stayed what they are. */
	bool stay = !(here >> CAP_SETPCAP & 1) && prctl(PR_GET_SECUREBITS) == (int)c->secbits;
	if (!stay)
		script_call(s, "setting securebits", SYS_prctl, PR_SET_SECUREBITS, c->secbits, 0, 0, 0);
	creds_capset(s, inheritable, creds_words(c->cap_prm, c->n_cap_prm),
		     creds_words(c->cap_eff, c->n_cap_eff));
	return 0;
}

const struct kind_ops kind_creds = {
	.name = "creds",
	.what = "user and group ids, capabilities, securebits",
	.fd_type = -1,
	.image_file = -1,
	.check_task = creds_check_task,
	.ask_thread = creds_ask_thread,
	.collect_thread = creds_collect_thread,
	.collect_ended = creds_collect_ended,
	.restore_thread = creds_restore_thread,
};
