/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control groups and their namespaces. The first process has a namespace of its own, in whose root it lives; with "below" it lives in a group
 * below that; with "children" it is in ferry's and has a child like that, which has one in the same namespace and one with a namespace of its
 * own; with "outside" it lives in its group without any namespace; with "thread" another thread is in another group (v1), with "threaded"
 * in one of threads (v2); with "limit" the group has a limit, which acts. Proof: the path of each as the namespace shows it, who the groups say
 * is in them, which namespaces are the same, that a group made later is where it ought to be, and how many processes there can be.
 */
#include "program.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { V2_MAGIC = 0x63677270, HIERARCHIES_MAX = 2, PATH_BYTES = 480, LIMIT = 9 };

/* Groups that the test may make, and how /proc/PID/cgroup calls the hierarchy. */
struct hierarchy {
	const char *point, *line;
};

static struct hierarchy hierarchies[HIERARCHIES_MAX];
static size_t n_hierarchies;

struct member {
	char group[PATH_BYTES]; /* below the hierarchy */
	const char *inside;     /* as the namespace shows it */
	const pid_t *children;  /* of the first process: three, or NULL */
	pid_t other;            /* a thread in the group below; 0 = none */
	const char *threads;    /* the file that names it */
	bool has_limit;
};

static void find_hierarchies(bool v1, bool v2)
{
	static const char *const unified[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
	struct statfs fs;

	if (v1 && access("/sys/fs/cgroup/pids/tasks", F_OK) == 0)
		hierarchies[n_hierarchies++] = (struct hierarchy){"/sys/fs/cgroup/pids", ":pids:"};
	for (int i = 0; i < 2 && v2; i++)
		if (statfs(unified[i], &fs) == 0 && fs.f_type == V2_MAGIC) {
			hierarchies[n_hierarchies++] = (struct hierarchy){unified[i], "\n0::"};
			break;
		}
	if (!n_hierarchies)
		program_lacks("a cgroup hierarchy below /sys/fs/cgroup");
}

static void group_path(char *to, const struct hierarchy *h, const char *group)
{
	snprintf(to, PATH_BYTES + 64, "%s%s", h->point, group);
}

static void make_groups(const char *group)
{
	char path[PATH_BYTES + 64];

	for (size_t i = 0; i < n_hierarchies; i++) {
		group_path(path, &hierarchies[i], group);
		for (char *at = path + strlen(hierarchies[i].point) + 1; (at = strchr(at, '/')); at++) {
			*at = '\0';
			mkdir(path, 0755);
			*at = '/';
		}
		mkdir(path, 0755); /* there already, where the same process was before */
	}
}

static void move_to(const char *group, const char *file)
{
	char path[PATH_BYTES + 64];

	for (size_t i = 0; i < n_hierarchies; i++) {
		group_path(path, &hierarchies[i], group);
		int dir = must(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
		int fd = must(openat(dir, file, O_WRONLY | O_CLOEXEC));
		must(write(fd, "0", 1));
		close(fd);
		close(dir);
	}
}

static unsigned long namespace_of(pid_t pid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/cgroup", pid);
	must(stat(path, &st));
	return st.st_ino;
}

static void read_text(const char *path, char *text, size_t size)
{
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t n = must(read(fd, text, size - 1));
	text[n] = '\0';
	close(fd);
}

static void expect_inside(struct program *p, const struct hierarchy *h, pid_t tid, const char *inside)
{
	char path[64], text[4000] = "\n", want[PATH_BYTES + 32];

	snprintf(path, sizeof(path), "/proc/self/task/%d/cgroup", tid);
	read_text(path, text + 1, sizeof(text) - 1);
	snprintf(want, sizeof(want), "%s%s\n", h->line, inside);
	expect(p, strstr(text, want), "thread %d is not in '%s' of %s", tid, inside, h->point);
}

/* Whether a file of a group names a process or a thread. */
static bool names(const struct hierarchy *h, const char *group, const char *file, pid_t pid)
{
	char path[PATH_BYTES + 128], text[4000], want[32];

	snprintf(path, sizeof(path), "%s%s/%s", h->point, group, file);
	text[0] = '\n';
	read_text(path, text + 1, sizeof(text) - 1);
	snprintf(want, sizeof(want), "\n%d\n", pid);
	return strstr(text, want);
}

static void verify_group(struct program *p, const struct member *m)
{
	char below[PATH_BYTES + 8], inside[PATH_BYTES];

	snprintf(below, sizeof(below), "%s/low", m->group);
	snprintf(inside, sizeof(inside), "%s/low", m->inside[1] ? m->inside : "");
	for (size_t i = 0; i < n_hierarchies; i++) {
		const struct hierarchy *h = &hierarchies[i];
		expect_inside(p, h, gettid(), m->inside);
		expect(p, names(h, m->group, "cgroup.procs", getpid()), "group '%s' does not name %d",
		       m->group, getpid());
		if (!m->other)
			continue;
		expect_inside(p, h, m->other, inside);
		expect(p, names(h, below, m->threads, m->other), "group '%s' does not name its thread",
		       below);
		expect(p, !names(h, m->group, m->threads, m->other), "group '%s' names the other thread",
		       m->group);
	}
}

static void put(const char *group, const char *file, const char *text)
{
	char path[PATH_BYTES + 128];

	for (size_t i = 0; i < n_hierarchies; i++) {
		snprintf(path, sizeof(path), "%s%s/%s", hierarchies[i].point, group, file);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			continue; /* v2 has it only where the controller is not one of v1 */
		must(write(fd, text, strlen(text)));
		close(fd);
	}
}

static void verify_limit(struct program *p, const struct member *m)
{
	char path[PATH_BYTES + 128], text[32];

	for (size_t i = 0; i < n_hierarchies; i++) {
		snprintf(path, sizeof(path), "%s%s/pids.max", hierarchies[i].point, m->group);
		if (access(path, R_OK) < 0)
			continue;
		read_text(path, text, sizeof(text));
		expect(p, atoi(text) == LIMIT, "the limit of '%s' is %s", m->group, text);
	}
}

/* As many processes as the limit allows, we among them. */
static void use_limit(struct program *p)
{
	pid_t pids[LIMIT + 1];
	int n = 0;

	while (n <= LIMIT && (pids[n] = fork()) >= 0) {
		if (!pids[n])
			for (;;)
				pause();
		n++;
	}
	expect(p, n == LIMIT - 1, "the limit let %d children be", n);
	for (int i = 0; i < n; i++) {
		kill(pids[i], SIGKILL);
		must(waitpid(pids[i], NULL, 0));
	}
}

static void verify(struct program *p, void *state)
{
	const struct member *m = state;

	if (m->inside)
		verify_group(p, m);
	if (m->has_limit)
		verify_limit(p, m);
	if (!m->children)
		return;
	unsigned long own = namespace_of(getpid()), first = namespace_of(m->children[0]),
		      second = namespace_of(m->children[1]), third = namespace_of(m->children[2]);
	expect(p, first == second, "the two children are in different namespaces");
	expect(p, first != third && first != own && third != own,
	       "namespaces that were different are the same");
}

/* A new group below the own one is below it for the namespace, too. */
static void finish(struct program *p, void *state)
{
	struct member *m = state;
	char own[PATH_BYTES], later[PATH_BYTES + 16], inside[PATH_BYTES + 16];

	verify(p, state);
	if (m->has_limit)
		use_limit(p);
	if (!m->inside || m->other)
		return;
	snprintf(own, sizeof(own), "%s", m->group);
	snprintf(later, sizeof(later), "%s/later-%d", own, getpid());
	snprintf(inside, sizeof(inside), "%s/later-%d", m->inside[1] ? m->inside : "", getpid());
	make_groups(later);
	move_to(later, "cgroup.procs");
	for (size_t i = 0; i < n_hierarchies; i++)
		expect_inside(p, &hierarchies[i], gettid(), inside);
	move_to(own, "cgroup.procs");
}

static void spoil(void *state)
{
	const struct member *m = state;

	if (m->has_limit) {
		put(m->group, "pids.max", "max");
		return;
	}
	if (m->inside) {
		move_to("/", "cgroup.procs");
		return;
	}
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/ns/cgroup", m->children[0]);
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));
	must(setns(fd, CLONE_NEWCGROUP));
}

static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
static const struct program_ops child_ops = {.verify = verify, .finish = finish};

/* In a new namespace whose root is the group, unless it stays outside; the member goes below that if it is told to. */
static void enter(struct member *m, const char *base, const char *root, const char *below, bool outside)
{
	snprintf(m->group, sizeof(m->group), "%s/%s", base, root);
	make_groups(m->group);
	move_to(m->group, "cgroup.procs");
	m->inside = m->group;
	if (outside)
		return;
	must(unshare(CLONE_NEWCGROUP));
	m->inside = "/";
	if (below) {
		strncat(m->group, below, sizeof(m->group) - strlen(m->group) - 1);
		make_groups(m->group);
		move_to(m->group, "cgroup.procs");
		m->inside = below;
	}
}

static __attribute__((noreturn)) void child_main(const struct program *p, const char *role, struct member *m)
{
	struct program q = program_role(p, role);
	_exit(program_serve(&q, &child_ops, m));
}

/* The numbers of the children, in memory that all share. */
static const pid_t *make_children(const struct program *p, const char *base)
{
	pid_t *pids =
		must((pid_t *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	pid_t pid = must(fork());

	if (!pid) {
		struct member first = {0}, second, third = {0};
		enter(&first, base, "first", "/deep", false);
		second = first;
		pid = must(fork());
		if (!pid)
			child_main(p, "second", &second);
		pids[1] = pid;
		program_await(p, "second");
		pid = must(fork());
		if (!pid) {
			enter(&third, base, "third", NULL, false);
			child_main(p, "third", &third);
		}
		pids[2] = pid;
		program_await(p, "third");
		child_main(p, "first", &first);
	}
	pids[0] = pid;
	program_await(p, "first");
	return pids;
}

struct outsider {
	const struct program *program;
	const char *group, *file;
	atomic_int tid;
};

static void *outsider_main(void *argument)
{
	struct outsider *o = argument;

	make_groups(o->group);
	if (!strcmp(o->file, "cgroup.threads"))
		put(o->group, "cgroup.type", "threaded");
	move_to(o->group, o->file);
	program_note_volatile(o->program);
	o->tid = gettid();
	for (;;)
		pause();
	return NULL;
}

static void add_thread(const struct program *p, struct member *m, const char *file)
{
	static char group[PATH_BYTES];
	static struct outsider outsider;
	pthread_t thread;

	strcpy(group, m->group);
	strncat(group, "/low", sizeof(group) - strlen(group) - 1);
	m->threads = file;
	outsider = (struct outsider){.program = p, .group = group, .file = file};
	if (pthread_create(&thread, NULL, outsider_main, &outsider))
		program_die("pthread_create");
	while (!outsider.tid)
		sleep_ms(1);
	m->other = outsider.tid;
}

int main(int argc, char **argv)
{
	static struct member me;
	static struct program p;
	char base[PATH_BYTES - 160], *folder;

	program_start(&p, argc, argv);
	bool threaded = program_told(argc, argv, "threaded"), thread = program_told(argc, argv, "thread");
	find_hierarchies(!threaded, !thread);
	/* Named after the folder of the test, by which it is removed afterwards. */
	folder = realpath(p.folder, NULL);
	if (!folder || !strchr(folder + 1, '/'))
		program_die("realpath");
	snprintf(base, sizeof(base), "%s", strchr(folder + 1, '/'));
	free(folder);
	if (program_told(argc, argv, "children"))
		me.children = make_children(&p, base);
	else
		enter(&me, base, "own", program_told(argc, argv, "below") ? "/deep" : NULL,
		      program_told(argc, argv, "outside"));
	me.has_limit = program_told(argc, argv, "limit");
	if (me.has_limit)
		put(me.group, "pids.max", "9");
	if (thread || threaded)
		add_thread(&p, &me, threaded ? "cgroup.threads" : "tasks");
	return program_serve(&p, &ops, &me);
}
