/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BPF maps held by descriptor: an array, a hash with entries and room, one that forgets the oldest, one that is frozen, one that can be mapped, one that
 * two descriptors share. Proof: type, sizes, flags, name; every key and value; what is absent; at the end keys are
 * added, changed and removed, and the frozen one refuses.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 50, MAPS = 5, FROZEN = 3, SHARED_FD = 60, VALUE_MAX = 64 * 128 };

struct map {
	uint32_t type, key_bytes, value_bytes, max_entries, flags;
	const char *name;
	unsigned entries;
	int fd;
};

static struct map maps[MAPS] = {
	{BPF_MAP_TYPE_ARRAY, 4, 24, ENTRIES, 0, "an_array", ENTRIES, -1},
	{BPF_MAP_TYPE_HASH, 8, 16, 200, BPF_F_NO_PREALLOC, "a_hash", ENTRIES, -1},
	{BPF_MAP_TYPE_LRU_HASH, 8, 32, 500, 0, "an_lru", 20, -1},
	{BPF_MAP_TYPE_HASH, 8, 8, 100, 0, "frozen", 7, -1},
	{BPF_MAP_TYPE_ARRAY, 4, 4096, 1, BPF_F_MMAPABLE, "mappable", 1, -1},
};

static int bpf_call(int cmd, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int bpf_element(int cmd, int fd, const void *key, void *value)
{
	union bpf_attr attr = {.map_fd = (uint32_t)fd, .key = (uintptr_t)key, .value = (uintptr_t)value};

	return bpf_call(cmd, &attr);
}

/* Keys of a hash are spread, of an array they are the index. */
static uint64_t key_of(const struct map *m, unsigned i)
{
	return m->key_bytes == 4 ? i : i * 0x9e3779b97f4a7c15u + 1;
}

static void map_verify(struct program *p, const struct map *m, uint64_t seed)
{
	struct bpf_map_info info = {0};
	union bpf_attr attr = {
		.info = {.bpf_fd = (uint32_t)m->fd, .info_len = sizeof(info), .info = (uintptr_t)&info}};
	unsigned char value[VALUE_MAX];

	expect_same(p, "asking for a map", bpf_call(BPF_OBJ_GET_INFO_BY_FD, &attr), 0);
	expect_same(p, "its type", info.type, m->type);
	expect_same(p, "its key", info.key_size, m->key_bytes);
	expect_same(p, "its value", info.value_size, m->value_bytes);
	expect_same(p, "its entries", info.max_entries, m->max_entries);
	expect_same(p, "its flags", info.map_flags, m->flags);
	expect(p, !strcmp(info.name, m->name), "it is called '%s', not '%s'", info.name, m->name);
	expect_same(p, "frozen", fdinfo_number(m->fd, "frozen: %llu"), m == &maps[FROZEN]);
	for (unsigned i = 0; i < m->entries; i++) {
		uint64_t key = key_of(m, i);
		expect_same(p, "looking a key up", bpf_element(BPF_MAP_LOOKUP_ELEM, m->fd, &key, value), 0);
		expect(p, pattern_differs(value, m->value_bytes, seed + i) < 0, "%s: value %u differs",
		       m->name, i);
	}
	uint64_t absent = key_of(m, ENTRIES + 1000);
	expect(p, bpf_element(BPF_MAP_LOOKUP_ELEM, m->fd, &absent, value) < 0 && errno == ENOENT,
	       "%s: there is a key that nobody added", m->name);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (unsigned i = 0; i < MAPS; i++)
		map_verify(p, &maps[i], i * 1000);
}

static void finish(struct program *p, void *state)
{
	unsigned char value[VALUE_MAX];

	verify(p, state);
	for (unsigned i = 0; i < MAPS; i++) {
		uint64_t key = key_of(&maps[i], 0);
		pattern_fill(value, maps[i].value_bytes, 77);
		int r = bpf_element(BPF_MAP_UPDATE_ELEM, maps[i].fd, &key, value);
		if (i == FROZEN)
			expect(p, r < 0 && errno == EPERM, "a frozen map was changed");
		else
			expect_same(p, "changing a value", r, 0);
	}
	/* The other descriptor sees it. */
	uint64_t key = key_of(&maps[1], 0);
	expect_same(p, "looking up by the other descriptor",
		    bpf_element(BPF_MAP_LOOKUP_ELEM, SHARED_FD, &key, value), 0);
	expect(p, pattern_differs(value, maps[1].value_bytes, 77) < 0,
	       "the other descriptor has another map");
	expect_same(p, "removing a key", bpf_element(BPF_MAP_DELETE_ELEM, maps[1].fd, &key, NULL), 0);
}

static void spoil(void *state)
{
	uint64_t key = key_of(&maps[1], 3);

	(void)state;
	bpf_element(BPF_MAP_DELETE_ELEM, maps[1].fd, &key, NULL);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static unsigned char value[VALUE_MAX];
	struct program p;

	program_start(&p, argc, argv);
	for (unsigned n = 0; n < MAPS; n++) {
		struct map *m = &maps[n];
		union bpf_attr attr = {.map_type = m->type,
				       .key_size = m->key_bytes,
				       .value_size = m->value_bytes,
				       .max_entries = m->max_entries,
				       .map_flags = m->flags};
		strcpy(attr.map_name, m->name);
		m->fd = bpf_call(BPF_MAP_CREATE, &attr);
		if (m->fd < 0)
			program_lacks("bpf(BPF_MAP_CREATE)");
		for (unsigned i = 0; i < m->entries; i++) {
			uint64_t key = key_of(m, i);
			pattern_fill(value, m->value_bytes, n * 1000 + i);
			must(bpf_element(BPF_MAP_UPDATE_ELEM, m->fd, &key, value));
		}
	}
	union bpf_attr freeze = {.map_fd = (uint32_t)maps[FROZEN].fd};
	must(bpf_call(BPF_MAP_FREEZE, &freeze));
	must(dup2(maps[1].fd, SHARED_FD));
	return program_serve(&p, &ops, NULL);
}
