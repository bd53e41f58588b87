/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures visits to a target: measure TARGET MODE [VISITS [CALLS]]. For each way of running blobs the medians of its
 * parts, in microseconds, and on stderr what lies between one change of the target and the next. Nothing is asserted.
 */
#include "harness.h"
#include "scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes as many cheap calls as its argument says. */
__asm__(".section .rodata\n"
	".globl calls_blob, calls_blob_end\n"
	"calls_blob:\n"
	"push %rbx\n"
	"mov (%rdi), %rbx\n"
	"1: mov $110, %eax\n"
	"syscall\n"
	"dec %rbx\n"
	"jnz 1b\n"
	"mov $0, %eax\n"
	"pop %rbx\n"
	"ret\n"
	"calls_blob_end:\n"
	".previous\n");
extern const unsigned char calls_blob[], calls_blob_end[];

enum part { PART_STOP, PART_LOAD, PART_RUN, PART_UNLOAD, PART_RELEASE, PARTS };
enum { WORDS = 64, VISITS_MAX = 10000 };

/* What was spent from a change called 'what' to the next one. */
struct spent {
	const char *what;
	uint64_t ns, n;
};

struct watch {
	struct spent words[WORDS], *last;
	uint64_t last_ns;
};

static void note(void *context, const char *what)
{
	struct watch *w = context;
	uint64_t now = clock_ns();

	if (w->last)
		w->last->ns += now - w->last_ns;
	struct spent *s = w->words;
	while (s->what && strcmp(s->what, what) != 0)
		s++;
	s->what = what;
	s->n++;
	w->last = s;
	w->last_ns = now;
}

static void visit(struct target *t, const struct scenario *s, uint64_t calls, uint64_t parts[PARTS])
{
	struct ferry_thread *threads[TARGET_THREADS];
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_inject *inject;
	struct ferry_blob *blob;
	uint64_t at[PARTS + 1] = {clock_ns()};
	int64_t r;

	int n = scenario_seize(t, s, threads);
	at[1] = clock_ns();
	must(ferry_inject_open(threads[0], &s->options, &inject, &err), &err);
	must(ferry_inject_blob_load(inject, threads[0], calls_blob, (size_t)(calls_blob_end - calls_blob), 64,
				    &blob, &err),
	     &err);
	at[2] = clock_ns();
	for (int i = 0; i < n; i++) {
		ferry_thread_set_seccomp(threads[i], 0);
		must(ferry_inject_write(inject, ferry_inject_blob_data(blob), &calls, sizeof(calls), &err),
		     &err);
		must(ferry_inject_blob_run(blob, threads[i], 0, &r, &err), &err);
		if (i)
			must(ferry_inject_cure(inject, threads[i], &err), &err);
	}
	at[3] = clock_ns();
	must(ferry_inject_blob_unload(blob, &err), &err);
	must(ferry_inject_cure(inject, threads[0], &err), &err);
	at[4] = clock_ns();
	for (int i = 0; i < n; i++)
		must(ferry_thread_release(threads[i], &err), &err);
	ferry_inject_close(inject);
	at[5] = clock_ns();
	for (int i = 0; i < PARTS; i++)
		parts[i] = at[i + 1] - at[i];
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void measure(struct target *t, uint32_t flags, const char *how, unsigned visits, uint64_t calls)
{
	static uint64_t parts[PARTS][VISITS_MAX];
	struct scenario s = {.options = FERRY_INJECT_OPTIONS_INIT};
	struct watch watch = {.last = NULL};
	uint64_t one[PARTS];
	double median_us[PARTS], all_us = 0;

	s.options.flags = flags;
	for (unsigned i = 0; i < visits; i++) {
		visit(t, &s, calls, one);
		for (int j = 0; j < PARTS; j++)
			parts[j][i] = one[j];
		sleep_us(2000);
	}
	for (int j = 0; j < PARTS; j++) {
		const uint64_t *middle = &parts[j][visits / 2];
		qsort(parts[j], visits, sizeof(uint64_t), by_value);
		median_us[j] = (double)*middle / 1e3;
		all_us += median_us[j];
	}
	printf("%s, %d threads, blobs of %llu calls %s: stop %.1f, load %.1f, run %.1f each, unload %.1f, release %.1f, "
	       "all %.1f us\n",
	       t->mode, t->n, (unsigned long long)calls, how, median_us[PART_STOP], median_us[PART_LOAD],
	       median_us[PART_RUN] / t->n, median_us[PART_UNLOAD], median_us[PART_RELEASE], all_us);
	s.options.on_effect = note;
	s.options.context = &watch;
	for (unsigned i = 0; i < visits; i++) {
		watch.last = NULL;
		visit(t, &s, calls, one);
		sleep_us(2000);
	}
	for (const struct spent *w = watch.words; w->what; w++)
		fprintf(stderr, "  %-16s %5.1f a visit, %6.2f us each\n", w->what, (double)w->n / visits,
			(double)w->ns / (double)w->n / 1e3);
}

int main(int argc, char **argv)
{
	unsigned visits = argc > 3 ? (unsigned)atoi(argv[3]) : 200;
	uint64_t calls = argc > 4 ? (uint64_t)atoi(argv[4]) : 8;
	struct target t;

	harness_init(argv[1]);
	check(argc > 2 && visits && visits <= VISITS_MAX && calls,
	      "usage: measure TARGET MODE [VISITS [CALLS]]");
	target_start(&t, argv[2]);
	measure(&t, FERRY_INJECT_ALL_STOPPED, "to a signal", visits, calls);
	measure(&t, 0, "by steps", visits, calls);
	target_check_eintr(&t, "after the visits", true);
	target_stop(&t);
	return 0;
}
