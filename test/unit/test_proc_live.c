/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading /proc of children that hold known things: what src/proc reports is compared with what was made, with
 * fstat(2) and the like, or with another interface of the kernel. Needs root.
 */
#include "unit.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fanotify.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

/* Working folder of the tests, theirs alone. */
static char folder[] = "/tmp/ferry-proc-XXXXXX";

static int folder_make(unused void **state)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return mkdtemp(folder) && !chdir(folder) ? 0 : -1;
}

static int folder_remove(unused void **state)
{
	return chdir("/") < 0 || rmdir(folder) < 0 ? -1 : 0;
}

struct child {
	pid_t pid;
	int dirfd;
};

/* fork(2) for a child that ends with its parent, however early that is. */
static pid_t fork_with_parent(void)
{
	pid_t parent = getpid(), pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	return 0;
}

/* Start a child that runs setup and then waits for its end; setup has run when this returns. */
static struct child child_start(void (*setup)(void *arg), void *arg)
{
	int ready[2];
	char byte = 0;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork_with_parent();
	if (!pid) {
		setup(arg);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	int dirfd = proc_open(pid, NULL);
	assert_true(dirfd >= 0);
	return (struct child){pid, dirfd};
}

static void child_end(struct child *c)
{
	kill(c->pid, SIGKILL);
	assert_int_equal(waitpid(c->pid, NULL, 0), c->pid);
	/* its children come to us and end too */
	while (waitpid(-1, NULL, 0) > 0)
		;
	close(c->dirfd);
}

/* In children: there is nobody to hear of a failed assertion. */
static void need(bool good)
{
	if (!good)
		_exit(1);
}

static void nothing(unused void *arg)
{
}

static enum kern_cap_state probe(enum kern_cap_id id)
{
	struct kern_caps caps = {0};
	return kern_caps_probe(&caps, id);
}

static void on_signal(unused int sig)
{
}

static void setup_status(unused void *arg)
{
	static const gid_t groups[] = {7, 70000, 4000000000};
	struct sock_filter allow = {.code = BPF_RET | BPF_K, .k = SECCOMP_RET_ALLOW};
	struct sock_fprog program = {.len = 1, .filter = &allow};
	sigset_t set;
	prctl(PR_SET_NAME, "a) S\\ \n(");
	umask(0137);
	signal(SIGUSR1, on_signal);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMAX);
	sigprocmask(SIG_BLOCK, &set, NULL);
	need(!raise(SIGUSR2) && !kill(getpid(), SIGRTMAX));
	need(!setgroups(ARRAY_SIZE(groups), groups));
	need(!setresgid(11, 12, 13) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	need(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) && !prctl(PR_SET_SECCOMP, 2, &program));
	need(!setresuid(21, 22, 23));
}

static void test_status(unused void **state)
{
	struct child c = child_start(setup_status, NULL);
	struct proc_status st;
	struct proc_stat stat;
	char comm[PROC_NAME_BYTES];
	assert_int_equal(proc_read_status(c.dirfd, &st, NULL), 0);
	assert_string_equal(st.name, "a) S\\ \n(");
	assert_int_equal(st.umask, 0137);
	assert_int_equal(st.pid, c.pid);
	assert_int_equal(st.tgid, c.pid);
	assert_int_equal(st.ppid, getpid());
	assert_int_equal(st.tracer_pid, 0);
	assert_int_equal(st.uid.real, 21);
	assert_int_equal(st.uid.effective, 22);
	assert_int_equal(st.uid.saved, 23);
	assert_int_equal(st.uid.fs, 22);
	assert_int_equal(st.gid.real, 11);
	assert_int_equal(st.gid.effective, 12);
	assert_int_equal(st.gid.saved, 13);
	assert_int_equal(st.n_groups, 3);
	assert_int_equal(st.groups[1], 70000);
	assert_int_equal(st.groups[2], 4000000000u);
	assert_int_equal(st.threads, 1);
	assert_int_equal(st.sig_blocked, 1ULL << (SIGUSR2 - 1) | 1ULL << 63);
	assert_int_equal(st.sig_pending | st.sig_shared_pending, 1ULL << (SIGUSR2 - 1) | 1ULL << 63);
	assert_int_equal(st.sig_pending, 1ULL << (SIGUSR2 - 1));
	assert_true(st.sig_ignored & 1ULL << (SIGHUP - 1));
	assert_true(st.sig_caught & 1ULL << (SIGUSR1 - 1));
	assert_true(st.no_new_privs);
	assert_int_equal(st.seccomp, 2);
	assert_int_equal(st.seccomp_filters, 2);
	assert_int_equal(st.cap_effective, 0);
	assert_int_equal(st.ns_pid.v[0], c.pid);
	assert_int_equal(st.ns_sid.v[0], getsid(0));
	cpu_set_t cpus;
	assert_int_equal(sched_getaffinity(c.pid, sizeof(cpus), &cpus), 0);
	assert_memory_equal(st.cpus_allowed, &cpus, sizeof(cpus));

	assert_int_equal(proc_read_stat(c.dirfd, &stat, NULL), 0);
	assert_string_equal(stat.comm, st.name);
	assert_int_equal(stat.ppid, getpid());
	assert_int_equal(stat.pgrp, getpgrp());
	assert_int_equal(stat.session, getsid(0));
	assert_int_equal(stat.exit_signal, SIGCHLD);
	assert_int_equal(stat.n_fields, 52);
	assert_int_equal(proc_read_comm(c.dirfd, comm, NULL), 0);
	assert_string_equal(comm, st.name);
	proc_status_release(&st);
	child_end(&c);
}

static void *thread_main(unused void *arg)
{
	for (;;)
		pause();
	return NULL;
}

static void setup_family(unused void *arg)
{
	pthread_t thread;
	for (int i = 0; i < 3; i++)
		need(!pthread_create(&thread, NULL, thread_main, NULL));
	for (int i = 0; i < 4; i++)
		if (!fork_with_parent())
			for (;;)
				pause();
}

static void test_family(unused void **state)
{
	struct child c = child_start(setup_family, NULL);
	struct proc_pid_list tids, children, pids;
	assert_int_equal(proc_read_tasks(c.dirfd, &tids, NULL), 0);
	assert_int_equal(tids.v.n, 4);
	assert_int_equal(tids.v.v[0], c.pid);
	vec_foreach(tid, &tids.v) {
		struct proc_status st;
		int dirfd = proc_open_task(c.dirfd, *tid, NULL);
		assert_true(dirfd >= 0);
		assert_int_equal(proc_read_status(dirfd, &st, NULL), 0);
		assert_int_equal(st.pid, *tid);
		assert_int_equal(st.tgid, c.pid);
		assert_int_equal(st.threads, 4);
		proc_status_release(&st);
		close(dirfd);
	}
	assert_int_equal(proc_open_task(c.dirfd, getpid(), NULL), -ESRCH);
	if (probe(KERN_CAP_PROC_CHILDREN) == KERN_PRESENT) {
		assert_int_equal(proc_read_children(c.dirfd, &children, NULL), 0);
		assert_int_equal(children.v.n, 4);
		vec_foreach(pid, &children.v) {
			struct proc_stat st;
			_cleanup_close_ int dirfd = proc_open(*pid, NULL);
			assert_int_equal(proc_read_stat(dirfd, &st, NULL), 0);
			assert_int_equal(st.ppid, c.pid);
		}
		proc_pid_list_release(&children);
	}
	assert_int_equal(proc_read_pids(&pids, NULL), 0);
	bool found = false;
	vec_foreach(pid, &pids.v)
		found |= *pid == c.pid;
	assert_true(found);
	proc_pid_list_release(&pids);
	proc_pid_list_release(&tids);
	child_end(&c);
}

struct map_spec {
	const char *what;
	void *addr;
	uint64_t flags; /* that smaps must show */
	enum proc_vma_kind kind;
	bool made;
};

enum { DEEP_FOLDERS = 25, MAP_PAGES = 4, N_SPECS = 16, MANY_MAPS = 3000 };

static struct map_spec *specs; /* shared with the child */

static void *map_one(int prot, int flags, int fd)
{
	return mmap(NULL, MAP_PAGES * 4096, prot, flags, fd, 0);
}

static void spec_add(int i, const char *what, void *addr, bool made, uint64_t flags, enum proc_vma_kind kind)
{
	specs[i] = (struct map_spec){what, addr, flags, kind, made && addr != MAP_FAILED};
}

static void spec_madvise(int i, const char *what, int advice, uint64_t flags)
{
	void *addr = map_one(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* a neighbour without the advice must not be merged with it */
	bool made = !madvise(addr, MAP_PAGES * 4096, advice);
	spec_add(i, what, addr, made, flags, PROC_VMA_ANON);
}

static void setup_maps(unused void *arg)
{
	const int rw = PROT_READ | PROT_WRITE, anon = MAP_PRIVATE | MAP_ANONYMOUS;
	int file = open("live\nmap", O_RDWR | O_CLOEXEC | O_CREAT | O_TRUNC, 0600);
	need(file >= 0 && !ftruncate(file, 1 << 20));
	spec_add(0, "file", map_one(rw, MAP_SHARED, file), true, PROC_VM(SHARED) | PROC_VM(MAYSHARE),
		 PROC_VMA_FILE);
	need(!unlink("live\nmap"));
	int memfd = memfd_create("m\n d", MFD_CLOEXEC);
	need(!ftruncate(memfd, 1 << 20));
	spec_add(1, "memfd", map_one(rw, MAP_SHARED, memfd), true, PROC_VM(SHARED), PROC_VMA_MEMFD);
	spec_add(2, "shared", map_one(rw, MAP_SHARED | MAP_ANONYMOUS, -1), true, PROC_VM(SHARED),
		 PROC_VMA_SHMEM_ANON);
	int shm = shmget(IPC_PRIVATE, 65536, IPC_CREAT | 0600);
	void *at = shm < 0 ? MAP_FAILED : shmat(shm, NULL, 0);
	shmctl(shm, IPC_RMID, NULL);
	spec_add(3, "sysv", at, at != (void *)-1, PROC_VM(SHARED), PROC_VMA_SYSV);
	spec_madvise(4, "wipeonfork", MADV_WIPEONFORK, PROC_VM(WIPEONFORK));
	spec_madvise(5, "dontdump", MADV_DONTDUMP, PROC_VM(DONTDUMP));
	spec_madvise(6, "dontfork", MADV_DONTFORK, PROC_VM(DONTCOPY));
	spec_madvise(7, "sequential", MADV_SEQUENTIAL, PROC_VM(SEQ_READ));
	spec_madvise(8, "random", MADV_RANDOM, PROC_VM(RAND_READ));
	at = map_one(rw, anon, -1);
	/* the sanitizers make libc's mlock() do nothing */
	bool made = !syscall(SYS_mlock, at, MAP_PAGES * 4096);
	spec_add(9, "locked", at, made, PROC_VM(LOCKED), PROC_VMA_ANON);
	at = map_one(rw, MAP_DROPPABLE | MAP_ANONYMOUS, -1);
	spec_add(10, "droppable", at, true, PROC_VM(DROPPABLE), PROC_VMA_ANON);
	at = map_one(PROT_READ, anon, -1);
	spec_add(11, "sealed", at, !sys_mseal(at, MAP_PAGES * 4096), PROC_VM(SEALED), PROC_VMA_ANON);
	spec_add(12, "norwx", map_one(PROT_NONE, anon, -1), true, 0, PROC_VMA_ANON);
	at = map_one(rw, anon | MAP_GROWSDOWN, -1);
	spec_add(13, "growsdown", at, true, PROC_VM(GROWSDOWN), PROC_VMA_ANON);
	spec_madvise(14, "nohugepage", MADV_NOHUGEPAGE, PROC_VM(NOHUGEPAGE));
	int secret = sys_memfd_secret(0);
	at = secret < 0 || ftruncate(secret, 65536) ? MAP_FAILED : map_one(rw, MAP_SHARED, secret);
	spec_add(15, "secret", at, true, PROC_VM(SHARED), PROC_VMA_SECRETMEM);
	/* many, every second with another protection so that none are merged */
	for (int i = 0; i < MANY_MAPS; i++)
		need(map_one(i % 2 ? PROT_READ : PROT_NONE, anon, -1) != MAP_FAILED);
}

static void specs_new(void)
{
	specs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(specs != MAP_FAILED);
	assert_true(sizeof(*specs) * N_SPECS <= 4096);
}

static void assert_same_maps(const struct proc_maps *a, const struct proc_maps *b)
{
	assert_int_equal(a->vmas.n, b->vmas.n);
	for (size_t i = 0; i < a->vmas.n; i++) {
		const struct proc_vma *x = &a->vmas.v[i], *y = &b->vmas.v[i];
		assert_int_equal(x->start, y->start);
		assert_int_equal(x->end, y->end);
		assert_int_equal(x->offset, y->offset);
		assert_int_equal(x->ino, y->ino);
		assert_int_equal(x->dev, y->dev);
		assert_int_equal(x->prot, y->prot);
		assert_int_equal(x->shared, y->shared);
		assert_int_equal(x->kind, y->kind);
		assert_int_equal(x->deleted, y->deleted);
		assert_string_equal(proc_vma_name(a, x), proc_vma_name(b, y));
	}
}

static void assert_specs(const struct child *c, const struct proc_maps *smaps)
{
	for (int i = 0; i < N_SPECS; i++) {
		if (!specs[i].made) {
			print_message("not made here: %s\n", specs[i].what);
			continue;
		}
		const struct proc_vma *vma = proc_maps_find(smaps, (uintptr_t)specs[i].addr);
		assert_non_null(vma);
		assert_int_equal(vma->kind, specs[i].kind);
		assert_true(vma->has_flags);
		if ((vma->vm_flags & specs[i].flags) != specs[i].flags)
			fail_msg("%s lacks a flag: %#lx of %#lx", specs[i].what, vma->vm_flags,
				 specs[i].flags);
		assert_int_equal(!!(vma->vm_flags & PROC_VM(READ)), !!(vma->prot & PROT_READ));
		assert_int_equal(!!(vma->vm_flags & PROC_VM(WRITE)), !!(vma->prot & PROT_WRITE));
		assert_false(vma->vm_flags & PROC_VM(OTHER));
	}
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/live\nmap", folder);
	assert_string_equal(proc_vma_name(smaps, proc_maps_find(smaps, (uintptr_t)specs[0].addr)), path);
	assert_string_equal(proc_vma_name(smaps, proc_maps_find(smaps, (uintptr_t)specs[1].addr)),
			    "/memfd:m\n d");
	if (probe(KERN_CAP_MAP_FILES) == KERN_PRESENT) {
		struct stat st;
		const struct proc_vma *vma = proc_maps_find(smaps, (uintptr_t)specs[0].addr);
		_cleanup_close_ int fd = proc_open_vma_file(c->dirfd, vma, O_RDONLY, NULL);
		assert_int_equal(fstat(fd, &st), 0);
		assert_int_equal(st.st_ino, vma->ino);
		assert_int_equal(st.st_dev, vma->dev);
		vma = proc_maps_find(smaps, (uintptr_t)specs[12].addr);
		assert_int_equal(proc_open_vma_file(c->dirfd, vma, O_RDONLY, NULL), -ENOENT);
	}
}

static void test_maps(unused void **state)
{
	struct kern_caps caps = {0};
	struct proc_maps text, query, smaps, own = {0};
	struct proc_vma vma;
	specs_new();
	struct child c = child_start(setup_maps, NULL);
	kern_caps_probe(&caps, KERN_CAP_PROCMAP_QUERY);
	assert_int_equal(proc_read_maps(c.dirfd, NULL, &text, NULL), 0);
	assert_int_equal(proc_read_smaps(c.dirfd, &smaps, NULL), 0);
	assert_true(text.vmas.n > MANY_MAPS);
	assert_same_maps(&text, &smaps);
	if (kern_has(&caps, KERN_CAP_PROCMAP_QUERY)) {
		assert_int_equal(proc_read_maps(c.dirfd, &caps, &query, NULL), 0);
		assert_same_maps(&text, &query);
		/* it was really the ioctl: the text does not tell page sizes */
		assert_int_equal(query.vmas.v[0].page_shift, 12);
		assert_int_equal(text.vmas.v[0].page_shift, 0);
		proc_maps_release(&query);
	} else {
		print_message("no PROCMAP_QUERY here\n");
	}
	assert_specs(&c, &smaps);
	const struct kern_caps *ways[] = {NULL, &caps};
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		assert_int_equal(proc_read_vma(c.dirfd, ways[i], (uintptr_t)specs[1].addr + 4096, &own, &vma,
					       NULL),
				 0);
		assert_int_equal(vma.start, (uintptr_t)specs[1].addr);
		assert_string_equal(proc_vma_name(&own, &vma), "/memfd:m\n d");
		assert_int_equal(proc_read_vma(c.dirfd, ways[i], 4096, &own, &vma, NULL), -ENOENT);
	}
	assert_int_equal(own.vmas.n, 0);
	proc_maps_release(&own);
	proc_maps_release(&text);
	proc_maps_release(&smaps);
	child_end(&c);
	munmap(specs, 4096);
}

/* A task that maps and unmaps all the time: what is read is in order, and complete where nothing changes. */
static void setup_restless(void *arg)
{
	uint64_t *rounds = arg;
	if (fork_with_parent())
		return;
	for (;; __atomic_add_fetch(rounds, 1, __ATOMIC_SEQ_CST)) {
		char *at = mmap(NULL, 64 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int page = 1; page < 64; page += 2)
			mprotect(at + page * 4096, 4096, PROT_READ | PROT_WRITE);
		munmap(at, 64 * 4096);
	}
}

static void test_maps_restless(unused void **state)
{
	struct kern_caps caps = {0};
	struct proc_pid_list children;
	if (probe(KERN_CAP_PROC_CHILDREN) != KERN_PRESENT)
		skip();
	kern_caps_probe(&caps, KERN_CAP_PROCMAP_QUERY);
	uint64_t *rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(rounds != MAP_FAILED);
	struct child c = child_start(setup_restless, rounds);
	assert_int_equal(proc_read_children(c.dirfd, &children, NULL), 0);
	assert_int_equal(children.v.n, 1);
	_cleanup_close_ int dirfd = proc_open(children.v.v[0], NULL);
	assert_true(dirfd >= 0);
	while (!__atomic_load_n(rounds, __ATOMIC_SEQ_CST))
		sched_yield();
	uint64_t before = *rounds;
	for (int i = 0; i < 300; i++) {
		struct proc_maps maps;
		int r = proc_read_maps(dirfd, i % 2 ? &caps : NULL, &maps, NULL);
		assert_true(!r || r == -EAGAIN);
		if (r)
			continue;
		uint64_t last = 0;
		bool stack = false;
		vec_foreach(vma, &maps.vmas) {
			assert_true(vma->start >= last);
			last = vma->end;
			stack |= vma->kind == PROC_VMA_STACK;
		}
		assert_true(stack);
		proc_maps_release(&maps);
	}
	assert_true(__atomic_load_n(rounds, __ATOMIC_SEQ_CST) > before);
	proc_pid_list_release(&children);
	child_end(&c);
	munmap(rounds, 4096);
}

/* A file whose path has more than PATH_MAX bytes, and the folders on the way. */
struct deep {
	int folders[DEEP_FOLDERS + 1];
	int file;
};

static const char *deep_name(void)
{
	static char name[201];
	memset(name, 'n', sizeof(name) - 1);
	return name;
}

static void deep_make(struct deep *deep)
{
	deep->folders[0] = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < DEEP_FOLDERS; i++) {
		assert_int_equal(mkdirat(deep->folders[i], deep_name(), 0700), 0);
		deep->folders[i + 1] =
			openat(deep->folders[i], deep_name(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(deep->folders[i + 1] >= 0);
	}
	deep->file = openat(deep->folders[DEEP_FOLDERS], "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(deep->file >= 0);
	assert_int_equal(ftruncate(deep->file, 65536), 0);
}

static void deep_remove(struct deep *deep)
{
	assert_int_equal(unlinkat(deep->folders[DEEP_FOLDERS], "file", 0), 0);
	for (int i = DEEP_FOLDERS; i >= 0; i--) {
		close(deep->folders[i]);
		if (i)
			assert_int_equal(unlinkat(deep->folders[i - 1], deep_name(), AT_REMOVEDIR), 0);
	}
	close(deep->file);
}

static void setup_map_fd(void *arg)
{
	*(void **)arg = map_one(PROT_READ, MAP_SHARED, *(int *)((char *)arg + 8));
}

static void test_long_path(unused void **state)
{
	struct kern_caps caps = {0};
	struct proc_maps maps;
	struct proc_fds fds;
	kern_caps_probe(&caps, KERN_CAP_PROCMAP_QUERY);
	struct {
		void *addr;
		int fd;
	} *share = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(share != MAP_FAILED);
	struct deep deep;
	deep_make(&deep);
	share->fd = deep.file;
	struct child c = child_start(setup_map_fd, share);
	assert_int_equal(proc_read_maps(c.dirfd, &caps, &maps, NULL), 0);
	const struct proc_vma *vma = proc_maps_find(&maps, (uintptr_t)share->addr);
	assert_non_null(vma);
	assert_true(strlen(proc_vma_name(&maps, vma)) > 5000);
	proc_maps_release(&maps);
	assert_int_equal(proc_read_fds(c.dirfd, &fds, NULL), 0);
	bool found = false;
	vec_foreach(fd, &fds.v)
		if (fd->fd == share->fd) {
			found = true;
			assert_true(fd->link_too_long);
			assert_int_equal(fd->size_bytes, 65536);
			assert_string_equal(proc_fd_link(&fds, fd), "");
		}
	assert_true(found);
	proc_fds_release(&fds);
	child_end(&c);
	munmap(share, 4096);
	deep_remove(&deep);
}

/* Every descriptor of the child is one of ours too, so that fstat(2) here tells the truth. */
static void test_fds(unused void **state)
{
	int pipes[2], pair[2], fds[10];
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	fds[0] = open(".", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
	fds[1] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[2] = open("live (deleted)", O_RDWR | O_CLOEXEC | O_CREAT, 0600);
	fds[3] = open("gone", O_RDWR | O_CLOEXEC | O_CREAT, 0600);
	fds[4] = pipes[0];
	fds[5] = pair[1];
	fds[6] = eventfd(0, 0);
	fds[7] = memfd_create("m", MFD_CLOEXEC);
	fds[8] = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
	fds[9] = dup2(fds[1], 900);
	assert_int_equal(unlink("gone"), 0);
	struct child c = child_start(nothing, NULL);
	struct proc_fds all;
	assert_int_equal(proc_read_fds(c.dirfd, &all, NULL), 0);
	int last = -1;
	vec_foreach(fd, &all.v) {
		assert_true(fd->fd > last);
		last = fd->fd;
	}
	assert_int_equal(last, 900);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		struct proc_fd fd;
		struct proc_fds one = {0};
		struct stat st;
		char path[64], link[PATH_MAX] = "";
		assert_int_equal(fstat(fds[i], &st), 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[i]);
		assert_true(readlink(path, link, sizeof(link) - 1) > 0);
		assert_int_equal(proc_read_fd(c.dirfd, fds[i], &one, &fd, NULL), 0);
		assert_string_equal(proc_fd_link(&one, &fd), link);
		assert_int_equal(fd.mode, st.st_mode);
		assert_int_equal(fd.dev, st.st_dev);
		assert_int_equal(fd.ino, st.st_ino);
		assert_int_equal(fd.rdev, st.st_rdev);
		assert_int_equal(fd.nlink, st.st_nlink);
		assert_int_equal(fd.deleted, i == 3 || i == 7);
		/* the list says the same */
		bool found = false;
		vec_foreach(other, &all.v)
			if (other->fd == fds[i]) {
				found = true;
				assert_int_equal(other->ino, fd.ino);
				assert_string_equal(proc_fd_link(&all, other), link);
			}
		assert_true(found);
		proc_fds_release(&one);
	}
	struct proc_fd fd;
	struct ferry_error err = FERRY_ERROR_INIT;
	assert_int_equal(proc_read_fd(c.dirfd, 899, &all, &fd, &err), -ENOENT);
	assert_non_null(strstr(err.message, "fd/899"));
	proc_fds_release(&all);
	child_end(&c);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	close(pipes[1]);
	close(pair[0]);
	assert_int_equal(unlink("live (deleted)"), 0);
}

static struct proc_fdinfo child_fdinfo(int fd, enum proc_fdinfo_kind kind)
{
	struct child c = child_start(nothing, NULL);
	struct proc_fdinfo info;
	struct ferry_error err = FERRY_ERROR_INIT;
	int r = proc_read_fdinfo(c.dirfd, fd, &info, &err);
	if (r)
		fail_msg("%s", err.message);
	assert_int_equal(info.kind, kind);
	child_end(&c);
	return info;
}

static void test_fdinfo_plain(unused void **state)
{
	int fd = open("live", O_RDWR | O_CLOEXEC | O_CREAT | O_APPEND | O_NOATIME, 0600);
	struct stat st;
	struct kern_statx stx;
	assert_int_equal(pwrite(fd, "12345", 5, 0), 5);
	assert_int_equal(lseek(fd, 3, SEEK_SET), 3);
	assert_int_equal(fstat(fd, &st), 0);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_PLAIN);
	assert_int_equal(info.pos, 3);
	assert_int_equal(info.flags & ~(uint32_t)(O_CLOEXEC | 0100000), O_RDWR | O_APPEND | O_NOATIME);
	if (info.has_ino)
		assert_int_equal(info.ino, st.st_ino);
	assert_int_equal(sys_statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &stx), 0);
	if (stx.mask & STATX_MNT_ID)
		assert_int_equal(info.mnt_id, stx.mnt_id);
	close(fd);
	unlink("live");
}

static void test_fdinfo_eventfd(unused void **state)
{
	int fd = eventfd(3000000000u, EFD_SEMAPHORE | EFD_NONBLOCK);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_EVENTFD);
	assert_int_equal(info.eventfd.count, 3000000000u);
	assert_int_not_equal(info.eventfd.semaphore, 0);
	assert_int_equal(info.flags, O_RDWR | O_NONBLOCK);
	close(fd);
	fd = eventfd(0, 0);
	uint64_t most = UINT64_MAX - 1;
	assert_int_equal(write(fd, &most, sizeof(most)), sizeof(most));
	info = child_fdinfo(fd, PROC_FDINFO_EVENTFD);
	assert_int_equal(info.eventfd.count, most);
	assert_int_not_equal(info.eventfd.semaphore, 1);
	close(fd);
}

static void test_fdinfo_signalfd(unused void **state)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, 64);
	int fd = signalfd(-1, &set, SFD_NONBLOCK);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_SIGNALFD);
	assert_int_equal(info.signalfd.mask, 1ULL << 63 | 1ULL << (SIGINT - 1));
	close(fd);
}

static void test_fdinfo_timerfd(unused void **state)
{
	struct itimerspec value = {.it_value = {1000, 7}, .it_interval = {5, 6}}, left;
	int fd = timerfd_create(CLOCK_BOOTTIME, 0);
	assert_int_equal(timerfd_settime(fd, 0, &value, NULL), 0);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_TIMERFD);
	assert_int_equal(info.timerfd.clockid, CLOCK_BOOTTIME);
	assert_int_equal(info.timerfd.settime_flags, 0);
	assert_int_equal(info.timerfd.value.it_interval.tv_sec, 5);
	assert_int_equal(info.timerfd.value.it_interval.tv_nsec, 6);
	assert_int_equal(timerfd_gettime(fd, &left), 0);
	assert_true(info.timerfd.value.it_value.tv_sec >= left.it_value.tv_sec);
	assert_true(info.timerfd.value.it_value.tv_sec <= 1000);
	assert_int_equal(info.timerfd.ticks, 0);
	/* expired, not read */
	value = (struct itimerspec){.it_value = {0, 1}};
	assert_int_equal(timerfd_settime(fd, 0, &value, NULL), 0);
	struct timespec pause_ts = {0, 2000000};
	nanosleep(&pause_ts, NULL);
	info = child_fdinfo(fd, PROC_FDINFO_TIMERFD);
	assert_int_equal(info.timerfd.ticks, 1);
	assert_int_equal(info.timerfd.value.it_value.tv_sec, 0);
	close(fd);
	fd = timerfd_create(CLOCK_REALTIME, 0);
	value = (struct itimerspec){.it_value = {time(NULL) + 500, 0}};
	assert_int_equal(timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &value, NULL), 0);
	info = child_fdinfo(fd, PROC_FDINFO_TIMERFD);
	assert_int_equal(info.timerfd.settime_flags, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
	close(fd);
}

static void test_fdinfo_epoll(unused void **state)
{
	int pipes[2], epoll = epoll_create1(EPOLL_CLOEXEC);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	int moved = dup2(pipes[0], 700);
	struct epoll_event read_end = {.events = EPOLLIN | EPOLLET | EPOLLONESHOT, .data.u64 = UINT64_MAX};
	struct epoll_event write_end = {.events = EPOLLOUT, .data.u64 = 0x123456789abcdef0};
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, moved, &read_end), 0);
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[1], &write_end), 0);
	close(moved); /* the entry stays: pipes[0] is the same description */
	struct proc_fdinfo info = child_fdinfo(epoll, PROC_FDINFO_EPOLL);
	struct stat st;
	assert_int_equal(fstat(pipes[0], &st), 0);
	assert_int_equal(info.epoll.n, 2);
	for (size_t i = 0; i < 2; i++) {
		const struct proc_epoll_entry *e = &info.epoll.v[i];
		bool reading = e->fd == 700;
		assert_true(reading || e->fd == pipes[1]);
		assert_int_equal(e->data, reading ? read_end.data.u64 : write_end.data.u64);
		/* the kernel adds EPOLLERR and EPOLLHUP */
		assert_int_equal(e->events & ~(uint32_t)(EPOLLERR | EPOLLHUP),
				 reading ? read_end.events : write_end.events);
		if (e->has_file) {
			assert_int_equal(e->ino, st.st_ino);
			assert_int_equal(e->dev, st.st_dev);
		}
	}
	proc_fdinfo_release(&info);
	int empty = epoll_create1(EPOLL_CLOEXEC);
	info = child_fdinfo(empty, PROC_FDINFO_PLAIN);
	close(empty);
	close(epoll);
	close(pipes[0]);
	close(pipes[1]);
}

static void test_fdinfo_inotify(unused void **state)
{
	struct stat st[20];
	int fd = inotify_init1(IN_CLOEXEC);
	char path[64];
	/* more than ten, to tell hexadecimal from decimal */
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "live-%d", i);
		int file = open(path, O_RDWR | O_CLOEXEC | O_CREAT, 0600);
		assert_int_equal(fstat(file, &st[i]), 0);
		close(file);
		assert_int_equal(inotify_add_watch(fd, path,
						   IN_MODIFY | IN_CLOSE_WRITE | (i == 7 ? IN_ONESHOT : 0)),
				 i + 1);
	}
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_INOTIFY);
	assert_int_equal(info.inotify.n, 20);
	int seen = 0;
	vec_foreach(watch, &info.inotify) {
		assert_in_range(watch->wd, 1, 20);
		assert_false(seen & 1 << watch->wd);
		seen |= 1 << watch->wd;
		assert_int_equal(watch->ino, st[watch->wd - 1].st_ino);
		assert_int_equal(watch->dev, st[watch->wd - 1].st_dev);
		assert_int_equal(watch->mask & 0xfff, IN_MODIFY | IN_CLOSE_WRITE);
		assert_int_equal(!!(watch->mask & IN_ONESHOT), watch->wd == 8);
		/* the handle is the file's own */
		struct {
			struct file_handle head;
			unsigned char bytes[PROC_HANDLE_BYTES];
		} handle = {.head.handle_bytes = PROC_HANDLE_BYTES};
		int mount_id;
		snprintf(path, sizeof(path), "live-%d", watch->wd - 1);
		if (watch->handle.n && !sys_name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, 0)) {
			assert_int_equal(watch->handle.n, handle.head.handle_bytes);
			assert_int_equal(watch->handle.type, handle.head.handle_type);
			assert_memory_equal(watch->handle.bytes, handle.head.f_handle, watch->handle.n);
		}
	}
	proc_fdinfo_release(&info);
	close(fd);
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "live-%d", i);
		unlink(path);
	}
}

static void test_fdinfo_fanotify(unused void **state)
{
	struct stat st;
	int fd = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_UNLIMITED_MARKS, O_RDWR | O_LARGEFILE);
	if (fd < 0) {
		print_message("no fanotify here: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(mkdir("live-dir", 0700), 0);
	assert_int_equal(stat("live-dir", &st), 0);
	assert_int_equal(fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD, "live-dir"),
			 0);
	assert_int_equal(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, AT_FDCWD, "."), 0);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_FANOTIFY);
	assert_int_equal(info.fanotify.flags & 0xc, FAN_CLASS_CONTENT);
	assert_true(info.fanotify.flags & FAN_UNLIMITED_MARKS);
	assert_int_equal(info.fanotify.event_flags & O_ACCMODE, O_RDWR);
	assert_int_equal(info.fanotify_marks.n, 2);
	vec_foreach(mark, &info.fanotify_marks)
		if (mark->target == PROC_FANOTIFY_INODE) {
			assert_int_equal(mark->ino, st.st_ino);
			assert_int_equal(mark->dev, st.st_dev);
			assert_int_equal(mark->mask & FAN_OPEN, FAN_OPEN);
		} else {
			struct kern_statx stx;
			assert_int_equal(mark->target, PROC_FANOTIFY_MOUNT);
			assert_int_equal(sys_statx(AT_FDCWD, ".", 0, STATX_MNT_ID, &stx), 0);
			assert_int_equal(mark->mnt_id, stx.mnt_id);
			assert_int_equal(mark->mask, FAN_CLOSE_WRITE);
		}
	proc_fdinfo_release(&info);
	close(fd);
	rmdir("live-dir");
}

static void test_fdinfo_pidfd(unused void **state)
{
	int pidfd = sys_pidfd_open(getpid(), 0);
	assert_true(pidfd >= 0);
	struct proc_fdinfo info = child_fdinfo(pidfd, PROC_FDINFO_PIDFD);
	assert_int_equal(info.pidfd.pid, getpid());
	assert_int_equal(info.pidfd.ns_pid.v[0], getpid());
	close(pidfd);
	pid_t pid = fork();
	if (!pid)
		_exit(0);
	pidfd = sys_pidfd_open(pid, 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	info = child_fdinfo(pidfd, PROC_FDINFO_PIDFD);
	assert_int_equal(info.pidfd.pid, -1);
	close(pidfd);
}

static void test_fdinfo_uffd(unused void **state)
{
	struct uffdio_api api = {.api = UFFD_API};
	if (probe(KERN_CAP_UFFD) != KERN_PRESENT)
		skip();
	int fd = sys_userfaultfd(O_NONBLOCK | UFFD_USER_MODE_ONLY);
	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_UFFD);
	assert_int_equal(info.uffd.api, UFFD_API);
	assert_int_equal(info.uffd.pending, 0);
	close(fd);
}

static void test_fdinfo_io_uring(unused void **state)
{
	char params[120] = {0};
	if (probe(KERN_CAP_IO_URING) != KERN_PRESENT)
		skip();
	int fd = (int)sys_call(SYS_io_uring_setup, 8, params);
	assert_true(fd >= 0);
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_IO_URING);
	assert_int_equal(info.io_uring.sq_mask, 7);
	assert_int_equal(info.io_uring.cq_mask, 15);
	assert_int_equal(info.io_uring.sq_thread, -1);
	assert_false(info.io_uring.has_polls);
	close(fd);
}

static void test_fdinfo_tun(unused void **state)
{
	struct ifreq request = {.ifr_name = "ferrylive0"};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		print_message("no tun here: %s\n", strerror(errno));
		skip();
	}
	struct proc_fdinfo info = child_fdinfo(fd, PROC_FDINFO_TUN);
	assert_string_equal(info.tun.name, "");
	request.ifr_flags = IFF_TUN | IFF_NO_PI;
	assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
	info = child_fdinfo(fd, PROC_FDINFO_TUN);
	assert_string_equal(info.tun.name, "ferrylive0");
	close(fd);
}

static void setup_locks(void *arg)
{
	int fd = *(int *)arg;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
	need(!fcntl(fd, F_SETLK, &lock));
	lock = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100};
	need(!fcntl(fd, F_OFD_SETLK, &lock));
	need(!flock(fd, LOCK_EX));
}

static void test_locks(unused void **state)
{
	int fd = open("live-lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;
	struct proc_fdinfo info;
	struct proc_locks locks;
	assert_int_equal(fstat(fd, &st), 0);
	struct child c = child_start(setup_locks, &fd);
	assert_int_equal(proc_read_fdinfo(c.dirfd, fd, &info, NULL), 0);
	assert_int_equal(info.kind, PROC_FDINFO_PLAIN);
	assert_int_equal(info.locks.n, 3);
	assert_int_equal(proc_read_locks(&locks, NULL), 0);
	int seen = 0;
	vec_foreach(lock, &info.locks) {
		assert_int_equal(lock->ino, st.st_ino);
		assert_int_equal(lock->dev, st.st_dev);
		seen |= 1 << lock->type;
		if (lock->type == PROC_LOCK_POSIX) {
			assert_int_equal(lock->pid, c.pid);
			assert_int_equal(lock->fl_type, F_WRLCK);
			assert_int_equal(lock->start, 10);
			assert_int_equal(lock->end, 14);
		} else if (lock->type == PROC_LOCK_OFD) {
			assert_int_equal(lock->pid, -1);
			assert_int_equal(lock->fl_type, F_RDLCK);
			assert_int_equal(lock->start, 100);
			assert_int_equal(lock->end, UINT64_MAX);
		} else {
			assert_int_equal(lock->fl_type, F_WRLCK);
		}
		int same = 0;
		vec_foreach(other, &locks.v)
			same += other->ino == lock->ino && other->type == lock->type &&
				other->start == lock->start && other->end == lock->end &&
				other->pid == lock->pid;
		assert_int_equal(same, 1);
	}
	assert_int_equal(seen, 1 << PROC_LOCK_POSIX | 1 << PROC_LOCK_OFD | 1 << PROC_LOCK_FLOCK);
	proc_fdinfo_release(&info);
	proc_locks_release(&locks);
	child_end(&c);
	close(fd);
	unlink("live-lock");
}

static void setup_timers(unused void *arg)
{
	struct sigevent signal_event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	struct sigevent thread_event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1};
	struct sigevent none_event = {.sigev_notify = SIGEV_NONE};
	int id;
	signal_event.sigev_value.sival_ptr = (void *)0x7fff12345678;
	thread_event._sigev_un._tid = (pid_t)sys_call(SYS_gettid);
	need(!sys_timer_create(CLOCK_MONOTONIC, &signal_event, &id) && id == 0);
	need(!sys_timer_create(CLOCK_REALTIME, &thread_event, &id) && id == 1);
	need(!sys_timer_create(CLOCK_BOOTTIME, &none_event, &id) && id == 2);
	need(!sys_timer_create(CLOCK_PROCESS_CPUTIME_ID, NULL, &id) && id == 3);
	need(!sys_timer_delete(1));
}

static void test_timers(unused void **state)
{
	struct proc_timers timers;
	if (probe(KERN_CAP_PROC_TIMERS) != KERN_PRESENT)
		skip();
	struct child c = child_start(setup_timers, NULL);
	assert_int_equal(proc_read_timers(c.dirfd, &timers, NULL), 0);
	assert_int_equal(timers.v.n, 3);
	vec_foreach(t, &timers.v) {
		assert_int_equal(t->pid, c.pid);
		if (t->id == 0) {
			assert_int_equal(t->signo, SIGRTMIN);
			assert_int_equal(t->sigval, 0x7fff12345678);
			assert_int_equal(t->notify, SIGEV_SIGNAL);
			assert_false(t->thread_id);
			assert_int_equal(t->clockid, CLOCK_MONOTONIC);
		} else if (t->id == 2) {
			assert_int_equal(t->notify, SIGEV_NONE);
			assert_int_equal(t->clockid, CLOCK_BOOTTIME);
		} else {
			assert_int_equal(t->id, 3);
			assert_int_equal(t->signo, SIGALRM);
		}
	}
	proc_timers_release(&timers);
	child_end(&c);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	need(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* Enter a new user namespace, whose map a helper outside writes, since it takes a right outside. */
static void enter_user_namespace(void)
{
	int ready[2];
	char path[64], byte;
	snprintf(path, sizeof(path), "/proc/%d/uid_map", getpid());
	need(!pipe2(ready, O_CLOEXEC));
	pid_t helper = fork();
	if (!helper) {
		need(read(ready[0], &byte, 1) == 1);
		write_file(path, "0 0 1\n5 1000 10\n");
		_exit(0);
	}
	need(!unshare(CLONE_NEWUSER) && write(ready[1], "x", 1) == 1);
	need(waitpid(helper, NULL, 0) == helper);
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/gid_map", "0 0 1\n");
}

static void setup_namespaces(unused void *arg)
{
	enter_user_namespace();
	need(!unshare(CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWIPC));
	if (!access("/proc/self/ns/time", F_OK)) {
		need(!unshare(CLONE_NEWTIME));
		write_file("/proc/self/timens_offsets", "monotonic 864000 5\nboottime -1 7\n");
	}
}

static void test_namespaces(unused void **state)
{
	struct proc_namespaces ns, own;
	struct proc_id_map uids, gids;
	struct proc_timens_offsets offsets;
	bool allowed;
	struct child c = child_start(setup_namespaces, NULL);
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	assert_int_equal(proc_read_namespaces(c.dirfd, &ns, NULL), 0);
	assert_int_equal(proc_read_namespaces(self, &own, NULL), 0);
	for (int i = 0; i < PROC_NS_COUNT; i++) {
		struct stat st;
		char name[64];
		snprintf(name, sizeof(name), "ns/%s", proc_ns_info(i)->file);
		if (!ns.ino[i])
			continue;
		assert_int_equal(fstatat(c.dirfd, name, &st, 0), 0);
		assert_int_equal(ns.ino[i], st.st_ino);
		_cleanup_close_ int fd = proc_open_namespace(c.dirfd, i, NULL);
		assert_true(fd >= 0);
		assert_int_equal(ioctl(fd, NS_GET_NSTYPE), proc_ns_info(i)->clone_flag);
	}
	assert_int_not_equal(ns.ino[PROC_NS_USER], own.ino[PROC_NS_USER]);
	assert_int_not_equal(ns.ino[PROC_NS_NET], own.ino[PROC_NS_NET]);
	assert_int_equal(ns.ino[PROC_NS_PID], own.ino[PROC_NS_PID]);
	assert_int_equal(ns.ino[PROC_NS_TIME], own.ino[PROC_NS_TIME]);
	assert_int_equal(proc_read_uid_map(c.dirfd, &uids, NULL), 0);
	assert_int_equal(uids.v.n, 2);
	assert_int_equal(uids.v.v[1].inside, 5);
	assert_int_equal(uids.v.v[1].outside, 1000);
	assert_int_equal(uids.v.v[1].count, 10);
	assert_int_equal(proc_read_gid_map(c.dirfd, &gids, NULL), 0);
	assert_int_equal(gids.v.n, 1);
	assert_int_equal(proc_read_setgroups(c.dirfd, &allowed, NULL), 0);
	assert_false(allowed);
	if (ns.ino[PROC_NS_TIME]) {
		assert_int_not_equal(ns.ino[PROC_NS_TIME_FOR_CHILDREN], ns.ino[PROC_NS_TIME]);
		assert_int_equal(proc_read_timens_offsets(c.dirfd, &offsets, NULL), 0);
		assert_int_equal(offsets.monotonic.sec, 864000);
		assert_int_equal(offsets.monotonic.nsec, 5);
		assert_int_equal(offsets.boottime.sec, -1);
		assert_int_equal(offsets.boottime.nsec, 7);
	}
	proc_id_map_release(&uids);
	proc_id_map_release(&gids);
	child_end(&c);
}

static void setup_small(unused void *arg)
{
	struct rlimit limit = {.rlim_cur = 77, .rlim_max = 1234};
	need(!setrlimit(RLIMIT_NOFILE, &limit));
	limit = (struct rlimit){.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
	need(!setrlimit(RLIMIT_CORE, &limit));
	prctl(PR_SET_TIMERSLACK, 12345);
	write_file("/proc/self/oom_score_adj", "789");
	write_file("/proc/self/coredump_filter", "0x7f");
	need(personality(ADDR_NO_RANDOMIZE) >= 0);
	need(!chdir("/proc"));
}

static void test_small_files(unused void **state)
{
	struct child c = child_start(setup_small, NULL);
	struct proc_limits limits;
	struct proc_auxv auxv;
	struct proc_cgroups cgroups;
	struct rlimit limit;
	uint64_t value;
	uint32_t u;
	int adj;
	_cleanup_free_ char *bytes = NULL, *cwd = NULL, *exe = NULL, *root = NULL, *own_exe = NULL;
	size_t n;
	assert_int_equal(proc_read_limits(c.dirfd, &limits, NULL), 0);
	for (unsigned i = 0; i < RLIM_NLIMITS; i++) {
		assert_int_equal(prlimit(c.pid, (enum __rlimit_resource)i, NULL, &limit), 0);
		assert_int_equal(limits.v[i].soft, limit.rlim_cur);
		assert_int_equal(limits.v[i].hard, limit.rlim_max);
	}
	assert_int_equal(limits.v[RLIMIT_NOFILE].soft, 77);
	assert_int_equal(proc_read_timerslack_ns(c.dirfd, &value, NULL), 0);
	assert_int_equal(value, 12345);
	assert_int_equal(proc_read_oom_score_adj(c.dirfd, &adj, NULL), 0);
	assert_int_equal(adj, 789);
	assert_int_equal(proc_read_coredump_filter(c.dirfd, &u, NULL), 0);
	assert_int_equal(u, 0x7f);
	assert_int_equal(proc_read_personality(c.dirfd, &u, NULL), 0);
	assert_int_equal(u, ADDR_NO_RANDOMIZE);
	assert_int_equal(proc_read_loginuid(c.dirfd, &u, NULL), 0);
	struct proc_settings settings;
	assert_int_equal(proc_read_settings(c.dirfd, &settings, NULL), 0);
	assert_memory_equal(&settings.limits, &limits, sizeof(limits));
	assert_int_equal(settings.oom_score_adj, 789);
	assert_int_equal(settings.personality, ADDR_NO_RANDOMIZE);
	assert_true(settings.has_coredump_filter);
	assert_int_equal(settings.coredump_filter, 0x7f);
	assert_true(settings.has_loginuid);
	assert_int_equal(settings.loginuid, u);
	/* a forked child has the vectors of its parent */
	assert_int_equal(proc_read_auxv(c.dirfd, &auxv, NULL), 0);
	assert_true(proc_auxv_get(&auxv, AT_SYSINFO_EHDR, &value));
	assert_int_equal(value, getauxval(AT_SYSINFO_EHDR));
	assert_true(proc_auxv_get(&auxv, AT_PAGESZ, &value));
	assert_int_equal(value, 4096);
	assert_int_equal(proc_read_cgroups(c.dirfd, &cgroups, NULL), 0);
	/* none where no cgroup file system was ever mounted */
	_cleanup_free_ char *lines = NULL;
	size_t n_lines = 0;
	assert_int_equal(proc_read_file(c.dirfd, "cgroup", 1 << 20, &lines, &n, NULL), 0);
	for (const char *p = lines; (p = strchr(p, '\n')); p++)
		n_lines++;
	assert_int_equal(cgroups.v.n, n_lines);
	vec_foreach(cgroup, &cgroups.v)
		assert_non_null(strstr(lines, cgroup->path));
	proc_cgroups_release(&cgroups);
	assert_int_equal(proc_read_cmdline(c.dirfd, &bytes, &n, NULL), 0);
	assert_non_null(strstr(bytes, "test_proc_live"));
	assert_int_equal(bytes[n - 1], '\0');
	assert_int_equal(proc_read_link(c.dirfd, "cwd", &cwd, NULL), 0);
	assert_string_equal(cwd, "/proc");
	assert_int_equal(proc_read_link(c.dirfd, "root", &root, NULL), 0);
	assert_string_equal(root, "/");
	own_exe = realpath("/proc/self/exe", NULL);
	assert_int_equal(proc_read_link(c.dirfd, "exe", &exe, NULL), 0);
	assert_string_equal(exe, own_exe);
	child_end(&c);
}

/* mountinfo against statmount(2). */
static void test_mounts(unused void **state)
{
	struct proc_mounts mounts;
	uint64_t ids[1000];
	if (probe(KERN_CAP_STATMOUNT) != KERN_PRESENT)
		skip();
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	assert_int_equal(proc_read_mounts(self, &mounts, NULL), 0);
	ssize_t n = sys_listmount(LSMT_ROOT, 0, 0, ids, ARRAY_SIZE(ids));
	assert_true(n > 0);
	assert_int_equal(n, mounts.v.n);
	for (ssize_t i = 0; i < n; i++) {
		_Alignas(8) char buffer[16384];
		struct kern_statmount *st = (struct kern_statmount *)buffer;
		uint64_t want = STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC | STATMOUNT_MNT_ROOT |
				STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE;
		assert_int_equal(sys_statmount(ids[i], 0, want, st, sizeof(buffer)), 0);
		const struct proc_mount *m = proc_mounts_find(&mounts, (int)st->mnt_id_old);
		assert_non_null(m);
		assert_int_equal(m->parent_id, st->mnt_parent_id_old);
		assert_int_equal(m->dev, makedev(st->sb_dev_major, st->sb_dev_minor));
		assert_string_equal(m->root, st->str + st->mnt_root);
		assert_string_equal(m->point, st->str + st->mnt_point);
		assert_int_equal(m->shared, st->mnt_propagation & MS_SHARED ? st->mnt_peer_group : 0);
		assert_int_equal(m->master, st->mnt_master);
	}
	proc_mounts_release(&mounts);
}

/* A task that is gone, and one that is a zombie. */
static void test_gone(unused void **state)
{
	struct proc_status st;
	struct proc_stat stat;
	struct proc_fdinfo info;
	struct proc_fds fds;
	struct proc_maps maps;
	struct proc_pid_list list;
	struct proc_namespaces ns;
	struct proc_limits limits;
	struct kern_caps caps = {0};
	uint64_t value;
	kern_caps_probe(&caps, KERN_CAP_PROCMAP_QUERY);
	struct child c = child_start(nothing, NULL);
	siginfo_t how;
	kill(c.pid, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)c.pid, &how, WEXITED | WNOWAIT), 0);

	assert_true(proc_exists(c.dirfd));
	assert_int_equal(proc_read_status(c.dirfd, &st, NULL), 0);
	assert_int_equal(st.state, 'Z');
	proc_status_release(&st);
	assert_int_equal(proc_read_fds(c.dirfd, &fds, NULL), 0);
	assert_int_equal(fds.v.n, 0);
	proc_fds_release(&fds);
	assert_int_equal(proc_read_namespaces(c.dirfd, &ns, NULL), 0);
	assert_int_equal(ns.ino[PROC_NS_NET], 0);
	const struct kern_caps *ways[] = {NULL, &caps};
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct proc_vma vma;
		assert_int_equal(proc_read_maps(c.dirfd, ways[i], &maps, NULL), 0);
		assert_int_equal(maps.vmas.n, 0);
		assert_int_equal(proc_read_vma(c.dirfd, ways[i], 4096, &maps, &vma, NULL), -ENOENT);
		proc_maps_release(&maps);
	}

	assert_int_equal(waitpid(c.pid, NULL, 0), c.pid);
	assert_false(proc_exists(c.dirfd));
	struct ferry_error err = FERRY_ERROR_INIT;
	assert_int_equal(proc_read_status(c.dirfd, &st, &err), -ESRCH);
	assert_int_equal(err.id, FERRY_ERROR_NO_SUCH_TASK);
	char want[32];
	snprintf(want, sizeof(want), "/proc/%d/status", c.pid);
	assert_non_null(strstr(err.message, want));
	assert_int_equal(proc_read_stat(c.dirfd, &stat, NULL), -ESRCH);
	assert_int_equal(proc_start_time(c.dirfd, &value, NULL), -ESRCH);
	assert_int_equal(proc_read_fdinfo(c.dirfd, 0, &info, NULL), -ESRCH);
	assert_int_equal(proc_read_fds(c.dirfd, &fds, NULL), -ESRCH);
	assert_int_equal(proc_read_maps(c.dirfd, NULL, &maps, NULL), -ESRCH);
	assert_int_equal(proc_read_maps(c.dirfd, &caps, &maps, NULL), -ESRCH);
	assert_int_equal(proc_read_smaps(c.dirfd, &maps, NULL), -ESRCH);
	assert_int_equal(proc_read_tasks(c.dirfd, &list, NULL), -ESRCH);
	assert_int_equal(proc_read_children(c.dirfd, &list, NULL), -ESRCH);
	assert_int_equal(proc_read_namespaces(c.dirfd, &ns, NULL), -ESRCH);
	assert_int_equal(proc_read_limits(c.dirfd, &limits, NULL), -ESRCH);
	struct proc_settings settings;
	assert_int_equal(proc_read_settings(c.dirfd, &settings, NULL), -ESRCH);
	err = (struct ferry_error)FERRY_ERROR_INIT;
	assert_int_equal(proc_open(c.pid, &err), -ESRCH);
	assert_int_equal(err.id, FERRY_ERROR_NO_SUCH_TASK);
	close(c.dirfd);
}

/* A descriptor of /proc/PID opened before the task ended fails where the files themselves stay open. */
static void test_gone_open_files(unused void **state)
{
	struct child c = child_start(nothing, NULL);
	_cleanup_close_ int maps_fd = proc_open_file(c.dirfd, "maps", O_RDONLY, NULL);
	assert_true(maps_fd >= 0);
	uint64_t before, after;
	assert_int_equal(proc_start_time(c.dirfd, &before, NULL), 0);
	assert_int_equal(proc_start_time(c.dirfd, &after, NULL), 0);
	assert_int_equal(before, after);
	kill(c.pid, SIGKILL);
	assert_int_equal(waitpid(c.pid, NULL, 0), c.pid);
	char byte;
	assert_true(read(maps_fd, &byte, 1) <= 0);
	close(c.dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_family),
		cmocka_unit_test(test_maps),
		cmocka_unit_test(test_maps_restless),
		cmocka_unit_test(test_long_path),
		cmocka_unit_test(test_fds),
		cmocka_unit_test(test_fdinfo_plain),
		cmocka_unit_test(test_fdinfo_eventfd),
		cmocka_unit_test(test_fdinfo_signalfd),
		cmocka_unit_test(test_fdinfo_timerfd),
		cmocka_unit_test(test_fdinfo_epoll),
		cmocka_unit_test(test_fdinfo_inotify),
		cmocka_unit_test(test_fdinfo_fanotify),
		cmocka_unit_test(test_fdinfo_pidfd),
		cmocka_unit_test(test_fdinfo_uffd),
		cmocka_unit_test(test_fdinfo_io_uring),
		cmocka_unit_test(test_fdinfo_tun),
		cmocka_unit_test(test_locks),
		cmocka_unit_test(test_timers),
		cmocka_unit_test(test_namespaces),
		cmocka_unit_test(test_small_files),
		cmocka_unit_test(test_mounts),
		cmocka_unit_test(test_gone),
		cmocka_unit_test(test_gone_open_files),
	};
	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
