/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what the bits of vm_flags mean. Their numbers are the kernel's own affair and differ between versions and configurations. But
 * smaps has each word exactly if the mapping has one certain bit (fs/proc/task_mmu.c, since 3.8), so examples tell the rest: a word
 * belongs to one of the bits that are set in the same examples as the word is. Bits that the examples do not tell apart are a
 * group; a value that has all of them has all of their words, one that has some is not known.
 */
#include "proc/vma_words.h"

#include <errno.h>

#include "proc/maps.h"

enum { WORDS_EXAMPLES = 64 };

/* In which examples a bit is set. */
static uint64_t words_seen(const struct vma_example *examples, size_t n, uint64_t bit, bool raw)
{
	uint64_t seen = 0;
	for (size_t i = 0; i < n; i++)
		seen |= (uint64_t) !!((raw ? examples[i].raw : examples[i].words) & bit) << i;
	return seen;
}

/* Those that differ, as many as bits of a word can tell; a word that this ferry does not know may be that of several bits. */
static size_t words_choose(const struct vma_example *from, size_t n, struct vma_example *to)
{
	size_t chosen = 0;
	for (size_t i = 0; i < n && chosen < WORDS_EXAMPLES; i++) {
		bool had = from[i].words & 1ULL << PROC_VMFLAG_OTHER;
		for (size_t k = 0; k < chosen && !had; k++)
			had = to[k].raw == from[i].raw && to[k].words == from[i].words;
		if (!had)
			to[chosen++] = from[i];
	}
	return chosen;
}

static void words_group(struct vma_words *w, uint64_t *seen_of_group, uint64_t seen, uint64_t bit)
{
	size_t i = 0;
	while (i < w->n && seen_of_group[i] != seen)
		i++;
	if (i == w->n) {
		w->group[w->n++] = (struct vma_group){0};
		seen_of_group[i] = seen;
	}
	w->group[i].bits |= bit;
	w->known |= bit;
}

static int words_give(struct vma_words *w, const uint64_t *seen_of_group, uint64_t seen, uint64_t word)
{
	for (size_t i = 0; i < w->n; i++) {
		if (seen_of_group[i] != seen)
			continue;
		w->group[i].words |= word;
		/* Each word has a bit of its own. */
		return __builtin_popcountll(w->group[i].words) <= __builtin_popcountll(w->group[i].bits)
			       ? 0
			       : -EPROTO;
	}
	return -EPROTO;
}

int vma_words_learn(struct vma_words *ret, const struct vma_example *examples, size_t n)
{
	struct vma_example chosen[WORDS_EXAMPLES];
	struct vma_words w = {0};
	uint64_t seen_of_group[ARRAY_SIZE(w.group)];
	size_t n_chosen = words_choose(examples, n, chosen);
	int r = 0;
	for (int bit = 0; bit < 64; bit++) {
		uint64_t seen = words_seen(chosen, n_chosen, 1ULL << bit, true);
		if (seen)
			words_group(&w, seen_of_group, seen, 1ULL << bit);
	}
	for (int word = 0; word < PROC_VMFLAG_COUNT && r >= 0; word++) {
		uint64_t seen = words_seen(chosen, n_chosen, 1ULL << word, false);
		if (seen)
			r = words_give(&w, seen_of_group, seen, 1ULL << word);
	}
	for (size_t i = 0; i < n && r >= 0; i++) {
		uint64_t words;
		if (vma_words_tell(&w, examples[i].raw, &words) && words != examples[i].words)
			r = -EPROTO;
	}
	if (r >= 0)
		*ret = w;
	return r;
}

bool vma_words_tell(const struct vma_words *w, uint64_t raw, uint64_t *ret_words)
{
	uint64_t words = 0;
	if (raw & ~w->known)
		return false;
	for (size_t i = 0; i < w->n; i++) {
		uint64_t has = raw & w->group[i].bits;
		if (has && has != w->group[i].bits)
			return false;
		words |= has ? w->group[i].words : 0;
	}
	*ret_words = words;
	return true;
}
