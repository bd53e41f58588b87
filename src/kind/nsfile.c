/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns descriptors of namespaces (/proc/PID/ns/NAME): of those that their own process lives in. They are opened again in that
 * process, so that they lead to the namespace in which it lives then.
 *
 * Kernel interface: namespaces(7), /proc/PID/ns.
 * Does not handle: a namespace in which the process that has it open does not live, refused: nothing would keep it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/proto/ns.pb-c.h"
#include "kernel/uapi.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "proc/read.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* By the word before the colon in "net:[4026531840]", which is the name in /proc/PID/ns as well. */
static const struct nsfile_type {
	const char *name;
	enum proc_ns type;
	uint32_t flag;
	uint32_t id; /* as collect numbers ferry's own */
} nsfile_types[] = {
	{"pid", PROC_NS_PID, CLONE_NEWPID, 1},    {"net", PROC_NS_NET, CLONE_NEWNET, 2},
	{"ipc", PROC_NS_IPC, CLONE_NEWIPC, 3},    {"uts", PROC_NS_UTS, CLONE_NEWUTS, 4},
	{"time", PROC_NS_TIME, CLONE_NEWTIME, 5}, {"mnt", PROC_NS_MNT, CLONE_NEWNS, 6},
	{"user", PROC_NS_USER, CLONE_NEWUSER, 7}, {"cgroup", PROC_NS_CGROUP, CLONE_NEWCGROUP, 8},
};

static const struct nsfile_type *nsfile_type(const char *link)
{
	const char *colon = strstr(link, ":[");
	for (size_t i = 0; colon && i < ARRAY_SIZE(nsfile_types); i++)
		if (strlen(nsfile_types[i].name) == (size_t)(colon - link) &&
		    !strncmp(nsfile_types[i].name, link, (size_t)(colon - link)))
			return &nsfile_types[i];
	return NULL;
}

static bool nsfile_owns(const struct fd_view *view)
{
	return nsfile_type(view->link);
}

static int nsfile_check(const struct fd_view *view, const struct kind_options *options unused,
			struct ferry_error *err)
{
	char path[64], who[64];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", view->look, nsfile_type(view->link)->name);
	if (stat(path, &st) == 0 && st.st_ino == view->stat.st_ino && st.st_dev == view->stat.st_dev)
		return 0;
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' is not the namespace that it lives in",
		  who, view->link);
	error_hint(err,
		   "let the program close it; a namespace is brought back with those who live in it only");
	return -ENOTSUP;
}

static int nsfile_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			  struct ferry_error *err)
{
	const struct nsfile_type *type = nsfile_type(view->link);
	NsFileEntry *nsf = record_new(&c->snap->arena, NsFileEntry, ns_file_entry);
	if (!nsf)
		return error_memory(err);
	int r = nsfile_check(view, c->options, err);
	if (r < 0)
		return r;
	nsf->id = file->entry->id;
	const struct snap_ns *ns = snapshot_ns(c->snap, type->type, view->stat.st_ino);
	nsf->ns_id = ns ? ns->id : type->id;
	nsf->ns_cflag = type->flag;
	nsf->flags = fdcommon_flags(view);
	file->entry->nsf = nsf;
	return 0;
}

/* -------------------------------------------------------------------------- restore */

/* In the task that has it: its own namespace, whichever that is. */
static int nsfile_open(void *arguments, int *fds, size_t *n_fds)
{
	const char *name = arguments;
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/ns/%.32s", name);
	fds[0] = fd_open(AT_FDCWD, path, O_RDONLY, 0);
	*n_fds = fds[0] >= 0;
	return MIN(fds[0], 0);
}

static int nsfile_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const NsFileEntry *nsf = file->entry->nsf;
	const struct plan_task *task = file->owner ? file->owner : o->plan->tasks;
	const struct nsfile_type *type = NULL;
	if (!nsf)
		return fdcommon_no_record(file, err);
	for (size_t i = 0; i < ARRAY_SIZE(nsfile_types); i++)
		if (nsfile_types[i].flag == nsf->ns_cflag)
			type = &nsfile_types[i];
	if (!type)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "file id %u: a namespace of type 0x%x",
				 nsf->id, nsf->ns_cflag);
	char name[32] = "";
	snprintf(name, sizeof(name), "%s", type->name);
	struct opener_call call = {.run = nsfile_open, .arguments = name, .bytes = sizeof(name)};
	int r = o->in_task(o, task, &call, err);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "opening the %s namespace of pid %d",
				   type->name, task->pid);
	*ret_fd = call.fds[0];
	return 0;
}

const struct kind_ops kind_nsfile = {
	.name = "nsfile",
	.what = "descriptors of the namespaces that their process lives in",
	.fd_type = FD_TYPES__NS,
	.image_file = -1,
	.late = true,
	.owns = nsfile_owns,
	.check = nsfile_check,
	.collect = nsfile_collect,
	.restore = nsfile_restore,
};
