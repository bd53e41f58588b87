/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the process that fills memory of restored tasks while they run (ferry restore --lazy), and the guardian beside it.
 *
 * For each address space there is a userfaultfd and a list of what is missing. The rules that keep every page right:
 * - A fault is answered from the list as it is after all changes that were announced; the kernel refuses an answer (EAGAIN) as long as
 *   one is on its way, and the fault is looked at again after it. What is not in the list is a page of zeroes.
 * - What a program drops, unmaps, moves or hands on to a child is followed by events, of which each waits until it was read.
 * - Events come in the order in which they were queued, which may differ from that in which they took effect when several threads of a
 *   program change mappings at once. A range that was moved to a place is therefore not forgotten for an unmapping of that place that
 *   was announced at the same time, and a child that was made at the same time gets the list from before.
 * - Pager and guardian share one table of descriptors (CLONE_FILES), so that a userfaultfd which the kernel makes for a new child
 *   belongs to both at once, and what the other one needs to go on lies in memory that they share and in memory files of that table:
 *   the message just read (read(2) puts it straight there), and the lists as they were after the last event. Pages that were filled
 *   since are in such a list as well, and filling them again does nothing (EEXIST). When either is killed the other one forks it anew.
 * - A number in shared memory is never that of another descriptor: before it is free for one, /dev/null has it, and the entry is cleared.
 * - A page that cannot be read ends the tree.
 *
 * The pager has no lower priority than others: a fault would wait behind the piece that is being filled. Pieces are small instead, and
 * none is begun while faults wait.
 *
 * Kernel interface: userfaultfd(2) with UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE, _UNMAP (4.11), UFFDIO_COPY, UFFDIO_ZEROPAGE; EAGAIN of
 * UFFDIO_COPY (4.18); clone3(2) CLONE_FILES, pidfd_open(2) (5.3).
 * Does not handle: pager and guardian killed at the same instant, after which the kernel gives zeroes; a program that asks for
 * MADV_WIPEONFORK and forks while its memory still comes; FUTEX_WAKE_OP and FUTEX_LOCK_PI on a page that nobody has touched since,
 * for which the kernel does not wait for a userfaultfd (EFAULT); a thread that drops memory and forks at once, while the
 * pager is kept from running for the whole time in between: its child has the old contents.
 */
#include "restore/pager.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "host/latecomer.h"
#include "image/pages.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "proc/maps.h"
#include "proc/read.h"
#include "stream/pageserver_wire.h"

enum {
	PAGER_MEMORIES = 8192,
	PAGER_PAGE = (int)IMAGE_PAGE_BYTES,
	PAGER_AROUND = 16 * PAGER_PAGE, /* what a fault brings at least, */
	PAGER_AROUND_MOST = 1 << 20,    /* and at most */
	PAGER_PIECE = 256 << 10,        /* of what nobody asked for */
	PAGER_MESSAGES = 64,            /* that are read in a row */
	PAGER_SETTLE_TRIES = 100,
	PAGER_LOOK_NS = 20000000,
	PAGER_RETRY_NS = 50000,
	PAGER_UNREADABLE_NS = 20000000,
};
#define PAGER_LOWEST 0x10000ull
#define PAGER_HIGHEST 0x7ffffffff000ull

/* Of one address space, shared by pager and guardian. */
struct pager_memory {
	uint64_t list; /* serial number of the last event << 32 | descriptor of the list + 1 */
	int32_t uffd;  /* + 1; 0 = not in use. Set last. */
	int32_t name;  /* a socket by which it is found, + 1 */
	uint32_t batch;
	const uint32_t *ready; /* NULL: it always is */
};

struct pager {
	struct pager_setup setup;
	struct uffd_msg message; /* where the one that is being read lands */
	uint32_t from;           /* index of the memory it comes from, + 1; 0 = none is being read */
	int null;                /* takes the place of descriptors that are given up */
	uint32_t serial;         /* of the event */
	uint32_t over;           /* all is there */
	uint32_t broken;         /* pages could not be read */
	uint32_t asking;         /* the page server answers: where in its answer we are nobody else knows */
	uint32_t settled;        /* its tasks do not go on by themselves any more */
	uint64_t left;
	uint32_t n; /* memories[] that were ever in use */
	VEC(int)
	kept; /* descriptors that the pager works with, in the memory of who made it and the first pager */
	VEC(int) own; /* those of them that are nobody else's there */
	uint32_t n_tasks;
	pid_t pids[PAGER_MEMORIES]; /* of the tasks that the tree began with */
	int pidfds[PAGER_MEMORIES];
	struct pager_memory memories[PAGER_MEMORIES];
};

/* What the pager itself has of an address space. */
struct pager_view {
	struct segments missing;
	struct segments before; /* while events wait for each other: as it was before them */
	bool in_batch;
	uint64_t next;  /* where the last fault's pages ended, */
	uint64_t bytes; /* and how much it brought */
};

struct pager_fault {
	uint32_t memory;
	uint64_t address;
};

struct pager_work {
	struct pager *p;
	int peer; /* pidfd of the guardian */
	char *buffer;
	struct pager_view *views;
	VEC(struct pager_fault) faults; /* to be answered */
	uint32_t at;                    /* memory that is filled */
	uint64_t address;               /* where in it */
};

static __attribute__((noreturn)) void pager_main(struct pager *p, int peer);
static __attribute__((noreturn)) void pager_guard(struct pager *p, int peer);

/* ---------------------------------------------------------------- lists in memory files */

static int pager_publish(struct pager_memory *m, const struct segments *s, uint32_t serial)
{
	int fd = memfd_create("ferry-pager", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, s->v, s->n * sizeof(*s->v));
	if (r < 0) {
		close(fd);
		return r;
	}
	uint64_t before =
		__atomic_exchange_n(&m->list, (uint64_t)serial << 32 | (uint32_t)(fd + 1), __ATOMIC_SEQ_CST);
	if ((uint32_t)before)
		close((int)(uint32_t)before - 1);
	return 0;
}

static int pager_load(const struct pager_memory *m, struct segments *ret)
{
	char *bytes;
	size_t n;
	int fd = (int)(uint32_t)m->list - 1;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	int r = fd_read_whole(fd, SIZE_MAX / 2, &bytes, &n);
	if (r < 0)
		return r;
	*ret = (struct segments){.v = (struct segment *)(void *)bytes,
				 .n = n / sizeof(struct segment),
				 .cap = n / sizeof(struct segment)};
	return 0;
}

/* ---------------------------------------------------------------------- who made it */

int pager_new(const struct pager_setup *setup, struct pager **ret, struct ferry_error *err)
{
	struct pager *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return error_memory(err);
	p->setup = *setup;
	*ret = p;
	return 0;
}

void pager_free(struct pager *p)
{
	if (!p)
		return;
	vec_foreach(fd, &p->own)
		close(*fd);
	vec_release(&p->own);
	vec_release(&p->kept);
	munmap(p, sizeof(*p));
}

bool pager_is_over(const struct pager *p)
{
	return __atomic_load_n(&p->over, __ATOMIC_SEQ_CST) || pager_is_broken(p);
}

bool pager_is_broken(const struct pager *p)
{
	return __atomic_load_n(&p->broken, __ATOMIC_SEQ_CST);
}

uint64_t pager_left(const struct pager *p)
{
	return p ? __atomic_load_n(&p->left, __ATOMIC_SEQ_CST) : 0;
}

static int pager_keep(struct pager *p, int fd)
{
	int *slot = fd < 0 ? NULL : vec_push(&p->kept);
	if (slot)
		*slot = fd;
	return slot || fd < 0 ? 0 : -ENOMEM;
}

int pager_hold(struct pager *p, int fd, struct ferry_error *err)
{
	return pager_keep(p, fd) < 0 ? error_memory(err) : 0;
}

static int pager_own(struct pager *p, int fd)
{
	int *slot = fd < 0 ? NULL : vec_push(&p->own);
	if (slot)
		*slot = fd;
	else if (fd >= 0)
		close(fd);
	return slot || fd < 0 ? pager_keep(p, fd) : -ENOMEM;
}

static int pager_keep_memory(struct pager *p, const struct pager_memory *m, const struct segments *missing)
{
	int r = pager_keep(p, m->uffd - 1);
	if (r >= 0)
		r = pager_own(p, m->name - 1);
	if (r >= 0)
		r = pager_own(p, (int)(uint32_t)m->list - 1);
	for (size_t i = 0; i < missing->n && r >= 0; i++)
		if (!i || missing->v[i].source != missing->v[i - 1].source)
			r = pager_keep(p, missing->v[i].source);
	return r;
}

int pager_add(struct pager *p, const struct pager_task *task, struct ferry_error *err)
{
	if (p->n == PAGER_MEMORIES)
		return error_set(err, FERRY_ERROR_LIMIT, EMFILE, "more than %d processes are filled lazily",
				 PAGER_MEMORIES);
	struct pager_memory *m = &p->memories[p->n];
	int r = pager_publish(m, task->missing, 0);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing down what pid %d lacks", task->pid);
	p->n++;
	m->ready = task->ready;
	/* Without a name it works as well; a dump of the task is refused later then. */
	m->name = latecomer_name(task->pid) + 1;
	m->uffd = task->uffd + 1;
	p->left += segments_bytes(task->missing);
	int pidfd = sys_pidfd_open(task->pid, 0);
	if (pidfd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -pidfd, "opening pid %d", task->pid);
	p->pids[p->n_tasks] = task->pid;
	p->pidfds[p->n_tasks++] = pidfd;
	if (pager_own(p, pidfd) < 0 || pager_keep_memory(p, m, task->missing) < 0)
		return error_memory(err);
	return 0;
}

static int pager_compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static bool pager_is_within(const void *at, const struct proc_vma *vma)
{
	return (uintptr_t)at >= vma->start && (uintptr_t)at < vma->end;
}

/* Memory that belongs to tasks, which would count us among those who have it. */
static int pager_forget_shared(const struct pager *p)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	int r = proc_read_own_maps(&maps, NULL);
	vec_foreach(vma, &maps.vmas) {
		if (r < 0 || !vma->shared || pager_is_within(p, vma) || pager_is_within(p->setup.go, vma))
			continue;
		if (munmap((void *)(uintptr_t)vma->start, vma->end - vma->start) < 0)
			r = -errno;
	}
	return r;
}

/* The pager, while it still is a fork of ferry: nothing stays but what it works with. */
static int pager_detach(struct pager *p)
{
	bool taken[3] = {false};
	setsid();
	qsort(p->kept.v, p->kept.n, sizeof(*p->kept.v), pager_compare);
	vec_foreach(fd, &p->kept) {
		if (*fd < 3)
			taken[*fd] = true;
	}
	for (int i = 0; i < 3; i++)
		if (!taken[i] && dup2(p->null, i) < 0)
			return -errno;
	fd_close_others(3, p->kept.v, p->kept.n);
	if (chdir("/") < 0)
		return -errno;
	int r = pager_forget_shared(p);
	if (r < 0)
		return r;
	/* Who forks whom anew does not wait for the one before. */
	signal(SIGCHLD, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, 0);
	/* The last to go when memory is short; it may not be allowed. */
	_cleanup_close_ int oom = fd_open(AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY, 0);
	if (oom >= 0 && fd_write_all(oom, "-1000", 5) < 0)
		errno = 0;
	/* What the kernel writes there, it writes even if we are killed meanwhile. */
	if (mlock(p, sizeof(*p)) < 0)
		errno = 0;
	return 0;
}

/* Fork the other one of the two. Returns its pidfd, or -errno. */
static int pager_fork(struct pager *p, void (*run)(struct pager *p, int peer))
{
	int self = sys_pidfd_open(getpid(), 0), other = -1;
	struct kern_clone_args args = {
		.flags = CLONE_FILES | CLONE_PIDFD,
		.pidfd = (uintptr_t)&other,
		.exit_signal = SIGCHLD,
	};
	if (self < 0)
		return self;
	pid_t pid = sys_clone3(&args);
	if (!pid)
		run(p, self);
	if (pid < 0)
		close(self);
	return pid < 0 ? pid : other;
}

int pager_start(struct pager *p, struct ferry_error *err)
{
	int ends[2], r = 0;
	char up;
	p->null = fd_open(AT_FDCWD, "/dev/null", O_RDWR, 0);
	if (p->null < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -p->null, "opening '/dev/null'");
	if (pager_own(p, p->null) < 0 || pager_keep(p, p->setup.page_server) < 0 ||
	    pager_keep(p, p->setup.proc) < 0 || pager_keep(p, p->setup.log) < 0)
		return error_memory(err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe to the pager");
	_cleanup_close_ int from = ends[0];
	r = pager_keep(p, ends[1]);
	pid_t pid = r < 0 ? r : fork();
	if (!pid) {
		r = pager_detach(p);
		int peer = r < 0 ? r : pager_fork(p, pager_guard);
		if (peer < 0 || fd_write_all(ends[1], "u", 1) < 0)
			_exit(1);
		close(ends[1]);
		pager_main(p, peer);
	}
	int code = errno;
	close(ends[1]);
	if (pid < 0 || fd_read_all(from, &up, 1) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, pid < 0 ? code : ECHILD, "starting the pager");
	return 0;
}

/* ---------------------------------------------------------------- what happens to the tree */

static const struct pager_memory *pager_memory(const struct pager_work *w, uint32_t i)
{
	return &w->p->memories[i];
}

static bool pager_is_used(const struct pager_work *w, uint32_t i)
{
	return w->p->memories[i].uffd;
}

static bool pager_is_ready(const struct pager_memory *m)
{
	return !m->ready || __atomic_load_n(m->ready, __ATOMIC_SEQ_CST);
}

/* Nothing is protected: it tells -ENOENT, -EAGAIN while mappings change, and -ESRCH when the memory is gone. */
static int pager_probe(const struct pager_memory *m)
{
	struct uffdio_writeprotect none = {.range = {PAGER_LOWEST, PAGER_PAGE}};
	return (int)sys_ret(ioctl(m->uffd - 1, UFFDIO_WRITEPROTECT, &none));
}

/* Whoever takes over has to see what a number still stands for; that of a descriptor that is closed may be another's by then. */
static void pager_make_void(const struct pager *p, int fd)
{
	if (dup3(p->null, fd, O_CLOEXEC) < 0)
		_exit(1);
}

static bool pager_is_void(const struct pager_memory *m)
{
	return m->uffd && pager_probe(m) == -ENOTTY;
}

/* What the entry of a memory that was given up still has; in such an order that it can be begun anew. */
static void pager_clear(struct pager_memory *m)
{
	int list = (int)(uint32_t)m->list - 1, name = m->name - 1, uffd = m->uffd - 1;
	__atomic_store_n(&m->list, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&m->name, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&m->uffd, 0, __ATOMIC_SEQ_CST);
	if (list >= 0)
		close(list);
	if (name >= 0)
		close(name);
	close(uffd);
}

/* This memory lacks nothing any more, or is gone. */
static void pager_drop(struct pager_work *w, uint32_t i)
{
	struct pager_memory *m = &w->p->memories[i];
	struct pager_view *v = &w->views[i];
	pager_make_void(w->p, m->uffd - 1);
	pager_clear(m);
	segments_release(&v->missing);
	segments_release(&v->before);
	*v = (struct pager_view){0};
	for (size_t n = 0; n < w->faults.n; n++)
		if (w->faults.v[n].memory == i)
			w->faults.v[n--] = w->faults.v[--w->faults.n];
}

/* Memory is short; the other one forks us anew, which begins with what both know. */
static void pager_must(int r)
{
	if (r < 0)
		_exit(1);
}

static bool pager_is_changed(const struct pager *p, const struct pager_memory *m)
{
	return (uint32_t)(m->list >> 32) == p->serial;
}

/* Events begin to wait for each other, or go on to. */
static void pager_enter_batch(struct pager_work *w, uint32_t i)
{
	struct pager_view *v = &w->views[i];
	if (v->in_batch)
		return;
	pager_must(segments_copy(&v->missing, &v->before));
	v->in_batch = true;
	w->p->memories[i].batch++;
}

static void pager_leave_batch(struct pager_work *w, uint32_t i)
{
	segments_release(&w->views[i].before);
	w->views[i].in_batch = false;
}

/* Whether all changes that were announced have taken effect. */
static bool pager_settle(struct pager_work *w, uint32_t i)
{
	int r = w->views[i].in_batch ? pager_probe(pager_memory(w, i)) : 0;
	if (r == -EAGAIN)
		return false;
	if (w->views[i].in_batch)
		pager_leave_batch(w, i);
	return true;
}

static void pager_cut(struct pager_work *w, uint32_t i, uint64_t start, uint64_t end, bool moved_too)
{
	struct pager_memory *m = &w->p->memories[i];
	struct segments *s = &w->views[i].missing;
	if (pager_is_changed(w->p, m))
		return;
	pager_enter_batch(w, i);
	pager_must(segments_cut(s, start, end, moved_too ? 0 : m->batch));
	pager_must(pager_publish(m, s, w->p->serial));
}

static void pager_move(struct pager_work *w, uint32_t i, uint64_t from, uint64_t to, uint64_t bytes)
{
	struct pager_memory *m = &w->p->memories[i];
	struct segments *s = &w->views[i].missing;
	if (pager_is_changed(w->p, m))
		return;
	pager_enter_batch(w, i);
	pager_must(segments_move(s, from, to, bytes, m->batch));
	pager_must(pager_publish(m, s, w->p->serial));
}

static bool pager_knows(const struct pager *p, int uffd)
{
	for (uint32_t i = 0; i < p->n; i++)
		if (p->memories[i].uffd == uffd + 1)
			return true;
	return false;
}

static uint32_t pager_free_slot(const struct pager *p)
{
	uint32_t i = 0;
	while (i < p->n && p->memories[i].uffd)
		i++;
	return i;
}

static void pager_fork_memory(struct pager_work *w, uint32_t parent, int uffd)
{
	struct pager *p = w->p;
	struct pager_view *v = &w->views[parent], *child;
	uint32_t i = pager_free_slot(p);
	struct pager_memory *m = &p->memories[i];
	if (pager_knows(p, uffd))
		return;
	/* What is there already is found out. */
	child = &w->views[i];
	segments_release(&child->missing);
	pager_must(v->in_batch ? segments_blend(&v->missing, &v->before, &child->missing)
			       : segments_copy(&v->missing, &child->missing));
	m->ready = NULL;
	m->batch = p->memories[parent].batch;
	pager_must(pager_publish(m, &child->missing, p->serial));
	if (i == p->n)
		p->n++;
	__atomic_store_n(&m->uffd, uffd + 1, __ATOMIC_SEQ_CST);
}

static void pager_add_fault(struct pager_work *w, uint32_t i, uint64_t address)
{
	struct pager_fault *f = vec_push(&w->faults);
	pager_must(f ? 0 : -ENOMEM);
	*f = (struct pager_fault){i, address / PAGER_PAGE * PAGER_PAGE};
}

static void pager_handle(struct pager_work *w, uint32_t i, const struct uffd_msg *msg)
{
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT: pager_add_fault(w, i, msg->arg.pagefault.address); break;
	case UFFD_EVENT_FORK: pager_fork_memory(w, i, (int)msg->arg.fork.ufd); break;
	case UFFD_EVENT_REMAP:
		pager_move(w, i, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE: pager_cut(w, i, msg->arg.remove.start, msg->arg.remove.end, true); break;
	case UFFD_EVENT_UNMAP: pager_cut(w, i, msg->arg.remove.start, msg->arg.remove.end, false); break;
	default: break;
	}
}

/* One message. 0: there is none. */
static int pager_read(struct pager_work *w, uint32_t i)
{
	struct pager *p = w->p;
	/* No place for a child. Places become free as memories are filled. */
	if (pager_free_slot(p) == PAGER_MEMORIES)
		return 0;
	p->message.event = 0;
	p->serial++;
	__atomic_store_n(&p->from, i + 1, __ATOMIC_SEQ_CST);
	ssize_t n = read(p->memories[i].uffd - 1, &p->message, sizeof(p->message));
	if (n == (ssize_t)sizeof(p->message))
		pager_handle(w, i, &p->message);
	bool is_event = n > 0 && p->message.event != UFFD_EVENT_PAGEFAULT;
	__atomic_store_n(&p->from, 0, __ATOMIC_SEQ_CST);
	/* Between two changes of one thread there is a moment without any: look for it. */
	for (int tries = 0; is_event && tries < PAGER_SETTLE_TRIES && !pager_settle(w, i); tries++)
		continue;
	return n == (ssize_t)sizeof(p->message);
}

static bool pager_drain(struct pager_work *w, uint32_t i)
{
	int n = 0;
	while (n < PAGER_MESSAGES && pager_read(w, i))
		n++;
	return n;
}

/* ------------------------------------------------------------------ pages that cannot be read */

static pid_t pager_parent_of(int proc, const char *pid)
{
	struct proc_stat st;
	_cleanup_close_ int dir = fd_open(proc, pid, O_RDONLY | O_DIRECTORY, 0);
	return dir >= 0 && proc_read_stat(dir, &st, NULL) >= 0 ? st.ppid : 0;
}

/* Kill the children of who is in the list, and enter them into it. */
static void pager_kill_children(const struct pager *p, pid_t *list, size_t *n, size_t room)
{
	int fd = fd_open(p->setup.proc, ".", O_RDONLY | O_DIRECTORY, 0);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *d;
	while (dir && (d = readdir(dir))) {
		pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
		pid_t parent = pid > 0 ? pager_parent_of(p->setup.proc, d->d_name) : 0;
		bool known = false, child = false;
		for (size_t i = 0; i < *n; i++) {
			known |= list[i] == pid;
			child |= list[i] == parent;
		}
		if (!child || known || *n == room)
			continue;
		kill(pid, SIGKILL);
		list[(*n)++] = pid;
	}
	if (dir)
		closedir(dir);
}

/* Children first, for they have other parents when theirs are dead. */
static void pager_kill_tree(const struct pager *p)
{
	_cleanup_free_ pid_t *list = calloc(PAGER_MEMORIES, sizeof(*list));
	size_t n = 0, before = 0;
	for (uint32_t i = 0; i < p->n_tasks && list; i++)
		if (sys_pidfd_send_signal(p->pidfds[i], 0, NULL, 0) == 0)
			list[n++] = p->pids[i];
	while (list && before != n) {
		before = n;
		pager_kill_children(p, list, &n, PAGER_MEMORIES);
	}
	for (uint32_t i = 0; i < p->n_tasks; i++)
		if (sys_pidfd_send_signal(p->pidfds[i], SIGKILL, NULL, 0) < 0)
			errno = 0; /* it has ended */
}

void pager_abandon(struct pager *p)
{
	if (!__atomic_exchange_n(&p->broken, 1, __ATOMIC_SEQ_CST))
		pager_kill_tree(p);
}

static void pager_give_up(struct pager *p, const struct segment *g, int error)
{
	char line[200];
	bool late = p->setup.page_server >= 0;
	if (__atomic_exchange_n(&p->broken, 1, __ATOMIC_SEQ_CST))
		return;
	int n = snprintf(
		line, sizeof(line),
		"ferry-pager: memory at %llx cannot be read from the %s (%s): the tree is killed%s\n",
		(unsigned long long)g->start, late ? "page server" : "image", strerror(-error),
		late ? ", and goes on where it was dumped" : "");
	/* Who has its memory is to know at once. */
	if (late)
		shutdown(p->setup.page_server, SHUT_RDWR);
	if (p->setup.log >= 0 && fd_write_all(p->setup.log, line, (size_t)n) < 0)
		errno = 0;
	syslog(LOG_DAEMON | LOG_ERR, "%.*s", n - 1, line);
	pager_kill_tree(p);
}

/* -------------------------------------------------------------------------------- pages */

static void pager_wake(const struct pager_memory *m, uint64_t start, uint64_t bytes)
{
	struct uffdio_range range = {start, bytes};
	if (ioctl(m->uffd - 1, UFFDIO_WAKE, &range) < 0)
		errno = 0; /* it is gone */
}

/*
 * Pages that are there already stay. *done: how many bytes are settled. What crosses the border of a mapping the kernel does not take
 * (ENOENT), so that only a single page tells that there is none.
 */
static int pager_copy(const struct pager_memory *m, uint64_t to, const char *from, uint64_t bytes,
		      uint64_t *done)
{
	uint64_t most = bytes;
	*done = 0;
	while (*done < bytes) {
		struct uffdio_copy copy = {
			.dst = to + *done, .src = (uintptr_t)from + *done, .len = MIN(most, bytes - *done)};
		int r = (int)sys_ret(ioctl(m->uffd - 1, UFFDIO_COPY, &copy));
		if (r >= 0) {
			*done += copy.len;
			most = copy.len * 2;
		} else if (r == -EAGAIN && copy.copy > 0) {
			*done += (uint64_t)copy.copy;
		} else if (r == -EEXIST) {
			*done += PAGER_PAGE;
		} else if (r == -ENOENT && copy.len > PAGER_PAGE) {
			most = align_up(copy.len / 2, PAGER_PAGE);
		} else {
			return r;
		}
	}
	return 0;
}

static int pager_zero(const struct pager_memory *m, uint64_t address)
{
	struct uffdio_zeropage zero = {.range = {address, PAGER_PAGE}};
	int r = (int)sys_ret(ioctl(m->uffd - 1, UFFDIO_ZEROPAGE, &zero));
	if (r == -EEXIST || r == -ENOENT)
		pager_wake(m, address, PAGER_PAGE);
	return r == -EEXIST || r == -ENOENT ? 0 : r;
}

/* In a child: either the file's bytes or zeroes are right, and nobody knows which. */
static int pager_poison(const struct pager_memory *m, uint64_t start, uint64_t *done)
{
	struct uffdio_poison poison = {.range = {start, PAGER_PAGE}};
	int r = (int)sys_ret(ioctl(m->uffd - 1, UFFDIO_POISON, &poison));
	*done = r >= 0 || r == -EEXIST ? PAGER_PAGE : 0;
	return *done ? 0 : r;
}

/* One question and its answer. No page at all: nothing more is wanted. */
static int pager_ask(struct pager *p, int32_t id, uint64_t at, char *to, uint64_t bytes)
{
	int fd = p->setup.page_server;
	struct pageserver_head answer, head = {
					       .command = PAGESERVER_GET,
					       .nr_pages = bytes / PAGER_PAGE,
					       .vaddr = at,
					       .memory = (uint64_t)id,
				       };
	__atomic_store_n(&p->asking, 1, __ATOMIC_SEQ_CST);
	ssize_t sent = send(fd, &head, sizeof(head), MSG_NOSIGNAL);
	int r = sent == (ssize_t)sizeof(head) ? fd_read_all(fd, &answer, sizeof(answer))
		: sent < 0                    ? -errno
					      : -EPIPE;
	if (r >= 0 &&
	    (answer.command != (PAGESERVER_ADD_F | IMAGE_PE_PRESENT << PAGESERVER_FLAGS_SHIFT) ||
	     answer.nr_pages != head.nr_pages || answer.vaddr != head.vaddr || answer.memory != head.memory))
		r = -EPROTO;
	if (r >= 0)
		r = fd_read_all(fd, to, bytes);
	if (r < 0)
		return r == -EAGAIN ? -ETIMEDOUT : r == -ENODATA ? -ECONNRESET : r;
	p->settled |= p->setup.page_server_settles && answer.padding == PAGESERVER_SETTLED;
	__atomic_store_n(&p->asking, 0, __ATOMIC_SEQ_CST);
	return 0;
}

/* Nothing is missing any more. Until the tasks that had it cannot go on by themselves, ours may be the second copy. */
static void pager_part(struct pager *p)
{
	const struct pageserver_head head = {.command = PAGESERVER_CLOSE};
	const struct segment all = {0};
	int32_t status;
	int fd = p->setup.page_server;
	/* If the tree never ran, its memory stays where it is. */
	if (fd < 0 || p->broken || !__atomic_load_n(p->setup.go, __ATOMIC_SEQ_CST))
		return;
	int r = p->setup.page_server_settles && !p->settled ? pager_ask(p, 0, 0, NULL, 0) : 0;
	if (r < 0) {
		pager_give_up(p, &all, r);
		return;
	}
	/* Both know what they need to; the answer is only waited for so that the other side hears the question. */
	if (send(fd, &head, sizeof(head), MSG_NOSIGNAL) < 0 || fd_read_all(fd, &status, sizeof(status)) < 0)
		errno = 0;
}

static int pager_bring(struct pager_work *w, const struct pager_memory *m, const struct segment *g,
		       uint64_t start, uint64_t end, uint64_t *done)
{
	*done = 0;
	if (g->source == SEGMENT_UNKNOWN)
		return pager_poison(m, start, done);
	uint64_t offset = g->offset + (start - g->start);
	int r = segment_late_id(g) ? pager_ask(w->p, segment_late_id(g), offset, w->buffer, end - start)
				   : fd_pread_all(g->source, w->buffer, end - start, offset);
	if (r >= 0)
		return pager_copy(m, start, w->buffer, end - start, done);
	pager_give_up(w->p, g, r);
	return -EIO;
}

/* Fill a part of a segment. 0 when nothing of it is missing any more. */
static int pager_fill(struct pager_work *w, uint32_t i, const struct segment *of, uint64_t start,
		      uint64_t end)
{
	const struct segment g = *of;
	const struct pager_memory *m = pager_memory(w, i);
	uint64_t done;
	int r = pager_bring(w, m, &g, start, end, &done);
	/* It is refused while a change is on its way. */
	if (done && w->views[i].in_batch)
		pager_leave_batch(w, i);
	/* Not mapped, or not ours any more, and no change of mappings is on its way that would say where it is now. */
	if (r == -ENOENT) {
		int probe = pager_probe(m);
		struct pollfd events = {.fd = m->uffd - 1, .events = POLLIN};
		if (probe == -ENOENT && poll(&events, 1, 0) == 0 && !w->views[i].in_batch) {
			done += PAGER_PAGE;
			r = 0;
		} else {
			r = probe == -ESRCH ? probe : -EAGAIN;
		}
	}
	pager_must(segments_cut(&w->views[i].missing, start, start + done, 0));
	__atomic_sub_fetch(&w->p->left, MIN(done, w->p->left), __ATOMIC_SEQ_CST);
	return r;
}

static int pager_answer(struct pager_work *w, uint32_t i, uint64_t address)
{
	struct pager_view *v = &w->views[i];
	const struct pager_memory *m = pager_memory(w, i);
	const struct segment *g = segments_at(&v->missing, address);
	if (!g)
		return pager_zero(m, address);
	v->bytes = v->next == address && v->bytes ? MIN(v->bytes * 2, (uint64_t)PAGER_AROUND_MOST)
						  : PAGER_AROUND;
	uint64_t start = address / v->bytes * v->bytes;
	/* Who goes through memory upwards does not come back for what is below. */
	if (v->bytes > PAGER_AROUND)
		start = address;
	uint64_t end = MIN(start + v->bytes, g->end);
	start = MAX(start, g->start);
	w->at = i;
	w->address = v->next = end;
	int r = pager_fill(w, i, g, start, end);
	/* It may have been there already. */
	if (r >= 0)
		pager_wake(m, start, end - start);
	return r;
}

/* What cannot be answered yet stays. */
static bool pager_answer_all(struct pager_work *w)
{
	bool any = false;
	for (size_t n = 0; n < w->faults.n;) {
		struct pager_fault f = w->faults.v[n];
		int r = pager_answer(w, f.memory, f.address);
		if (r == -ESRCH) {
			pager_drop(w, f.memory);
			any = true;
			n = 0;
			continue;
		}
		if (r < 0) {
			n++;
			continue;
		}
		any = true;
		w->faults.v[n] = w->faults.v[--w->faults.n];
	}
	return any;
}

/* The next piece that nobody asked for. False: there is none. */
static bool pager_fill_on(struct pager_work *w)
{
	struct pager *p = w->p;
	for (uint32_t tries = 0; tries <= p->n; tries++, w->at++, w->address = 0) {
		w->at = w->at < p->n ? w->at : 0;
		struct pager_view *v = &w->views[w->at];
		if (!pager_is_used(w, w->at) || !v->missing.n || !pager_is_ready(pager_memory(w, w->at)))
			continue;
		size_t i = segments_find(&v->missing, w->address);
		const struct segment *g = &v->missing.v[i < v->missing.n ? i : 0];
		uint64_t start = MAX(g->start, i < v->missing.n ? w->address : 0);
		uint64_t end = MIN(g->end, start / PAGER_PIECE * PAGER_PIECE + PAGER_PIECE);
		int r = pager_fill(w, w->at, g, start, end);
		w->address = end;
		if (r == -ESRCH)
			pager_drop(w, w->at);
		if (r == -EAGAIN || r == -ENOMEM)
			continue;
		return true;
	}
	return false;
}

/* --------------------------------------------------------------------- the two processes */

/* Memories that lack nothing, or are gone. Returns how many are left. */
static uint32_t pager_look(struct pager_work *w, bool probe)
{
	uint32_t left = 0;
	for (uint32_t i = 0; i < w->p->n; i++) {
		if (!pager_is_used(w, i))
			continue;
		const struct pager_memory *m = pager_memory(w, i);
		bool full = !w->views[i].missing.n && pager_is_ready(m) && !pager_drain(w, i) &&
			    pager_settle(w, i) && !w->views[i].missing.n;
		if ((full && pager_probe(m) != -EAGAIN) || (probe && pager_probe(m) == -ESRCH))
			pager_drop(w, i);
		else
			left++;
	}
	return left;
}

/* Wait for messages, and read them. Returns whether there were any. */
static bool pager_wait(struct pager_work *w, struct pollfd *polled, int64_t ns)
{
	struct timespec wait = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	nfds_t n = 0;
	bool any = false;
	for (uint32_t i = 0; i < w->p->n; i++)
		polled[n++] = (struct pollfd){.fd = w->p->memories[i].uffd - 1, .events = POLLIN};
	polled[n++] = (struct pollfd){.fd = w->peer, .events = POLLIN};
	if (ppoll(polled, n, &wait, NULL) <= 0)
		return false;
	if (polled[n - 1].revents) {
		close(w->peer);
		w->peer = pager_fork(w->p, pager_guard);
		pager_must(w->peer);
	}
	for (uint32_t i = 0; i + 1 < n; i++)
		if (polled[i].fd >= 0 && polled[i].revents)
			any |= pager_drain(w, i);
	return any;
}

/* What the one before us left: all lists, perhaps a message, and threads that wait for an answer to what only it had read. */
static void pager_take_over(struct pager_work *w)
{
	struct pager *p = w->p;
	p->left = 0;
	for (uint32_t i = 0; i < p->n; i++) {
		struct pager_memory *m = &p->memories[i];
		if (pager_is_void(m))
			pager_clear(m);
		if (!m->uffd)
			continue;
		pager_must(pager_load(m, &w->views[i].missing));
		p->left += segments_bytes(&w->views[i].missing);
	}
	if (p->from && p->message.event && p->message.event != UFFD_EVENT_PAGEFAULT &&
	    p->memories[p->from - 1].uffd)
		pager_handle(w, p->from - 1, &p->message);
	p->from = 0;
	for (uint32_t i = 0; i < p->n; i++)
		if (p->memories[i].uffd)
			pager_wake(&p->memories[i], PAGER_LOWEST, PAGER_HIGHEST - PAGER_LOWEST);
}

static uint64_t pager_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void pager_serve(struct pager_work *w, struct pollfd *polled)
{
	uint64_t looked = 0;
	bool more = true;
	for (;;) {
		bool go = __atomic_load_n(w->p->setup.go, __ATOMIC_SEQ_CST) && !w->p->broken;
		int64_t ns = w->p->broken  ? PAGER_UNREADABLE_NS
			     : w->faults.n ? PAGER_RETRY_NS
			     : go && more  ? 0
					   : PAGER_LOOK_NS;
		bool asked = pager_wait(w, polled, ns);
		asked |= pager_answer_all(w);
		/* While mappings change nothing can be filled. */
		more = asked || (go && pager_fill_on(w));
		uint64_t now = pager_now_ns();
		bool probe = now - looked >= PAGER_LOOK_NS;
		if (!more || probe) {
			looked = probe ? now : looked;
			if (!pager_look(w, probe))
				return;
		}
		if (go && !asked)
			sched_yield();
	}
}

static void pager_main(struct pager *p, int peer)
{
	struct pager_work w = {.p = p, .peer = peer};
	prctl(PR_SET_NAME, "ferry-pager");
	w.buffer = malloc(PAGER_AROUND_MOST);
	w.views = calloc(PAGER_MEMORIES, sizeof(*w.views));
	struct pollfd *polled = calloc(PAGER_MEMORIES + 1, sizeof(*polled));
	pager_must(w.buffer && w.views && polled ? 0 : -ENOMEM);
	pager_take_over(&w);
	if (p->asking && !p->broken)
		pager_give_up(p, &(struct segment){0}, -EPIPE);
	pager_serve(&w, polled);
	pager_part(p);
	__atomic_store_n(&p->over, 1, __ATOMIC_SEQ_CST);
	_exit(0);
}

static void pager_guard(struct pager *p, int peer)
{
	prctl(PR_SET_NAME, "ferry-guardian");
	for (;;) {
		struct pollfd polled = {.fd = peer, .events = POLLIN};
		if (poll(&polled, 1, -1) <= 0)
			continue;
		if (__atomic_load_n(&p->over, __ATOMIC_SEQ_CST))
			_exit(0);
		int next = pager_fork(p, pager_main);
		if (next < 0) {
			const struct timespec pause = {.tv_nsec = PAGER_LOOK_NS};
			nanosleep(&pause, NULL);
			continue;
		}
		close(peer);
		peer = next;
	}
}
