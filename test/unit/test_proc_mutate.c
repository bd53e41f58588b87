/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parsers of src/proc against damaged texts: every sample cut after each of its bytes, and with bytes changed,
 * lines doubled, dropped and swapped at random (with a seed that is printed). They must neither crash nor break
 * what the fuzz harness checks; run it in the sanitizer build. A cut text must be refused unless it ends with a
 * line.
 */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* the harness itself: its cases are to be called one by one */
#include "../../fuzz/fuzz_proc.c" /* NOLINT(bugprone-suspicious-include) */
#include "proc_samples.h"

enum { MUTATIONS = 3000, CHANGES_MAX = 6 };

#define SAMPLE(number, name)                                     \
	{                                                        \
		number, sample_##name, sizeof(sample_##name) - 1 \
	}

static const struct {
	uint8_t selector;
	const char *text;
	size_t n;
} samples[] = {
	SAMPLE(0, status),      SAMPLE(0, status_old), SAMPLE(0, status_5_4),  SAMPLE(0, status_zombie),
	SAMPLE(1, stat),        SAMPLE(1, stat_old),   SAMPLE(2, maps),        SAMPLE(2, smaps),
	SAMPLE(2, smaps_old),   SAMPLE(4, eventfd),    SAMPLE(4, eventfd_old), SAMPLE(4, epoll),
	SAMPLE(4, epoll_old),   SAMPLE(4, signalfd),   SAMPLE(4, timerfd),     SAMPLE(4, inotify),
	SAMPLE(4, fanotify),    SAMPLE(4, pidfd),      SAMPLE(4, pidfd_dead),  SAMPLE(4, uffd),
	SAMPLE(4, io_uring),    SAMPLE(4, tun),        SAMPLE(4, tun_free),    SAMPLE(4, bpf_map),
	SAMPLE(4, file_locked), SAMPLE(4, plain_old),  SAMPLE(5, locks),       SAMPLE(6, mountinfo),
	SAMPLE(9, limits),      SAMPLE(10, cgroup),    SAMPLE(12, timers),     SAMPLE(13, timens),
	SAMPLE(14, id_map),
};

/* In memory of exactly its size, so that a sanitizer sees one byte too many. */
static void give(uint8_t selector, const char *text, size_t n)
{
	uint8_t *input = malloc(n + 1);
	assert_non_null(input);
	input[0] = selector;
	memcpy(input + 1, text, n);
	LLVMFuzzerTestOneInput(input, n + 1);
	free(input);
}

static void test_every_cut(unused void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		for (size_t n = 0; n <= samples[i].n; n++) {
			struct ferry_error err = FERRY_ERROR_INIT;
			give(samples[i].selector, samples[i].text, n);
			int r = fuzz_cases[samples[i].selector](samples[i].text, n, &err);
			if (n == samples[i].n)
				assert_int_equal(r, 0);
			else if (n && samples[i].text[n - 1] != '\n')
				assert_int_equal(r, -EBADMSG);
		}
}

static void change_byte(char *text, size_t n)
{
	static const char likely[] = "0123456789abcdefx:-/()[] \t\n\\\0\xff,.";
	size_t at = (size_t)rand() % n;
	text[at] = rand() % 2 ? likely[(size_t)rand() % (sizeof(likely) - 1)] : (char)rand();
}

/* Copy a random stretch over another place. */
static void copy_stretch(char *text, size_t n)
{
	size_t from = (size_t)rand() % n, to = (size_t)rand() % n;
	size_t length = (size_t)rand() % MIN(n - from, n - to);
	memmove(text + to, text + from, length);
}

static size_t drop_stretch(char *text, size_t n)
{
	size_t at = (size_t)rand() % n, length = (size_t)rand() % MIN(n - at, (size_t)80);
	memmove(text + at, text + at + length, n - at - length);
	return n - length;
}

static size_t mutate(char *text, size_t n)
{
	for (int i = rand() % CHANGES_MAX; i >= 0 && n > 1; i--)
		switch (rand() % 6) {
		case 0: copy_stretch(text, n); break;
		case 1: n = drop_stretch(text, n); break;
		default: change_byte(text, n); break;
		}
	return n;
}

static void test_mutations(unused void **state)
{
	unsigned seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	srand(seed);
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		for (int round = 0; round < MUTATIONS; round++) {
			char text[8192];
			assert_true(samples[i].n <= sizeof(text));
			memcpy(text, samples[i].text, samples[i].n);
			give(samples[i].selector, text, mutate(text, samples[i].n));
		}
}

/* Each text given to every other parser. */
static void test_mixed_up(unused void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		for (size_t selector = 0; selector < ARRAY_SIZE(fuzz_cases); selector++)
			give((uint8_t)selector, samples[i].text, samples[i].n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_cut),
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_mixed_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
