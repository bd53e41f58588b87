/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The break, a deep stack, the argument area, the auxiliary vector and the link to the executable. Proof: patterns,
 * what /proc/self says compared with a copy made at the start, and that the break still moves.
 */
#include "program.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, HEAP_PAGES = 20, STACK_BYTES = 300000, TEXT_BYTES = 8192 };

struct text {
	ssize_t n;
	char bytes[TEXT_BYTES];
};

struct state {
	unsigned char *heap;
	char *heap_end;
	unsigned char *stack;
	char **argv;
	char *first_argument;
	struct text cmdline, environ, auxv, exe, areas;
};

static void read_text(const char *path, struct text *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(ret, 0, sizeof(*ret));
	ret->n = fd < 0 ? -1 : read(fd, ret->bytes, sizeof(ret->bytes));
	close(fd);
}

/* Addresses that the kernel keeps for this process: fields 26-28 and 45-51 of /proc/self/stat (proc(5)). */
static void read_areas(struct text *ret)
{
	struct text stat;
	int field = 2, n = 0;

	read_text("/proc/self/stat", &stat);
	memset(ret, 0, sizeof(*ret));
	const char *rest = strrchr(stat.bytes, ')');
	for (char *save = NULL, *word = strtok_r((char *)rest + 1, " \n", &save); word;
	     word = strtok_r(NULL, " \n", &save)) {
		field++;
		if ((field >= 26 && field <= 28) || (field >= 45 && field <= 51))
			n += snprintf(ret->bytes + n, sizeof(ret->bytes) - (size_t)n, "%d:%s ", field, word);
	}
	ret->n = n;
}

static void read_exe(struct text *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->n = readlink("/proc/self/exe", ret->bytes, sizeof(ret->bytes) - 1);
}

static void same_text(struct program *p, const char *what, const struct text *got, const struct text *want)
{
	expect_same(p, what, got->n, want->n);
	expect(p, want->n > 0 && !memcmp(got->bytes, want->bytes, (size_t)want->n), "%s changed: %.150s",
	       what, got->bytes);
}

/* The vdso may have moved, and its entry with it; then it must point at an ELF image. */
static void neutral_vdso(struct program *p, struct text *auxv)
{
	Elf64_auxv_t entry;

	for (size_t at = 0; at + sizeof(entry) <= (size_t)auxv->n; at += sizeof(entry)) {
		memcpy(&entry, auxv->bytes + at, sizeof(entry));
		if (entry.a_type != AT_SYSINFO_EHDR)
			continue;
		expect(p, !memcmp((const void *)entry.a_un.a_val, ELFMAG, SELFMAG),
		       "AT_SYSINFO_EHDR points at no ELF image");
		memset(auxv->bytes + at, 0, sizeof(entry));
	}
}

static void verify_areas(struct program *p, const struct state *s)
{
	static struct text now, then;

	read_text("/proc/self/cmdline", &now);
	same_text(p, "cmdline", &now, &s->cmdline);
	read_text("/proc/self/environ", &now);
	same_text(p, "environ", &now, &s->environ);
	read_exe(&now);
	same_text(p, "exe", &now, &s->exe);
	read_areas(&now);
	same_text(p, "areas", &now, &s->areas);
	read_text("/proc/self/auxv", &now);
	then = s->auxv;
	neutral_vdso(p, &now);
	neutral_vdso(p, &then);
	same_text(p, "auxv", &now, &then);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, pattern_differs(s->heap, HEAP_PAGES * PAGE, 1) < 0, "the heap differs");
	expect(p, pattern_differs(s->stack, STACK_BYTES, 2) < 0, "the stack differs");
	expect(p, s->argv[1] == s->first_argument && !strcmp(s->argv[1], p->folder), "argv[1] is '%s'",
	       s->argv[1]);
	expect(p, sbrk(0) == s->heap_end, "the break is at %p, not %p", sbrk(0), (void *)s->heap_end);
	expect(p, sbrk(PAGE) == s->heap_end, "the break cannot grow");
	expect(p, sbrk(-PAGE) == s->heap_end + PAGE, "the break cannot shrink");
	verify_areas(p, s);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->stack[STACK_BYTES / 2] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	unsigned char deep[STACK_BYTES];
	struct program p;

	program_start(&p, argc, argv);
	s.argv = argv;
	s.first_argument = argv[1];
	s.stack = deep;
	pattern_fill(deep, sizeof(deep), 2);
	s.heap = must(sbrk(HEAP_PAGES * PAGE));
	pattern_fill(s.heap, HEAP_PAGES * PAGE, 1);
	s.heap_end = sbrk(0);
	read_text("/proc/self/cmdline", &s.cmdline);
	read_text("/proc/self/environ", &s.environ);
	read_text("/proc/self/auxv", &s.auxv);
	read_exe(&s.exe);
	read_areas(&s.areas);
	return program_serve(&p, &ops, &s);
}
