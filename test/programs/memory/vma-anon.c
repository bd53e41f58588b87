/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anonymous private mappings: protections, holes, pages that were only read, advice, locked and growing ones.
 * Proof: each page's pattern, and permissions and VmFlags as /proc/self/smaps tells them.
 */
#include "program.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct region {
	const char *name;
	const char *perms; /* as /proc/self/maps prints them */
	const char *flag;  /* two letters that VmFlags must show; NULL = none asked */
	size_t pages;
	size_t fill_every; /* page i has a pattern when i % fill_every == 0; 0 = none */
	int prot;
	int map_flags;
	int advice; /* -1 = none */
	bool lock;
	unsigned char *at;
};

struct state {
	struct region *regions;
	size_t n;
};

static struct region regions[] = {
	{"dense", "rw-p", NULL, 64, 1, PROT_READ | PROT_WRITE, 0, -1, false, NULL},
	{"sparse", "rw-p", NULL, 600, 7, PROT_READ | PROT_WRITE, 0, -1, false, NULL},
	{"untouched", "rw-p", NULL, 33, 0, PROT_READ | PROT_WRITE, 0, -1, false, NULL},
	{"read-only", "r--p", NULL, 5, 1, PROT_READ, 0, -1, false, NULL},
	{"executable", "r-xp", NULL, 3, 1, PROT_READ | PROT_EXEC, 0, -1, false, NULL},
	{"no access", "---p", NULL, 4, 2, PROT_NONE, 0, -1, false, NULL},
	{"huge pages", "rw-p", "hg", 1024, 1, PROT_READ | PROT_WRITE, 0, MADV_HUGEPAGE, false, NULL},
	{"no huge pages", "rw-p", "nh", 40, 3, PROT_READ | PROT_WRITE, 0, MADV_NOHUGEPAGE, false, NULL},
	{"not in core dumps", "rw-p", "dd", 9, 2, PROT_READ | PROT_WRITE, 0, MADV_DONTDUMP, false, NULL},
	{"not inherited", "rw-p", "dc", 9, 2, PROT_READ | PROT_WRITE, 0, MADV_DONTFORK, false, NULL},
	{"sequential", "rw-p", "sr", 9, 4, PROT_READ | PROT_WRITE, 0, MADV_SEQUENTIAL, false, NULL},
	{"random", "rw-p", "rr", 9, 4, PROT_READ | PROT_WRITE, 0, MADV_RANDOM, false, NULL},
	{"no reserve", "rw-p", NULL, 100000, 5000, PROT_READ | PROT_WRITE, MAP_NORESERVE, -1, false, NULL},
	{"grows down", "rw-p", "gd", 8, 1, PROT_READ | PROT_WRITE, MAP_GROWSDOWN, -1, false, NULL},
	{"locked", "rw-p", "lo", 6, 1, PROT_READ | PROT_WRITE, 0, -1, true, NULL},
};

/* Pages apart, so that the kernel merges none of them with its neighbour. */
static void region_make(struct region *r, size_t number, unsigned char *at)
{
	r->at = must(mmap(at, r->pages * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | r->map_flags, -1, 0));
	if (r->advice >= 0)
		must(madvise(r->at, r->pages * PAGE, r->advice));
	for (size_t i = 0; r->fill_every && i < r->pages; i += r->fill_every)
		pattern_fill(r->at + i * PAGE, PAGE, number * 1000000 + i);
	/* A page that was read and never written maps the zero page. */
	if (r->pages > 1 && r->fill_every != 1)
		(void)*(volatile unsigned char *)(r->at + PAGE);
	if (r->lock)
		must(mlock(r->at, r->pages * PAGE));
	must(mprotect(r->at, r->pages * PAGE, r->prot));
}

static void region_content(struct program *p, const struct region *r, size_t number)
{
	static const unsigned char zero[PAGE];

	for (size_t i = 0; i < r->pages; i++) {
		const unsigned char *page = r->at + i * PAGE;
		if (r->fill_every && i % r->fill_every == 0)
			expect(p, pattern_differs(page, PAGE, number * 1000000 + i) < 0,
			       "%s: page %zu differs", r->name, i);
		else if (r->pages <= 1000)
			expect(p, !memcmp(page, zero, PAGE), "%s: page %zu is not zero", r->name, i);
	}
}

/* Finds the mapping at an address in smaps; the permissions and the VmFlags line of it. */
static bool region_lookup(const struct region *r, char perms[static 8], char flags[static 256])
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	bool inside = false, found = false;

	flags[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		char what[8];
		if (sscanf(line, "%lx-%lx %7s", &start, &end, what) == 3) {
			inside = start == (unsigned long)r->at && end == start + r->pages * PAGE;
			if (inside)
				strcpy(perms, what);
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			snprintf(flags, 256, "%.250s", line + 8);
			found = true;
		}
	}
	if (f)
		fclose(f);
	return found;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	for (size_t i = 0; i < s->n; i++) {
		const struct region *r = &s->regions[i];
		char perms[8] = "", flags[256];

		if (!region_lookup(r, perms, flags)) {
			program_bad(p, "%s: no mapping of %zu pages at %p", r->name, r->pages, (void *)r->at);
			return;
		}
		expect(p, !strcmp(perms, r->perms), "%s: %s, not %s", r->name, perms, r->perms);
		expect(p, !r->flag || strstr(flags, r->flag), "%s: no flag %s in%s", r->name, r->flag, flags);
		if (r->prot == PROT_NONE)
			must(mprotect(r->at, r->pages * PAGE, PROT_READ));
		region_content(p, r, i);
		if (r->prot == PROT_NONE)
			must(mprotect(r->at, r->pages * PAGE, PROT_NONE));
	}
}

static void spoil(void *state)
{
	struct state *s = state;

	s->regions[0].at[5 * PAGE + 17] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.regions = regions, .n = ARRAY_SIZE(regions)};
	struct program p;
	size_t total = 0;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < s.n; i++)
		total += s.regions[i].pages + 300;
	unsigned char *at =
		must(mmap(NULL, total * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
	must(munmap(at, total * PAGE));
	for (size_t i = 0; i < s.n; i++) {
		region_make(&s.regions[i], i, at + 260 * PAGE);
		at += (s.regions[i].pages + 300) * PAGE;
	}
	return program_serve(&p, &ops, &s);
}
