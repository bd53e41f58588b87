/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of what a memory lacks, against a table that has each page by itself. */
#include "restore/segments.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "unit.h"

enum { PAGE = 4096, PAGES = 200, ROUNDS = 400, STEPS = 40 };

struct model {
	int source[PAGES]; /* 0 = nothing */
	uint64_t offset[PAGES];
	uint32_t batch[PAGES];
};

static void same(const struct segments *s, const struct model *m)
{
	uint64_t bytes = 0;
	for (size_t page = 0; page < PAGES; page++) {
		const struct segment *g = segments_at(s, page * PAGE + 7);
		assert_int_equal(g != NULL, m->source[page] != 0);
		if (!g)
			continue;
		bytes += PAGE;
		assert_int_equal(g->source, m->source[page]);
		assert_int_equal(g->batch, m->batch[page]);
		if (g->source != SEGMENT_UNKNOWN)
			assert_int_equal(g->offset + (page * PAGE - g->start), m->offset[page]);
	}
	assert_int_equal(segments_bytes(s), bytes);
	for (size_t i = 0; i < s->n; i++) {
		assert_true(s->v[i].start < s->v[i].end);
		assert_true(!i || s->v[i - 1].end <= s->v[i].start);
	}
}

static void begin(struct segments *s, struct model *m)
{
	memset(m, 0, sizeof(*m));
	for (size_t page = 0; page < PAGES;) {
		size_t n = 1 + (size_t)rand() % 12;
		n = n < PAGES - page ? n : PAGES - page;
		int source = 3 + rand() % 2;
		uint64_t offset = (uint64_t)(rand() % 1000) * PAGE;
		const struct segment g = {page * PAGE, (page + n) * PAGE, offset, source, 0};
		if (rand() % 3)
			assert_int_equal(segments_add(s, &g), 0);
		for (size_t i = 0; i < n && s->n && s->v[s->n - 1].start == g.start; i++) {
			m->source[page + i] = source;
			m->offset[page + i] = offset + i * PAGE;
		}
		page += n;
	}
}

static void cut(struct segments *s, struct model *m, size_t from, size_t to, uint32_t spared)
{
	assert_int_equal(segments_cut(s, from * PAGE, to * PAGE, spared), 0);
	for (size_t i = from; i < to; i++)
		if (!spared || m->batch[i] != spared)
			m->source[i] = 0;
}

static void move(struct segments *s, struct model *m, size_t from, size_t to, size_t n, uint32_t batch)
{
	struct model before = *m;
	assert_int_equal(segments_move(s, from * PAGE, to * PAGE, n * PAGE, batch), 0);
	for (size_t i = 0; i < n; i++)
		m->source[from + i] = 0;
	for (size_t i = 0; i < n; i++) {
		m->source[to + i] = before.source[from + i];
		m->offset[to + i] = before.offset[from + i];
		m->batch[to + i] = batch;
	}
}

static void step(struct segments *s, struct model *m, uint32_t batch)
{
	size_t from = (size_t)rand() % PAGES, n = 1 + (size_t)rand() % 30, to = (size_t)rand() % PAGES;
	if (from + n > PAGES || rand() % 2) {
		cut(s, m, from, from + n < PAGES ? from + n : PAGES, rand() % 2 ? batch : 0);
		return;
	}
	/* Never onto itself. */
	if (to + n <= PAGES && (to + n <= from || from + n <= to))
		move(s, m, from, to, n, batch);
}

static void follows_changes(void **state)
{
	(void)state;
	srand(1);
	for (int round = 0; round < ROUNDS; round++) {
		struct segments s = {0};
		struct model m;
		begin(&s, &m);
		same(&s, &m);
		for (uint32_t i = 1; i < STEPS; i++) {
			step(&s, &m, 1 + i / 4);
			same(&s, &m);
		}
		segments_release(&s);
	}
}

static void blends(void **state)
{
	(void)state;
	srand(2);
	for (int round = 0; round < ROUNDS; round++) {
		struct segments a = {0}, b, both;
		struct model m, n, want = {0};
		begin(&a, &m);
		assert_int_equal(segments_copy(&a, &b), 0);
		n = m;
		for (int i = 0; i < rand() % 6; i++)
			step(&b, &n, 1);
		assert_int_equal(segments_blend(&a, &b, &both), 0);
		for (size_t page = 0; page < PAGES; page++) {
			bool agree = m.source[page] == n.source[page] &&
				     (!m.source[page] || m.offset[page] == n.offset[page]);
			want.source[page] = agree ? m.source[page] : SEGMENT_UNKNOWN;
			want.offset[page] = m.offset[page];
		}
		same(&both, &want);
		segments_release(&a);
		segments_release(&b);
		segments_release(&both);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(follows_changes), cmocka_unit_test(blends)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
