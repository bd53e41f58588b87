/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the mailbox of test programs. Uses no heap, no stdio and keeps no descriptor open between questions. */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { POLL_MS = 4 };

void program_die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(1);
}

void program_lacks(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(77);
}

long long fdinfo_number(int fd, const char *format)
{
	char path[64], line[256];
	unsigned long long value;
	long long found = -1;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, format, &value) == 1)
			found = (long long)value;
	if (f)
		fclose(f);
	return found;
}

void sleep_ms(long ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static uint64_t pattern_at(uint64_t seed, size_t index)
{
	uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15u + index * 0xbf58476d1ce4e5b9u;

	return (x ^ x >> 29) * 0x94d049bb133111ebu;
}

void pattern_fill(void *to, size_t n, uint64_t seed)
{
	unsigned char *p = to;

	for (size_t i = 0; i < n; i++)
		p[i] = (unsigned char)(pattern_at(seed, i / 8) >> i % 8 * 8);
}

ssize_t pattern_differs(const void *from, size_t n, uint64_t seed)
{
	const unsigned char *p = from;

	for (size_t i = 0; i < n; i++)
		if (p[i] != (unsigned char)(pattern_at(seed, i / 8) >> i % 8 * 8))
			return (ssize_t)i;
	return -1;
}

void file_put(const char *path, mode_t mode, uint64_t seed, size_t n)
{
	void *bytes = must(malloc(n));
	int fd = must(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
	pattern_fill(bytes, n, seed);
	must(write(fd, bytes, n));
	must(fchmod(fd, mode));
	close(fd);
	free(bytes);
}

void file_expect(struct program *p, const char *path, mode_t mode, uint64_t seed, size_t n)
{
	struct stat st = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	expect(p, fd >= 0, "%s cannot be opened: %s", path, strerror(errno));
	if (fd < 0)
		return;
	void *bytes = must(malloc(n));
	fstat(fd, &st);
	expect_same(p, "mode", st.st_mode & 07777, mode);
	expect_same(p, "bytes", read(fd, bytes, n), (long long)n);
	expect(p, pattern_differs(bytes, n, seed) < 0, "%s differs", path);
	close(fd);
	free(bytes);
}

void program_bad(struct program *p, const char *fmt, ...)
{
	va_list ap;

	if (p->bad)
		return;
	p->bad = true;
	va_start(ap, fmt);
	vsnprintf(p->reason, sizeof(p->reason), fmt, ap);
	va_end(ap);
}

static void mailbox_path(const struct program *p, const char *prefix, const char *role, char *ret, size_t n)
{
	snprintf(ret, n, "%s/%s.%s", p->folder, prefix, role);
}

/* Whatever the program did to its umask or file size limit, an answer is short and readable. */
static void mailbox_write(const struct program *p, const char *prefix, const char *text)
{
	char path[256], fresh[256];

	mailbox_path(p, prefix, p->role, path, sizeof(path));
	mailbox_path(p, ".new", p->role, fresh, sizeof(fresh));
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fchmod(fd, 0644) < 0)
		program_die(fresh);
	close(fd);
	if (rename(fresh, path) < 0)
		program_die(path);
}

static void program_answer(struct program *p)
{
	char text[400];

	if (p->bad)
		snprintf(text, sizeof(text), "%u bad %s\n", p->answered, p->reason);
	else
		snprintf(text, sizeof(text), "%u ok\n", p->answered);
	mailbox_write(p, "answer", text);
	p->bad = false;
	p->reason[0] = '\0';
}

static unsigned long long birth_once(void)
{
	char text[1024] = "";
	unsigned long long birth = 0;
	int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	const char *rest = n > 0 ? strrchr(text, ')') : NULL;

	close(fd);
	/* Field 22 (proc(5)), in hundredths of a second; the name before it may hold anything. */
	if (rest)
		sscanf(rest,
		       ") %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
		       &birth);
	/* Two processes may have the same time: clocks go on where they were. Since Linux 6.9 each process has an inode of its own. */
	struct stat st = {0};
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (self >= 0 && fstat(self, &st) < 0)
		st.st_ino = 0;
	if (self >= 0)
		close(self);
	return birth << 32 | (st.st_ino & UINT32_MAX);
}

unsigned long long program_birth(void)
{
	/* A process that is frozen between two calls and restored gets a bit of either. */
	unsigned long long birth, again = birth_once();

	do {
		birth = again;
		again = birth_once();
	} while (birth != again);
	return birth;
}

/* A line of smaps, of the mapping that holds an address; what follows its name goes to ret. */
static bool smaps_line(const void *address, const char *name, char *ret, size_t n)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	bool inside = false, found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		char perms[8];
		if (sscanf(line, "%lx-%lx %7s", &start, &end, perms) == 3)
			inside = start <= (unsigned long)address && (unsigned long)address < end;
		else if (inside && !strncmp(line, name, strlen(name)))
			found = snprintf(ret, n, "%s", line + strlen(name)) > 0;
	}
	if (f)
		fclose(f);
	return found;
}

bool smaps_flag(const void *address, const char *word)
{
	char line[256], padded[8];

	snprintf(padded, sizeof(padded), " %s ", word);
	return smaps_line(address, "VmFlags:", line, sizeof(line)) && strstr(line, padded);
}

long smaps_kb(const void *address, const char *name)
{
	char line[64];

	return smaps_line(address, name, line, sizeof(line)) ? strtol(line, NULL, 10) : -1;
}

bool memory_readable(const void *address)
{
	char byte;
	struct iovec to = {&byte, 1}, from = {(void *)(uintptr_t)address, 1};

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

void program_start(struct program *p, int argc, char **argv)
{
	*p = (struct program){.role = "main"};
	if (argc < 2 || strlen(argv[1]) >= sizeof(p->folder)) {
		fprintf(stderr, "usage: %s MAILBOX [ARGUMENT...]\n", argv[0]);
		exit(2);
	}
	strcpy(p->folder, argv[1]);
	p->more = program_told(argc, argv, "more");
}

bool program_told(int argc, char **argv, const char *word)
{
	for (int i = 2; i < argc; i++)
		if (!strcmp(argv[i], word))
			return true;
	return false;
}

struct program program_role(const struct program *p, const char *role)
{
	struct program other = *p;

	other.answered = 0;
	other.bad = false;
	snprintf(other.role, sizeof(other.role), "%s", role);
	return other;
}

void program_await(const struct program *p, const char *role)
{
	char path[256];

	mailbox_path(p, "answer", role, path, sizeof(path));
	while (access(path, F_OK) < 0)
		sleep_ms(1);
}

static uintptr_t thread_pointer(void)
{
#ifdef __x86_64__
	uintptr_t value;

	__asm__("mov %%fs:0, %0" : "=r"(value));
	return value;
#else
	return (uintptr_t)__builtin_thread_pointer();
#endif
}

static bool other_numbers;

void program_has_other_numbers(void)
{
	other_numbers = true;
}

/* Our number in the PID namespace of the tests, which is that of the mounted /proc. */
static int outer_pid(void)
{
	char text[16] = "";
	if (!other_numbers)
		return getpid();
	return readlink("/proc/self", text, sizeof(text) - 1) > 0 ? (pid_t)strtol(text, NULL, 10) : getpid();
}

void program_note_volatile(const struct program *p)
{
	enum { DEAD_STACK = 8192 };
	uintptr_t rseq = thread_pointer() + (uintptr_t)__rseq_offset;
	uintptr_t frame = (uintptr_t)__builtin_frame_address(0);
	int outer = outer_pid();
	stack_t alternate;
	char text[192];
	int n = snprintf(text, sizeof(text), "%d %lx %lx\n%d %lx %lx\n", outer, (unsigned long)rseq,
			 (unsigned long)rseq + 32, outer, (unsigned long)(frame - DEAD_STACK),
			 (unsigned long)frame);

	/* What lies below a stack pointer, or on an alternate stack that is not in use, belongs to signal frames. */
	if (sigaltstack(NULL, &alternate) == 0 && !(alternate.ss_flags & (SS_DISABLE | SS_ONSTACK)))
		snprintf(text + n, sizeof(text) - (size_t)n, "%d %lx %lx\n", outer,
			 (unsigned long)alternate.ss_sp, (unsigned long)alternate.ss_sp + alternate.ss_size);
	mailbox_write(p, "volatile", text);
}

void program_note_sparse(const struct program *p, const void *start, size_t bytes)
{
	char text[96];

	snprintf(text, sizeof(text), "%d %lx %lx\n", outer_pid(), (unsigned long)start,
		 (unsigned long)start + bytes);
	mailbox_write(p, "volatile.sparse", text);
}

/* Reads the pending question into word; false when there is none that is new. */
static bool program_asked(struct program *p, char word[static 16])
{
	char path[256], text[64] = "";
	unsigned number = 0;

	mailbox_path(p, "ask", p->role, path, sizeof(path));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	char *end = text;
	if (n > 0)
		number = (unsigned)strtoul(text, &end, 10);
	if (*end != ' ' || number <= p->answered)
		return false;
	snprintf(word, 16, "%s", end + 1);
	word[strcspn(word, "\n")] = '\0';
	p->answered = number;
	return true;
}

/* Returns false when the program has to end. */
static bool program_obey(struct program *p, const char *word, const struct program_ops *ops, void *state)
{
	if (!strcmp(word, "verify"))
		ops->verify(p, state);
	else if (!strcmp(word, "finish"))
		(ops->finish ? ops->finish : ops->verify)(p, state);
	else if (!strcmp(word, "spoil") && ops->spoil)
		ops->spoil(state);
	else if (!strcmp(word, "spoil"))
		program_bad(p, "nothing to spoil");
	else if (strcmp(word, "quit") != 0)
		program_bad(p, "unknown word '%s'", word);
	program_answer(p);
	return strcmp(word, "quit") != 0;
}

int program_serve(struct program *p, const struct program_ops *ops, void *state)
{
	char word[16];

	program_note_volatile(p);
	program_answer(p);
	for (;;) {
		if (program_asked(p, word) && !program_obey(p, word, ops, state))
			return 0;
		if (ops->step)
			ops->step(state);
		sleep_ms(POLL_MS);
	}
}
