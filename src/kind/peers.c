/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the look at every other process: which pipes, sockets and shared memory it holds. One walk over /proc serves all
 * questions of a job; it takes a few microseconds a descriptor, before anything stops, and a tree without pipes
 * never pays it. Mappings are looked at in a second walk, which only a tree with shared memory pays.
 *
 * Kernel interface: /proc/PID/stat, /proc/PID/fd, /proc/PID/maps (proc(5)).
 * Does not see: processes of PID namespaces that /proc does not show, descriptors that wait in a socket
 * (SCM_RIGHTS) or belong to an io_uring, tables of threads that unshared theirs. A pipe end that nobody seems
 * to hold is found out by poll(2) in the kind.
 */
#include "kind/peers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "kind/fdcommon.h"
#include "proc/lex.h"
#include "proc/read.h"

enum { PEER_TRIES = 10 };

struct peer_process {
	pid_t pid, ppid, look; /* see proc_look() */
	bool inside;
};

struct peer_path {
	uint64_t dev, ino;
	char *path;
};

struct peers {
	pid_t root;
	VEC(struct peer_path) paths;
	bool walked, walked_maps, walked_fifos;
	VEC(struct peer) held;              /* by outside processes; ordered by type and inode */
	VEC(struct peer_process) processes; /* ascending by PID */
};

struct peers *peers_new(pid_t root)
{
	struct peers *p = calloc(1, sizeof(*p));
	if (p)
		p->root = root;
	return p;
}

pid_t peers_root(const struct peers *p)
{
	return p ? p->root : 0;
}

void peers_free(struct peers *p)
{
	if (!p)
		return;
	vec_foreach(known, &p->paths)
		free(known->path);
	vec_release(&p->paths);
	vec_release(&p->held);
	vec_release(&p->processes);
	free(p);
}

static int peer_order(const void *a, const void *b)
{
	const struct peer *x = a, *y = b;
	if (x->type != y->type)
		return x->type < y->type ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* Of several who hold something the same one is named each time: who has it in memory, the first of these. */
static int peer_full_order(const void *a, const void *b)
{
	const struct peer *x = a, *y = b;
	int order = peer_order(a, b);
	if (order)
		return order;
	if ((x->fd < 0) != (y->fd < 0))
		return x->fd < 0 ? -1 : 1;
	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static int process_order(const void *a, const void *b)
{
	const struct peer_process *x = a, *y = b;
	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static int peers_processes(struct peers *p, struct ferry_error *err)
{
	struct proc_pid_list pids = {0};
	int r = proc_read_pids(&pids, err);
	vec_foreach(pid, &pids.v) {
		struct proc_stat st;
		_cleanup_close_ int dir = r < 0 ? -1 : proc_open(*pid, NULL);
		if (dir < 0 || proc_read_stat(dir, &st, NULL) < 0)
			continue; /* it ended meanwhile */
		struct peer_process *process = vec_push(&p->processes);
		if (process)
			*process = (struct peer_process){
				.pid = *pid,
				.ppid = st.ppid,
				.look = proc_stat_ended(&st) ? proc_look(*pid) : *pid,
			};
		else
			r = -ENOMEM;
	}
	proc_pid_list_release(&pids);
	return r == -ENOMEM ? error_memory(err) : r;
}

static struct peer_process *peers_process(struct peers *p, pid_t pid)
{
	struct peer_process key = {.pid = pid};
	return p->processes.n ? bsearch(&key, p->processes.v, p->processes.n, sizeof(key), process_order)
			      : NULL;
}

/* The tree is the root and everything below it. A process whose parent is inside is inside, until nothing changes. */
static void peers_mark(struct peers *p)
{
	struct peer_process *root = peers_process(p, p->root);
	if (root)
		root->inside = true;
	for (bool changed = root; changed;) {
		changed = false;
		vec_foreach(process, &p->processes) {
			const struct peer_process *parent =
				process->inside ? NULL : peers_process(p, process->ppid);
			if (parent && parent->inside)
				process->inside = changed = true;
		}
	}
}

/* Whether a link is that of a file whose name was removed. */
static bool peer_is_deleted(const char *link)
{
	static const char suffix[] = " (deleted)";
	size_t n = strlen(link);
	return link[0] == '/' && n >= sizeof(suffix) && !strcmp(link + n - sizeof(suffix) + 1, suffix);
}

/* The mount of devpts that a master belongs to: its own folder, or "pts" beside it. 0: not to be found. */
static uint64_t peer_devpts(const struct peer *peer, const char *link)
{
	static const char *const below[] = {"", "/pts"};
	for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
		char path[PATH_MAX];
		struct statfs fs;
		struct stat st;
		int n = snprintf(path, sizeof(path), "/proc/%d/root%.*s%s", peer->pid,
				 (int)(strrchr(link, '/') - link), link, below[i]);
		if (n < (int)sizeof(path) && statfs(path, &fs) == 0 && fs.f_type == DEVPTS_SUPER_MAGIC &&
		    stat(path, &st) == 0)
			return st.st_dev;
	}
	return 0;
}

/* The number of a master, as its fdinfo tells it. */
static bool peer_master(const struct peer *peer, const char *link, uint64_t *ret_number)
{
	char path[64], line[64];
	uint32_t index;
	bool found = false;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", peer->pid, peer->fd);
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		struct lex l = lex_new(line, strlen(line));
		found = lex_str(&l, "tty-index:") && lex_skip_words(&l, 0) && lex_u32(&l, &index);
	}
	if (found)
		*ret_number = peer_terminal(peer_devpts(peer, link), index);
	return found;
}

/* Either side of a pseudo terminal. */
static bool peer_parse_terminal(int dir, const char *fd, const char *link, struct peer *ret)
{
	struct stat st;
	size_t n = strlen(link);
	if (link[0] != '/' || n < 5)
		return false;
	if (!strcmp(link + n - 5, "/ptmx")) {
		ret->type = PEER_MASTER;
		return peer_master(ret, link, &ret->ino);
	}
	if (link[n - 1] < '0' || link[n - 1] > '9' || !strstr(link, "pts/") || fstatat(dir, fd, &st, 0) < 0 ||
	    !S_ISCHR(st.st_mode))
		return false;
	ret->type = PEER_TERMINAL;
	ret->ino = peer_terminal(st.st_dev, minor(st.st_rdev));
	return true;
}

/* "pipe:[123]", "socket:[123]"; "/memfd:name (deleted)" does not tell its inode. */
static bool peer_parse(int dir, const char *fd, const char *link, struct peer *ret)
{
	struct stat st;
	bool is_memory = !strncmp(link, "/memfd:", 7);
	if (is_memory || peer_is_deleted(link)) {
		ret->type = is_memory ? PEER_MEMORY : PEER_DELETED;
		ret->ino = fstatat(dir, fd, &st, 0) < 0 ? 0 : st.st_ino;
		return ret->ino;
	}
	static const char *const words[] = {[PEER_PIPE] = "pipe:[", [PEER_SOCKET] = "socket:["};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t n = strlen(words[i]);
		if (strncmp(link, words[i], n) != 0)
			continue;
		ret->type = (enum peer_type)i;
		ret->ino = strtoull(link + n, NULL, 10);
		return true;
	}
	return peer_parse_terminal(dir, fd, link, ret);
}

/* Only what asks for named pipes pays for looking at every file. */
static bool peer_parse_fifo(int dir, const char *fd, const char *link, struct peer *ret)
{
	struct stat st;
	if (link[0] != '/' || fstatat(dir, fd, &st, 0) < 0 || !S_ISFIFO(st.st_mode))
		return false;
	ret->type = PEER_FIFO;
	ret->ino = peer_fifo(st.st_dev, st.st_ino);
	return true;
}

static int peers_read_links(struct peers *p, pid_t pid,
			    bool (*parse)(int dir, const char *fd, const char *link, struct peer *ret))
{
	char link[PATH_MAX];
	snprintf(link, sizeof(link), "/proc/%d/fd", pid);
	DIR *dir = opendir(link);
	if (!dir)
		return 0; /* it ended, or is not ours to look at */
	int r = 0;
	for (struct dirent *e; r >= 0 && (e = readdir(dir));) {
		struct peer peer = {.pid = pid, .fd = (int)strtol(e->d_name, NULL, 10)};
		ssize_t n =
			e->d_name[0] == '.' ? -1 : readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		struct peer *slot = parse(dirfd(dir), e->d_name, link, &peer) ? vec_push(&p->held) : &peer;
		if (slot)
			*slot = peer;
		else
			r = -ENOMEM;
	}
	closedir(dir);
	return r;
}

static int peers_read_fds(struct peers *p, pid_t pid)
{
	return peers_read_links(p, pid, peer_parse);
}

static int peers_read_fifos(struct peers *p, pid_t pid)
{
	return peers_read_links(p, pid, peer_parse_fifo);
}

/* Whether a mapping refers to memory that others can share, and as what it is known. */
static bool peer_is_memory(const struct proc_vma *vma, enum peer_type *ret_type)
{
	bool anonymous = vma->kind == PROC_VMA_SHMEM_ANON || vma->kind == PROC_VMA_HUGETLB_ANON;
	*ret_type = vma->kind == PROC_VMA_SYSV ? PEER_SYSV : PEER_MEMORY;
	return vma->kind == PROC_VMA_MEMFD || vma->kind == PROC_VMA_SYSV || (anonymous && vma->shared);
}

static int peers_read_maps(struct peers *p, pid_t pid)
{
	struct proc_maps maps = {0};
	_cleanup_close_ int dir = proc_open(pid, NULL);
	int r = 0;
	if (dir < 0 || proc_read_maps(dir, NULL, &maps, NULL) < 0)
		return 0; /* it ended, or is not ours to look at */
	vec_foreach(vma, &maps.vmas) {
		enum peer_type type;
		if (!peer_is_memory(vma, &type))
			continue;
		struct peer *slot = r >= 0 ? vec_push(&p->held) : NULL;
		if (slot)
			*slot = (struct peer){.ino = vma->ino, .pid = pid, .fd = -1, .type = type};
		else
			r = -ENOMEM;
	}
	proc_maps_release(&maps);
	return r;
}

static int peers_walk(struct peers *p, int (*look)(struct peers *p, pid_t pid), bool *walked,
		      struct ferry_error *err)
{
	int r = *walked || p->processes.n ? 0 : peers_processes(p, err);
	if (r < 0 || *walked)
		return r;
	peers_mark(p);
	pid_t self = getpid();
	vec_foreach(process, &p->processes) {
		if (!process->inside && process->pid != self && look(p, process->look) < 0)
			return error_memory(err);
	}
	if (p->held.n)
		qsort(p->held.v, p->held.n, sizeof(*p->held.v), peer_full_order);
	*walked = true;
	return 0;
}

/* As it is now: a tree that runs may have it only since the last look at all processes. */
bool peers_is_inside(const struct peers *p, pid_t pid)
{
	bool inside = !p || pid == p->root;
	for (int tries = 0; tries < PEER_TRIES && !inside; tries++) {
		struct proc_stat st = {.ppid = pid};
		bool there = true;
		while (there && st.ppid > 0 && st.ppid != p->root) {
			_cleanup_close_ int dir = proc_open(st.ppid, NULL);
			there = dir >= 0 && proc_read_stat(dir, &st, NULL) >= 0;
		}
		inside = there && st.ppid == p->root;
		/* Somebody between the two has ended meanwhile, and its children have another parent. */
		if (there)
			break;
	}
	return inside;
}

int peers_outside(struct peers *p, enum peer_type type, uint64_t ino, struct peer *ret_peer,
		  struct ferry_error *err)
{
	if (!p)
		return 0;
	int r = peers_walk(p, peers_read_fds, &p->walked, err);
	if (r >= 0 && (type == PEER_MEMORY || type == PEER_SYSV))
		r = peers_walk(p, peers_read_maps, &p->walked_maps, err);
	if (r >= 0 && type == PEER_FIFO)
		r = peers_walk(p, peers_read_fifos, &p->walked_fifos, err);
	if (r < 0)
		return r;
	struct peer key = {.type = type, .ino = ino};
	const struct peer *found =
		p->held.n ? bsearch(&key, p->held.v, p->held.n, sizeof(key), peer_order) : NULL;
	if (!found)
		return 0;
	while (found > p->held.v && !peer_order(found - 1, found))
		found--;
	*ret_peer = *found;
	return 1;
}

static int peers_refusal(const char *who, const char *what, const struct peer *peer, struct ferry_error *err)
{
	char comm[PROC_NAME_BYTES] = "", holds[32] = "in the memory";
	_cleanup_close_ int dir = proc_open(peer->pid, NULL);
	if (dir < 0 || proc_read_comm(dir, comm, NULL) < 0)
		comm[0] = '\0';
	if (peer->fd >= 0)
		snprintf(holds, sizeof(holds), "held by fd %d", peer->fd);
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "%s: '%s' is also %s of pid %d (%s), which is outside the tree", who, what, holds,
		  peer->pid, comm);
	error_hint(
		err,
		peer->type == PEER_MEMORY || peer->type == PEER_SYSV
			? "dump from a common ancestor on: apart, each would have a memory of its own"
		: peer->type == PEER_DELETED
			? "dump from a common ancestor on: apart, each would have a file of its own"
			: "dump from a common ancestor on, or start the program with that descriptor redirected to a file");
	return -ENOTSUP;
}

int peers_refuse(const struct fd_view *view, enum peer_type type, struct ferry_error *err)
{
	return peers_refuse_number(view, type, view->stat.st_ino, err);
}

int peers_refuse_number(const struct fd_view *view, enum peer_type type, uint64_t number,
			struct ferry_error *err)
{
	struct peer peer;
	int r = peers_outside(view->peers, type, number, &peer, err);
	if (r <= 0)
		return r;
	char who[64];
	fd_view_name(view, who, sizeof(who));
	return peers_refusal(who, view->link, &peer, err);
}

int peers_refuse_mapping(const struct vma_view *view, struct ferry_error *err)
{
	struct peer peer;
	if (view->options->criu_compat)
		return 0;
	enum peer_type type;
	int r = peer_is_memory(view->vma, &type)
			? peers_outside(view->peers, type, view->vma->ino, &peer, err)
			: 0;
	if (r <= 0)
		return r;
	char who[64];
	snprintf(who, sizeof(who), "mapping %llx of pid %d", (unsigned long long)view->vma->start, view->pid);
	return peers_refusal(who, view->name, &peer, err);
}

const char *peers_path(const struct peers *p, uint64_t dev, uint64_t ino)
{
	if (!p)
		return NULL;
	vec_foreach(known, &p->paths) {
		if (known->path && known->ino == ino && known->dev == dev)
			return known->path;
	}
	return NULL;
}

int peers_keep_path(struct peers *p, uint64_t dev, uint64_t ino, const char *path)
{
	if (!p || peers_path(p, dev, ino))
		return 0;
	struct peer_path *slot = vec_push(&p->paths);
	if (!slot)
		return -ENOMEM;
	*slot = (struct peer_path){dev, ino, strdup(path)};
	return slot->path ? 0 : -ENOMEM;
}
