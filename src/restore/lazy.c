/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns which memory comes late (ferry restore --lazy), and the way from the plan to the pager: userfaultfds are made for the tasks, the
 * pager starts before any of them replaces its memory, and a task's ranges are registered when it has made its mappings. From then
 * on whoever touches them is served, be it the task, the kernel on its behalf, or ferry.
 *
 * What is filled at once as ever: memory that a family has in common, huge pages of hugetlbfs, mappings of files, locked memory, memory
 * that is wiped when a child is made, and all of a task with userfaultfds of its own, with another's
 * descriptor table, or that has gone on after a stop which its parent is not told of yet.
 *
 * Kernel interface: /dev/userfaultfd (6.1), userfaultfd(2) with CAP_SYS_PTRACE (4.11 for the events), UFFD_FEATURE_POISON (6.6).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/pages.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "kind/kinds.h"
#include "model/vma-status.h"
#include "restore/lazysock.h"
#include "restore/pager.h"
#include "restore/restore.h"

#define LAZY_FEATURES                                                                     \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | \
	 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_POISON)
#define LAZY_DEVICE "/dev/userfaultfd"

static int lazy_agree(int fd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = LAZY_FEATURES};
	return (int)sys_ret(ioctl(fd, UFFDIO_API, &api));
}

/* For the memory of the caller. The device works without rights of one's own. */
static int lazy_make(int device)
{
	int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? sys_userfaultfd(O_CLOEXEC | O_NONBLOCK) : fd;
}

int lazy_check(struct ferry_error *err)
{
	_cleanup_close_ int device = fd_open(AT_FDCWD, LAZY_DEVICE, O_RDWR, 0);
	_cleanup_close_ int fd = lazy_make(device);
	int r = fd < 0 ? fd : lazy_agree(fd);
	if (r >= 0)
		return 0;
	error_errno(err, FERRY_ERROR_KERNEL_FEATURE, -r, "--lazy: making a userfaultfd that tells of events");
	error_hint(
		err,
		"this takes Linux 6.6, and CAP_SYS_PTRACE outside of any user namespace; leave --lazy out");
	return -ENOTSUP;
}

bool lazy_fits(const struct plan_task *t)
{
	vec_foreach(fd, &t->fds) {
		if (fd->file->kind == &kind_uffd)
			return false;
	}
	return true;
}

/* In the task. */
static int lazy_run(void *arguments unused, int *fds, size_t *n_fds)
{
	int fd = lazy_make(*n_fds ? fds[0] : -1);
	if (fd < 0)
		return fd;
	fds[0] = fd;
	*n_fds = 1;
	return 0;
}

int lazy_make_in(struct restore *r, const struct plan_task *t, int *ret_uffd, struct ferry_error *err)
{
	_cleanup_close_ int device = fd_open(AT_FDCWD, LAZY_DEVICE, O_RDWR, 0);
	struct opener_call call = {.run = lazy_run, .fds = {device}, .n_fds = device >= 0};
	int ret = files_call(r->opener, t, &call, err);
	if (ret >= 0)
		ret = lazy_agree(call.fds[0]);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret,
				   "making a userfaultfd for the memory of pid %d", t->pid);
	*ret_uffd = call.fds[0];
	return 0;
}

static int lazy_missing(const struct plan_task *t, struct segments *ret)
{
	int ret_code = 0;
	vec_foreach(run, &t->pour.runs) {
		bool late = run->source == PLAN_LATE;
		const struct segment g = {.start = run->vaddr,
					  .end = run->vaddr + run->nr_pages * IMAGE_PAGE_BYTES,
					  .offset = late ? run->vaddr : run->offset,
					  .source = late ? segment_late(t->pid) : run->source};
		if (ret_code >= 0)
			ret_code = segments_add(ret, &g);
	}
	return ret_code;
}

static int lazy_add(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	struct segments missing = {0};
	int ret = lazy_missing(t, &missing) < 0 ? error_memory(err) : 0;
	const struct pager_task task = {.uffd = t->pour.uffd,
					.pid = files_pid_of(r->opener, t),
					.ready = &r->shared->members[t->member].poured,
					.missing = &missing};
	if (ret >= 0)
		ret = pager_add(r->pager, &task, err);
	segments_release(&missing);
	return ret;
}

/* ------------------------------------------------------- memory that a daemon brings */

int lazy_connect(struct restore *r, int dir, struct ferry_error *err)
{
	struct sockaddr_un address;
	lazysock_address(dir, &address);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int code = errno;
		error_errno(err, FERRY_ERROR_PEER_GONE, code, "connecting to " LAZYSOCK_NAME);
		error_hint(err,
			   "start 'ferry lazy-pages' or 'criu lazy-pages' with the same directories first");
		return -code;
	}
	r->lazy_daemon = take_fd(fd);
	return 0;
}

static void lazy_put(char *at, int type, const void *data, size_t n)
{
	const struct cmsghdr head = {.cmsg_level = SOL_SOCKET, .cmsg_type = type, .cmsg_len = CMSG_LEN(n)};
	memcpy(at, &head, sizeof(head));
	memcpy(at + CMSG_LEN(0), data, n);
}

/* Its number as the image has it, then the userfaultfd; who it is the kernel says. */
static int lazy_hand(const struct restore *r, const struct plan_task *t)
{
	int32_t pid = t->pid;
	char byte = 0;
	struct iovec iov = {&byte, 1};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))] = {
		0};
	const struct ucred who = {files_pid_of(r->opener, t), geteuid(), getegid()};
	const struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	lazy_put(control, SCM_RIGHTS, &t->pour.uffd, sizeof(int));
	lazy_put(control + CMSG_SPACE(sizeof(int)), SCM_CREDENTIALS, &who, sizeof(who));
	if (send(r->lazy_daemon, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid) ||
	    sendmsg(r->lazy_daemon, &msg, MSG_NOSIGNAL) != 1)
		return -errno;
	return 0;
}

static int lazy_hand_all(const struct restore *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		if (!r->plan->tasks[i].vm_owner)
			ret = lazy_hand(r, &r->plan->tasks[i]);
	return ret < 0 ? error_errno(err, FERRY_ERROR_PEER_GONE, -ret, "handing memory to " LAZYSOCK_NAME)
		       : 0;
}

void lazy_tell_run(struct restore *r)
{
	const uint32_t word = LAZYSOCK_RUNS;
	if (r->lazy_daemon < 0)
		return;
	if (send(r->lazy_daemon, &word, sizeof(word), MSG_NOSIGNAL) < 0)
		errno = 0; /* it serves faults all the same */
	close(r->lazy_daemon);
	r->lazy_daemon = -1;
}

int lazy_start(struct restore *r, struct ferry_error *err)
{
	if (r->lazy_daemon >= 0)
		return lazy_hand_all(r, err);
	const struct pager_setup setup = {.go = &r->shared->control.go,
					  .proc = r->proc,
					  .log = r->pager_log,
					  .page_server = r->page_server,
					  .page_server_settles = r->page_server_settles};
	bool any = false;
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks; i++)
		any |= r->plan->tasks[i].pour.lazy && r->plan->tasks[i].pour.runs.n;
	if (!any)
		return 0;
	ret = pager_new(&setup, &r->pager, err);
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		if (r->plan->tasks[i].pour.lazy && r->plan->tasks[i].pour.runs.n)
			ret = lazy_add(r, &r->plan->tasks[i], err);
	/* Who has an image open has its lock, so that nobody takes pages out of it. */
	for (struct image_dir *dir = r->reader->dir; ret >= 0 && dir;) {
		ret = pager_hold(r->pager, image_dir_fd(dir), err);
		if (ret >= 0 && image_dir_parent(dir, &dir, NULL) < 0)
			break; /* nobody needs one that is missing */
	}
	if (ret < 0)
		return ret;
	fault_effect(r->fault, "restore", "start-pager");
	if (fault_hit(r->fault, FAULT_START_PAGER))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "starting the pager: fault injected");
	return pager_start(r->pager, err);
}
