/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns memory that is mapped into a target for the time of a visit. Each mapping belongs to a thread that
 * is away, whose way home through the pad's tail unmaps it; alive the same way is used, so that it happens
 * once. The last bytes of a mapping hold a word that is 1 until another thread that may use the memory has
 * left its slot: the owner waits for it.
 */
#include <ferry/inject.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "inject/internal.h"

#define PAGE 4096u

static bool slot_owns(const struct inject_slot *slot)
{
	for (int i = 0; i < PAD_UNMAPS; i++)
		if (slot->maps[i].bytes)
			return true;
	return false;
}

bool inject_owns_memory(const struct ferry_inject *inject)
{
	for (int i = 0; i < INJECT_SLOTS; i++)
		if (inject->slots[i].thread && slot_owns(&inject->slots[i]))
			return true;
	return false;
}

static const struct inject_map *slot_first_map(const struct inject_slot *slot)
{
	for (int i = 0; i < PAD_UNMAPS; i++)
		if (slot->maps[i].bytes && slot->data.unmap[i].bytes)
			return &slot->maps[i];
	return NULL;
}

/*
 * Let threads that are away wait for each other's memory, as things stand now: the owner waits for a word
 * at the end of its memory, which the user clears. Both learn of it in one write. 'leaving' counts as back
 * already.
 */
int inject_pair(struct ferry_inject *inject, const struct ferry_thread *leaving, struct ferry_error *err)
{
	bool changed = false;

	static_assert(INJECT_SLOTS == 2, "a thread waits for one other");
	for (int i = 0; i < INJECT_SLOTS; i++) {
		struct inject_slot *owner = &inject->slots[i], *user = &inject->slots[!i];
		uint64_t wait = slot_zero_word(inject, i), release = 0;
		if (owner->thread && user->thread && owner->thread != leaving && user->thread != leaving) {
			const struct inject_map *map = slot_first_map(owner);
			if (map)
				wait = release = MAP_WORD(map);
		}
		changed = changed || (owner->thread && owner->data.wait != wait) ||
			  (user->thread && user->data.release != release);
		owner->data.wait = wait;
		user->data.release = release;
	}
	return changed ? slots_write(inject, "pair", err) : 0;
}

static int slot_free_map(const struct inject_slot *slot)
{
	for (int i = 0; i < PAD_UNMAPS; i++)
		if (!slot->maps[i].bytes)
			return i;
	return -ENOSPC;
}

/* An entry before others that is used no longer: munmap(1, 1) fails and harms nothing. */
static void slot_set_unmap(struct inject_slot *slot, int index, uint64_t address, uint64_t bytes)
{
	for (int i = 0; i < index; i++) {
		if (!slot->data.unmap[i].bytes) {
			slot->data.unmap[i].bytes = 1;
			slot->data.unmap[i].address = 1;
		}
	}
	slot->data.unmap[index].address = address;
	slot->data.unmap[index].bytes = bytes;
}

static int map_failed(struct ferry_thread *t, uint64_t bytes, int64_t result, struct ferry_error *err)
{
	return error_errno(err, result == -ENOMEM ? FERRY_ERROR_LIMIT : FERRY_ERROR_INJECT, (int)-result,
			   "mapping %llu bytes in task %d", (unsigned long long)bytes, t->tid);
}

int inject_map_memory(struct ferry_inject *inject, struct ferry_thread *t, uint64_t bytes, int prot,
		      int *ret_index, struct ferry_error *err)
{
	const uint32_t used = 1;
	int64_t address;
	struct aim aim = {
		.label = ferry__pad_call_undo,
		.call = {SYS_mmap,
			 {0, bytes, (uint64_t)prot,
			  MAP_PRIVATE | MAP_ANONYMOUS | (inject->low ? (uint64_t)MAP_32BIT : 0), ~0ull, 0}},
		.undo_nr = SYS_munmap,
		.undo_arg = bytes,
	};

	int index = t->home ? slot_free_map(&inject->slots[t->slot]) : 0;
	if (index < 0)
		return error_set(err, FERRY_ERROR_INJECT, ENOSPC, "task %d owns %d injected mappings already",
				 t->tid, PAD_UNMAPS);
	int r = inject_fault(&inject->opts, "inject-map", err);
	if (r >= 0)
		r = inject_run(inject, t, &aim, &address, err);
	/* Where the kernel looks for it there may be no room, or it looks above what a 32-bit program can have. */
	if (r >= 0 && address == -ENOMEM && inject->low &&
	    !place_find_low(inject, bytes, &aim.call.args[0])) {
		aim.call.args[3] = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
		r = inject_run(inject, t, &aim, &address, err);
	}
	if (r < 0)
		return r;
	if (address < 0)
		return map_failed(t, bytes, address, err);
	/* The result is the slot's from now on: one write ends the first duty and begins the second. */
	struct inject_slot *slot = &inject->slots[t->slot];
	slot->maps[index] = (struct inject_map){.address = (uint64_t)address, .bytes = bytes};
	slot->data.result_nr = 0;
	if (slot->can_unmap)
		slot_set_unmap(slot, index, (uint64_t)address, bytes);
	r = slots_write(inject, "own-memory", err);
	if (r >= 0)
		r = ferry_inject_write(inject, MAP_WORD(&slot->maps[index]), &used, sizeof(used), err);
	if (r < 0)
		return r;
	/*
	 * A child that another thread makes meanwhile has no use for it. Old kernels and filters may
	 * refuse.
	 */
	struct aim advise = {.label = ferry__pad_call,
			     .call = {SYS_madvise, {(uint64_t)address, bytes, MADV_DONTFORK}}};
	if (!(inject->opts.flags & FERRY_INJECT_ALONE) &&
	    PAD_MAY(inject, t, SYS_madvise, (uint64_t)address, bytes, MADV_DONTFORK))
		r = inject_run(inject, t, &advise, &address, err);
	if (r >= 0)
		r = inject_pair(inject, NULL, err);
	*ret_index = index;
	return r;
}

/* Let the thread unmap on its own way through the tail: dead or alive, it happens once. */
static int unmap_by_tail(struct ferry_inject *inject, struct ferry_thread *t, int n, struct ferry_error *err)
{
	static const struct call nothing;
	struct syscall_stop stop;
	bool inside = false;

	int r = stand_at(inject, t, ferry__pad_tail, &nothing, "unmap", err);
	while (r >= 0 && n > 0) {
		r = inject_step(t, &stop, err);
		if (r < 0)
			return r;
		if (stop.entry && stop.nr != SYS_munmap)
			return error_set(err, FERRY_ERROR_INTERNAL, EPROTO,
					 "task %d left the way of its landing pad", t->tid);
		if (inside && !stop.entry)
			n--;
		inside = stop.entry;
	}
	return r;
}

static int unmap_by_call(struct ferry_inject *inject, struct ferry_thread *t, const struct inject_map *map,
			 struct ferry_error *err)
{
	struct aim aim = {.label = ferry__pad_call, .call = {SYS_munmap, {map->address, map->bytes}}};
	int64_t result;

	return inject_run(inject, t, &aim, &result, err);
}

int inject_unmap_memory(struct ferry_inject *inject, struct ferry_thread *t, int index,
			struct ferry_error *err)
{
	struct inject_slot *slot = &inject->slots[t->slot];
	struct inject_map map = slot->maps[index];
	int r;

	slot->maps[index].bytes = 0;
	if (!slot->can_unmap)
		return unmap_by_call(inject, t, &map, err);
	/* Nobody waits for memory that goes away; and the way through the tail must not wait. */
	r = inject_pair(inject, t, err);
	if (r < 0)
		return r;
	typeof(slot->data.unmap[0]) first = slot->data.unmap[0];
	slot->data.unmap[0] = slot->data.unmap[index];
	slot->data.unmap[index] = first;
	r = slots_write(inject, "order-memory", err);
	if (r >= 0)
		r = unmap_by_tail(inject, t, 1, err);
	if (r < 0)
		return r;
	/*
	 * It is past the first entry, which may hold anything now; the others stay where they are, dead or
	 * alive.
	 */
	slot->data.unmap[0].bytes = slot->data.unmap[0].address = 1;
	r = slots_write(inject, "disown-memory", err);
	if (r >= 0)
		r = stand_at(inject, t, ferry__pad_tail, &(const struct call){0}, "leave-call", err);
	if (r < 0)
		return r;
	if (index) {
		slot->data.unmap[0] = slot->data.unmap[index];
		slot->data.unmap[index].bytes = slot->data.unmap[index].address = 1;
		r = slots_write(inject, "order-memory", err);
	}
	return r < 0 ? r : inject_pair(inject, NULL, err);
}

int ferry_inject_map(struct ferry_inject *inject, struct ferry_thread *t, size_t bytes, uint64_t *ret_address,
		     struct ferry_error *err)
{
	int index = 0, r = thread_check_stopped(t, "mapping", err);

	if (r < 0)
		return r;
	if (!bytes || bytes > UINT64_MAX / 2)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "mapping of %zu bytes", bytes);
	r = inject_map_memory(inject, t, align_up(bytes + 8, PAGE), PROT_READ | PROT_WRITE, &index, err);
	if (r >= 0)
		*ret_address = inject->slots[t->slot].maps[index].address;
	return r;
}

int ferry_inject_unmap(struct ferry_inject *inject, struct ferry_thread *t, uint64_t address,
		       struct ferry_error *err)
{
	int r = thread_check_stopped(t, "unmapping", err);

	if (r < 0)
		return r;
	for (int i = 0; t->home == inject && i < PAD_UNMAPS; i++) {
		const struct inject_map *map = &inject->slots[t->slot].maps[i];
		if (map->bytes && map->address == address)
			return inject_unmap_memory(inject, t, i, err);
	}
	return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "task %d owns no injected mapping at %#llx",
			 t->tid, (unsigned long long)address);
}

int inject_drop_memory(struct ferry_inject *inject, struct ferry_thread *t, struct ferry_error *err)
{
	struct inject_slot *slot = &inject->slots[t->slot];
	int n = 0, r = 0;

	for (int i = 0; !slot->can_unmap && i < PAD_UNMAPS; i++) {
		if (slot->maps[i].bytes)
			r = unmap_by_call(inject, t, &slot->maps[i], err);
		if (r < 0)
			return r;
	}
	/* Before the thread leaves, and before its memory goes: nobody waits for either. */
	r = inject_pair(inject, t, err);
	while (n < PAD_UNMAPS && slot->data.unmap[n].bytes)
		n++;
	if (r < 0 || !slot_owns(slot) || !slot->can_unmap)
		return r;
	r = unmap_by_tail(inject, t, n, err);
	memset(slot->maps, 0, sizeof(slot->maps));
	return r;
}
