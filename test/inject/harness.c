/* SPDX-License-Identifier: Apache-2.0 */
/* Owns starting targets and looking at them through /proc and the memory they share. */
#include "harness.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS 8000000000u

static const char *target_program;
static struct target *current;

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void sleep_us(long us)
{
	struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	nanosleep(&t, NULL);
}

unsigned env_number(const char *name, unsigned otherwise)
{
	const char *value = getenv(name);

	return value && *value ? (unsigned)strtoul(value, NULL, 10) : otherwise;
}

void fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (current) {
		if (getenv("HARNESS_KEEP")) {
			fprintf(stderr, "kept: pid %d\n", current->pid);
			pause();
		}
		target_stop(current);
	}
	exit(1);
}

void harness_init(const char *target_path)
{
	check(target_path, "usage: the path of the target program is the first argument");
	target_program = target_path;
}

void harness_disown(void)
{
	current = NULL;
}

void status_word(pid_t tid, const char *key, char word[static 32])
{
	char path[64], line[256];

	*word = '\0';
	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			sscanf(line + strlen(key), "%31s", word);
	if (f)
		fclose(f);
}

/* A thread that lives: the leader may be a zombie. */
static pid_t living(const struct target *t)
{
	return t->n ? t->shared->thread[0].tid : t->pid;
}

unsigned count_maps(pid_t pid)
{
	char path[64];
	unsigned n = 0;
	int c;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	while (f && (c = getc(f)) != EOF)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

struct target_thread *target_thread(struct target *t, const char *name)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->shared->thread[i].name, name))
			return &t->shared->thread[i];
	fail("%s: no thread '%s'", t->mode, name);
}

static bool target_alive(const struct target *t, const char *when)
{
	int status;

	if (waitpid(t->pid, &status, WNOHANG) != t->pid)
		return true;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		printf("SKIP: the target cannot run in mode %s\n", t->mode);
		exit(77);
	}
	current = NULL;
	fail("%s, %s: the target died, wait status %#x: %s", t->mode, when, status, t->shared->bad_text);
}

void target_check_beats(struct target *t, const char *when)
{
	uint64_t end = clock_ns() + PATIENCE_NS;

	for (int i = 0; i < t->n; i++) {
		struct target_thread *thread = &t->shared->thread[i];
		while (thread->beat == t->beats[i] && target_alive(t, when)) {
			check(clock_ns() < end, "%s, %s: thread %s beats no more (%llu)", t->mode, when,
			      thread->name, (unsigned long long)thread->beat);
			sleep_us(200);
		}
		t->beats[i] = thread->beat;
	}
}

static uint64_t blocked_signals(pid_t tid)
{
	char word[32];

	status_word(tid, "SigBlk:", word);
	return strtoull(word, NULL, 16);
}

void target_start(struct target *t, const char *mode)
{
	*t = (struct target){.mode = mode};
	int fd = memfd_create("target", MFD_CLOEXEC);
	check(fd >= 0 && !ftruncate(fd, sizeof(*t->shared)), "memfd: %s", strerror(errno));
	t->shared = mmap(NULL, sizeof(*t->shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(t->shared != MAP_FAILED, "mmap: %s", strerror(errno));
	t->pid = fork();
	check(t->pid >= 0, "fork: %s", strerror(errno));
	if (!t->pid) {
		if (fd == TARGET_FD)
			fcntl(fd, F_SETFD, 0);
		else
			dup2(fd, TARGET_FD);
		execl(target_program, "target", mode, NULL);
		_exit(2);
	}
	close(fd);
	current = t;
	while (!t->shared->ready && target_alive(t, "start"))
		sleep_us(500);
	sleep_us(20000);
	t->n = t->shared->n_threads;
	if (strcmp(mode, "sleep-long") != 0)
		target_check_beats(t, "start");
	t->maps = count_maps(living(t));
	/* Handlers that run just now block their signal: what is blocked always is the mask. */
	for (int i = 0; i < t->n; i++) {
		t->blocked[i] = ~0ull;
		for (int j = 0; j < 20 && t->blocked[i]; j++) {
			t->blocked[i] &= blocked_signals(t->shared->thread[i].tid);
			sleep_us(t->blocked[i] ? 2000 : 0);
		}
	}
}

void target_stop(struct target *t)
{
	int status;

	current = NULL;
	kill(t->pid, SIGKILL);
	waitpid(t->pid, &status, 0);
	if (t->shared->semaphore)
		semctl(t->shared->semaphore - 1, 0, IPC_RMID);
	munmap(t->shared, sizeof(*t->shared));
}

/* One line of maps: an executable private mapping of a file. */
struct mapping {
	unsigned long start, end, offset;
	char *file;
};

static bool parse_text_mapping(char *line, struct mapping *m)
{
	char *at = line;

	line[strcspn(line, "\n")] = '\0';
	m->start = strtoul(at, &at, 16);
	m->end = strtoul(at + 1, &at, 16);
	if (strncmp(at, " r-xp ", 6) != 0)
		return false;
	m->offset = strtoul(at + 6, &at, 16);
	m->file = strchr(at, '/');
	return m->file != NULL;
}

static void compare_text(struct target *t, int mem, const struct mapping *m, const char *when)
{
	static char in_memory[1 << 20], in_file[1 << 20];

	int fd = open(m->file, O_RDONLY | O_CLOEXEC);
	check(fd >= 0, "%s: %s", m->file, strerror(errno));
	for (unsigned long at = m->start; at < m->end; at += sizeof(in_file)) {
		size_t n = m->end - at < sizeof(in_file) ? m->end - at : sizeof(in_file);
		memset(in_file, 0, n);
		check(pread(fd, in_file, n, (off_t)(m->offset + at - m->start)) >= 0, "%s cannot be read",
		      m->file);
		check(pread(mem, in_memory, n, (off_t)at) == (ssize_t)n,
		      "%s, %s: memory at %#lx cannot be read", t->mode, when, at);
		for (size_t i = 0; i < n; i++)
			check(in_file[i] == in_memory[i], "%s, %s: %s differs from memory at %#lx", t->mode,
			      when, m->file, at + i);
	}
	close(fd);
}

/* Executable file mappings are as their files, to the last byte. */
static void check_text(struct target *t, const char *when)
{
	char path[64], line[512];
	struct mapping m;

	snprintf(path, sizeof(path), "/proc/%d/mem", living(t));
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", living(t));
	FILE *maps = fopen(path, "re");
	check(mem >= 0 && maps, "%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), maps))
		if (parse_text_mapping(line, &m))
			compare_text(t, mem, &m, when);
	fclose(maps);
	close(mem);
}

static void check_thread(struct target *t, int i, const char *when)
{
	char word[32];
	pid_t tid = t->shared->thread[i].tid;
	const char *name = t->shared->thread[i].name;
	uint64_t end = clock_ns() + PATIENCE_NS;

	status_word(tid, "TracerPid:", word);
	check(!strcmp(word, "0"), "%s, %s: %s has tracer %s", t->mode, when, name, word);
	/* A thread that heals restores its mask last; it may still be on its way. */
	while (blocked_signals(tid) != t->blocked[i]) {
		check(clock_ns() < end, "%s, %s: signal mask of %s is %llx, not %llx", t->mode, when, name,
		      (unsigned long long)blocked_signals(tid), (unsigned long long)t->blocked[i]);
		sleep_us(200);
	}
	status_word(tid, "State:", word);
	check(*word != 't' && *word != 'T', "%s, %s: %s is in state %s", t->mode, when, name, word);
}

void target_check(struct target *t, const char *when)
{
	target_check_eintr(t, when, false);
}

void target_check_eintr(struct target *t, const char *when, bool eintr_ok)
{
	uint64_t end = clock_ns() + PATIENCE_NS;

	target_alive(t, when);
	for (int i = 0; i < t->n; i++)
		check_thread(t, i, when);
	target_check_beats(t, when);
	check(!t->shared->bad, "%s, %s: %llu wrong results: %s", t->mode, when,
	      (unsigned long long)t->shared->bad, t->shared->bad_text);
	for (int i = 0; i < t->n; i++)
		check(eintr_ok || !t->shared->thread[i].eintr, "%s, %s: %s returned EINTR", t->mode, when,
		      t->shared->thread[i].name);
	for (int i = 0; i < t->n; i++)
		t->shared->thread[i].eintr = 0;
	while (count_maps(living(t)) != t->maps) {
		check(clock_ns() < end, "%s, %s: %u mappings, not %u", t->mode, when, count_maps(living(t)),
		      t->maps);
		sleep_us(500);
	}
	check_text(t, when);
}
