/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the slots: copies of the landing pad in the target, each with the registers of the thread that is
 * away in it.
 *
 * All slots lie in one page and are written by one pwrite(2) to /proc/PID/mem: the kernel copies such a
 * write whole, so a tracer that is killed has written all of it or nothing. State that concerns two threads
 * can change in one step.
 *
 * A dead ferry leaves its slots behind. A thread may still come back to one: a signal handler that ran on
 * the way out returns into it. So a slot with anything in it is taken only when its thread is gone or has
 * no address of it on its stack.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "inject/defuse.h"
#include "inject/internal.h"

#define STACK_SCAN_BYTES (64u << 10)
#define NEAR_BYTES (1u << 20)
#define RED_ZONE_BYTES 128u

/* A thread leaves a dead ferry's pad within microseconds, once it gets a CPU. */
#define PATIENCE_NS 1000000000u

/* The same places of both pads. */
static const struct {
	const unsigned char *wide, *narrow;
} labels[] = {
#define LABEL(name)                                     \
	{                                               \
		ferry__pad_##name, ferry__narrow_##name \
	}
	LABEL(call), LABEL(call_undo), LABEL(run),  LABEL(enter),  LABEL(catch),
	LABEL(tail), LABEL(data),      LABEL(wait), LABEL(waited),
#undef LABEL
};

static uint64_t label_offset(bool narrow, const unsigned char *label)
{
	for (size_t i = 0; narrow && i < ARRAY_SIZE(labels); i++)
		if (labels[i].wide == label)
			return PAD_NARROW_OFFSET(labels[i].narrow);
	assert(!narrow);
	return PAD_OFFSET(label);
}

uint64_t slot_label(const struct ferry_inject *inject, int slot, const unsigned char *label)
{
	return slot_address(inject, slot) + label_offset(inject->low, label);
}

static const unsigned char *slot_code(const struct ferry_inject *inject)
{
	return inject->low ? ferry__narrow : ferry__pad;
}

static bool is_magic(uint64_t word)
{
	return word == PAD_MAGIC || word == PAD_NARROW_MAGIC;
}

static void slot_image(const struct ferry_inject *inject, const struct inject_slot *slot,
		       unsigned char image[static PAD_BYTES])
{
	memset(image, 0, PAD_BYTES);
	if (!slot->thread)
		return;
	memcpy(image, slot_code(inject), slot_code_bytes(inject));
	memcpy(image, &slot->head, sizeof(slot->head));
	memcpy(image + slot_code_bytes(inject), &slot->data, slot_bytes(inject) - slot_code_bytes(inject));
}

static int slots_pwrite(struct ferry_inject *inject, int first, int n, const char *effect,
			struct ferry_error *err)
{
	unsigned char image[INJECT_SLOTS * PAD_BYTES];
	size_t bytes = (size_t)n * slot_bytes(inject);

	for (int i = 0; i < n; i++)
		slot_image(inject, &inject->slots[first + i], image + (size_t)i * slot_bytes(inject));
	inject_effect(&inject->opts, effect);
	/* One call and no loop: half a slot must not exist. */
	ssize_t done = pwrite(inject->mem_fd, image, bytes, (off_t)slot_address(inject, first));
	if (done == (ssize_t)bytes)
		return 0;
	int code = done < 0 ? errno : EIO;
	error_errno(err, FERRY_ERROR_INJECT, code, "writing the landing pad of task %d", inject->tid);
	error_hint(err,
		   "the kernel must let a tracer write to read-only memory: proc_mem.force_override=ptrace");
	return -code;
}

int slots_write(struct ferry_inject *inject, const char *effect, struct ferry_error *err)
{
	int first = 0, end = slots_of(inject);

	/* A free slot may hold what a dead ferry left, in use still: leave it alone. */
	while (first < end && !inject->slots[first].thread)
		first++;
	while (end > first && !inject->slots[end - 1].thread)
		end--;
	static_assert(INJECT_SLOTS == 2, "a free slot between two used ones would be overwritten");
	return first < end ? slots_pwrite(inject, first, end - first, effect, err) : 0;
}

uint64_t inject_pads(const struct ferry_inject *inject)
{
	return slot_address(inject, 0);
}

unsigned inject_room(const struct ferry_inject *inject)
{
	return (unsigned)slots_of(inject);
}

/* Two-byte instructions: three system calls, and the call of a function. */
static int defuse_slot(int fd, pid_t tid, uint64_t address)
{
	const unsigned char *const fuses[] = {ferry__pad_call, ferry__pad_call_undo, ferry__pad_run,
					      ferry__pad_enter};
	const unsigned char nothing[PAD_SYSCALL_BYTES] = PAD_NOP;
	struct pad_head head = {0};

	int r = fd_pread_all(fd, &head, sizeof(head), address);
	if (r < 0 || !is_magic(head.magic) || head.tid != (uint32_t)tid)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(fuses) && r >= 0; i++)
		r = fd_pwrite_all(fd, nothing, sizeof(nothing),
				  address + label_offset(head.magic == PAD_NARROW_MAGIC, fuses[i]));
	head.hold = 0;
	return r < 0 ? r : fd_pwrite_all(fd, &head, sizeof(head), address);
}

void inject_defuse(pid_t tid, uint64_t pads)
{
	_cleanup_close_ int fd = fd_openf(O_RDWR, "/proc/%d/mem", tid);

	/* Narrow pads are alone, and no second one is found behind. */
	for (int slot = 0; slot < INJECT_SLOTS && fd >= 0; slot++)
		if (defuse_slot(fd, tid, pads + (uint64_t)slot * PAD_BYTES) < 0)
			return;
}

int slot_erase(struct ferry_inject *inject, int slot, struct ferry_error *err)
{
	return slots_pwrite(inject, slot, 1, "erase-pad", err);
}

/* Stack and program pointer of a thread that does not run; -EAGAIN when it runs. */
static int thread_pointers(pid_t tid, uint64_t *ret_stack, uint64_t *ret_program)
{
	char text[256];
	_cleanup_close_ int fd = fd_openf(O_RDONLY, "/proc/%d/syscall", tid);
	if (fd < 0)
		return fd;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return n ? -errno : -ESRCH;
	text[n] = '\0';
	/* "NUMBER ARGUMENTS... STACK PROGRAM" or "-1 STACK PROGRAM" or "running" */
	char *program = strrchr(text, ' ');
	if (!program || program == text)
		return -EAGAIN;
	*program++ = '\0';
	char *stack = strrchr(text, ' ');
	if (!stack)
		return -EAGAIN;
	*ret_stack = strtoull(stack, NULL, 16);
	*ret_program = strtoull(program, NULL, 16);
	return 0;
}

/* Whether any of n bytes of the target's memory is an address inside the slot. */
static bool memory_refers(struct ferry_inject *inject, uint64_t address, uint64_t n, int slot)
{
	_cleanup_free_ uint32_t *words = malloc(n);
	uint64_t from = slot_address(inject, slot), to = from + slot_bytes(inject);
	/* A handler of a 32-bit program has an address of 32 bits on its stack. */
	bool narrow = to <= UINT32_MAX;

	if (!words)
		return true;
	ssize_t got = pread(inject->mem_fd, words, n, (off_t)address);
	for (ssize_t i = 0; i < got / 4; i++) {
		uint64_t word = words[i];
		if (!narrow && (i & 1 || i + 1 >= got / 4))
			continue;
		if (!narrow)
			word |= (uint64_t)words[i + 1] << 32;
		if (word >= from && word < to)
			return true;
	}
	return false;
}

bool slot_awaits(struct ferry_inject *inject, int slot, uint64_t stack, uint64_t program)
{
	const struct inject_slot *s = &inject->slots[slot];
	uint64_t n = STACK_SCAN_BYTES;

	if (program >= slot_address(inject, slot) &&
	    program < slot_address(inject, slot) + slot_bytes(inject))
		return true;
	stack = align_down(stack, 8);
	/*
	 * On the stack that the pad had, a frame can only be below where it was; elsewhere it may be
	 * anywhere above.
	 */
	if (s->dirty_rsp >= stack && s->dirty_rsp - stack < NEAR_BYTES)
		n = s->dirty_rsp - stack > RED_ZONE_BYTES ? s->dirty_rsp - RED_ZONE_BYTES - stack : 0;
	return n && memory_refers(inject, stack, n, slot);
}

/* Whose the slot was: 0 when it came along by fork, from a task with memory of its own. */
static pid_t slot_owner(const struct ferry_inject *inject, const struct pad_head *head)
{
	pid_t tid = (pid_t)head->tid;

	return syscall(SYS_kcmp, inject->tid, tid, KCMP_VM, 0, 0) > 0 ? 0 : tid;
}

int slot_inspect(struct ferry_inject *inject, struct ferry_error *err)
{
	unsigned char bytes[PAD_BYTES];
	const size_t code = slot_code_bytes(inject), all = slot_bytes(inject);
	struct pad_head head;

	for (int i = 0; i < slots_of(inject); i++) {
		struct inject_slot *slot = &inject->slots[i];
		int r = fd_pread_all(inject->mem_fd, bytes, all, slot_address(inject, i));
		if (r < 0)
			return error_errno(err, FERRY_ERROR_INJECT, -r, "reading the landing pad of task %d",
					   inject->tid);
		memcpy(&head, bytes, sizeof(head));
		for (size_t j = 0; !slot->dirty && j < all; j++)
			slot->dirty = bytes[j];
		slot->dirty_tid = is_magic(head.magic) ? slot_owner(inject, &head) : 0;
		if (!memcmp(bytes + sizeof(head), slot_code(inject) + sizeof(head), code - sizeof(head)))
			memcpy(&slot->dirty_rsp, bytes + code + offsetof(struct pad_data, rsp), 8);
	}
	return 0;
}

/*
 * Whether a thread may still come back to what a dead ferry, or one that works in another task of this
 * memory, left here.
 */
static bool slot_in_use(struct ferry_inject *inject, int slot)
{
	struct inject_slot *s = &inject->slots[slot];
	uint64_t stack = 0, program = 0;
	struct pad_head head;

	if (!s->dirty) {
		if (fd_pread_all(inject->mem_fd, &head, sizeof(head), slot_address(inject, slot)) < 0)
			return true;
		s->dirty = is_magic(head.magic);
		s->dirty_tid = s->dirty ? slot_owner(inject, &head) : 0;
		s->dirty_rsp = 0;
	}
	/*
	 * Left by another version with slots elsewhere, or before a fork: whose it is cannot be known.
	 * Threads that were settled do not come back to it.
	 */
	if (!s->dirty || !s->dirty_tid)
		return false;
	int r = thread_pointers(s->dirty_tid, &stack, &program);
	s->dirty = r < 0 ? r != -ENOENT && r != -ESRCH : slot_awaits(inject, slot, stack, program);
	return s->dirty;
}

bool slot_behind_call(const struct ferry_inject *inject, uint64_t rip)
{
	unsigned char code[PAD_CODE_BYTES];
	size_t bytes = slot_code_bytes(inject);

	for (int i = 0; i < slots_of(inject); i++) {
		if (rip != slot_label(inject, i, ferry__pad_call) + PAD_SYSCALL_BYTES &&
		    rip != slot_label(inject, i, ferry__pad_call_undo) + PAD_SYSCALL_BYTES)
			continue;
		size_t head = sizeof(struct pad_head);
		return fd_pread_all(inject->mem_fd, code, bytes, slot_address(inject, i)) >= 0 &&
		       !memcmp(code + head, slot_code(inject) + head, bytes - head);
	}
	return false;
}

int slot_find_free(struct ferry_inject *inject, struct ferry_error *err)
{
	uint64_t end = time_now_ns() + PATIENCE_NS;

	for (;;) {
		bool all_away = true;
		for (int i = 0; i < slots_of(inject); i++) {
			if (!inject->slots[i].thread && !slot_in_use(inject, i))
				return i;
			all_away = all_away && inject->slots[i].thread;
		}
		if (all_away)
			return error_set(err, FERRY_ERROR_INJECT, EBUSY,
					 "task %d has no landing pad left: at most %d threads can be away",
					 inject->tid, slots_of(inject));
		if (time_now_ns() > end)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	error_set(err, FERRY_ERROR_INJECT, EBUSY,
		  "threads of task %d are still in landing pads of a ferry that died", inject->tid);
	error_hint(err,
		   "settle all its threads first, or try again when their signal handlers have returned");
	return -EBUSY;
}
