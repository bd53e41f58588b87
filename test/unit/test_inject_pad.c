/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The landing pad's code run in this very process, as a thread left to itself would walk through it; and
 * the registers that a restart makes.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inject/internal.h"

static void test_layout(void **state)
{
	(void)state;
	assert_int_equal(PAD_OFFSET(ferry__pad_data), PAD_CODE_BYTES);
	assert_int_equal(PAD_OFFSET(ferry__pad_end), PAD_BYTES);
	assert_int_equal(PAD_OFFSET(ferry__pad_call), sizeof(struct pad_head));
	assert_memory_equal(ferry__pad, "ferrypad", 8);
	assert_true(INJECT_SLOTS * PAD_BYTES <= 1504);
	assert_int_equal(PAD_NARROW_OFFSET(ferry__narrow_data), PAD_NARROW_CODE_BYTES);
	assert_int_equal(PAD_NARROW_OFFSET(ferry__narrow_end), PAD_NARROW_BYTES);
	assert_int_equal(PAD_NARROW_OFFSET(ferry__narrow_call), sizeof(struct pad_head));
	assert_true(PAD_NARROW_BYTES <= 600);
	static const unsigned char syscall_insn[] = {0x0f, 0x05};
	assert_memory_equal(ferry__pad_call, syscall_insn, 2);
	assert_memory_equal(ferry__pad_call_undo, syscall_insn, 2);
	assert_memory_equal(ferry__pad_tail - PAD_SYSCALL_BYTES, syscall_insn, 2);
}

/* ------------------------------------------------------------- a pad of our own */

struct pad {
	unsigned char *code;
	struct pad_data *data;
};

static struct pad pad_new(void)
{
	unsigned char *code =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(code, MAP_FAILED);
	memcpy(code, ferry__pad, PAD_BYTES);
	struct pad pad = {code, (struct pad_data *)(void *)(code + PAD_CODE_BYTES)};
	pad.data->wait = (uint64_t)&pad.data->zero;
	pad.data->mask_nr = SYS_rt_sigprocmask;
	pad.data->probe_nr = SYS_ppoll;
	return pad;
}

struct walk {
	uint64_t entry, nr, args[3]; /* in: where to begin, and with what */
	uint64_t rax, rcx, rdx, rbx, r12, r15, flags;
	uint64_t by_eintr; /* it came back by the second way */
};

/*
 * Enter the pad as a redirected thread does, and come back where the pad leads: label 1 is the normal way,
 * label 2 the one after a handler. Every register that the pad loads is known to the compiler as clobbered.
 */
static void walk_pad(struct pad *pad, struct walk *w)
{
	struct user_regs_struct normal = {.rax = 0x1111,
					  .rcx = 0x2222,
					  .rdx = 0x3333,
					  .rsi = 0x4444,
					  .rdi = 0x5555,
					  .r8 = 0x6666,
					  .r9 = 0x7777,
					  .r10 = 0x8888,
					  .r11 = 0x9999,
					  .r12 = 0xaaaa,
					  .r13 = 0xbbbb,
					  .r14 = 0xcccc,
					  .r15 = 0xdddd,
					  .rbx = 0xeeee};
	struct user_regs_struct eintr = normal;
	uint64_t rbp, rip, eintr_rip;

	eintr.rax = (uint64_t)-EINTR;
	__asm__ volatile("mov %%rbp, %0\n lea 1f(%%rip), %1\n lea 2f(%%rip), %2\n jmp 3f\n"
			 "1: pushfq\n pop %%rsi\n mov $0, %%edi\n jmp *%%r14\n"
			 "2: pushfq\n pop %%rsi\n mov $1, %%edi\n jmp *%%r14\n"
			 "3:\n"
			 : "=&r"(rbp), "=&r"(rip), "=&r"(eintr_rip));
	normal.rbp = rbp;
	normal.rip = rip;
	eintr.rip = eintr_rip;
	static uint64_t come_back;
	__asm__ volatile("lea 9f(%%rip), %0\n jmp 8f\n 9: jmp *%%r13\n 8:" : "=r"(come_back));
	/* r14 leads from label 1 or 2 to the end of the statement below, by way of r13. */
	normal.r14 = come_back;
	pad_data_set_regs(pad->data, (uint64_t)pad->code, &normal, &eintr);
	register uint64_t r10 __asm__("r10") = w->entry;
	__asm__ volatile("lea 7f(%%rip), %%r13\n"
			 "mov %%r13, %c[r13](%[data])\n"
			 "mov %%rsp, %c[rsp](%[data])\n"
			 "stc\n"
			 "jmp *%%r10\n"
			 "7:\n"
			 : "=a"(w->rax), "=c"(w->rcx), "=d"(w->rdx), "=b"(w->rbx), "=D"(w->by_eintr),
			   "=S"(w->flags), "+r"(r10)
			 : "a"(w->nr), "D"(w->args[0]), "S"(w->args[1]),
			   "d"(w->args[2]), [data] "b"(pad->data), [r13] "i"(offsetof(struct pad_data, r13)),
			   [rsp] "i"(offsetof(struct pad_data, rsp))
			 : "r8", "r9", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	assert_int_equal(w->rcx, 0x2222);
	assert_int_equal(w->rdx, 0x3333);
	assert_int_equal(w->rbx, 0xeeee);
	assert_true(w->flags & 1);
}

#define LABEL(pad, label) ((uint64_t)(pad).code + PAD_OFFSET(label))

static void test_call(void **state)
{
	(void)state;
	struct pad pad = pad_new();
	int fds[2];
	char byte = 0;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	struct walk w = {LABEL(pad, ferry__pad_call), SYS_write, {(uint64_t)fds[1], (uint64_t) "q", 1}};
	walk_pad(&pad, &w);
	assert_int_equal(w.rax, 0x1111);
	assert_int_equal(w.by_eintr, 0);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	assert_int_equal(byte, 'q');
	close(fds[0]);
	close(fds[1]);
	munmap(pad.code, 4096);
}

/* Memory that did not become what it is to be: no function is called (rbx is no address of code), and flags are what they were. */
static void test_run_refused(void **state)
{
	(void)state;
	struct pad pad = pad_new();
	struct walk w = {LABEL(pad, ferry__pad_run), SYS_mprotect, {1, 4096, PROT_READ}};

	pad.data->catch_nr = SYS_getpid;
	walk_pad(&pad, &w);
	assert_int_equal(w.rax, 0x1111);
	assert_int_equal(w.by_eintr, 0);
	munmap(pad.code, 4096);
}

static int highest_fd(void)
{
	int fd = dup(0);

	close(fd);
	return fd;
}

/* A descriptor that nobody has taken is closed; a failed call leaves nothing to close. */
static void test_call_undo(void **state)
{
	(void)state;
	struct pad pad = pad_new();
	int before = highest_fd();

	pad.data->result_nr = SYS_close;
	struct walk w = {LABEL(pad, ferry__pad_call_undo), SYS_eventfd2, {0, 0, 0}};
	walk_pad(&pad, &w);
	assert_int_equal(highest_fd(), before);
	w.nr = SYS_eventfd2;
	w.args[1] = 0xffff;
	walk_pad(&pad, &w);
	assert_int_equal(highest_fd(), before);
	pad.data->result_nr = 0;
	w.args[1] = 0;
	walk_pad(&pad, &w);
	assert_int_equal(highest_fd(), before + 1);
	close(before);
	munmap(pad.code, 4096);
}

static bool mapped(void *address)
{
	unsigned char resident;

	return mincore(address, 4096, &resident) == 0;
}

/* Up to four mappings go, entries of no use between them do no harm. */
static void test_unmap(void **state)
{
	(void)state;
	struct pad pad = pad_new();
	void *maps[PAD_UNMAPS];

	for (int i = 0; i < PAD_UNMAPS; i++) {
		maps[i] = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pad.data->unmap[i].address = i == 1 ? 1 : (uint64_t)maps[i];
		pad.data->unmap[i].bytes = i == 1 ? 1 : 8192;
	}
	struct walk w = {.entry = LABEL(pad, ferry__pad_tail)};
	walk_pad(&pad, &w);
	for (int i = 0; i < PAD_UNMAPS; i++)
		assert_int_equal(mapped(maps[i]), i == 1);
	munmap(maps[1], 8192);
	munmap(pad.code, 4096);
}

static void test_wait_and_release(void **state)
{
	(void)state;
	struct pad pad = pad_new();
	uint32_t mine = 0, other[2] = {1, 0x12345678};

	pad.data->wait = (uint64_t)&mine;
	pad.data->release = (uint64_t)&other[0];
	struct walk w = {.entry = LABEL(pad, ferry__pad_tail)};
	walk_pad(&pad, &w);
	assert_int_equal(other[0], 0);
	assert_int_equal(other[1], 0x12345678);
	munmap(pad.code, 4096);
}

static volatile int handled;

static void on_signal(int signal)
{
	(void)signal;
	handled++;
}

/*
 * A handler that is due runs on the way, and then the second way is taken; an ignored signal does not
 * count.
 */
static void test_due_handler(void **state)
{
	(void)state;
	struct pad pad = pad_new();
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	sigset_t all, none;

	sigaction(SIGUSR1, &action, NULL);
	sigfillset(&all);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &all, NULL);
	struct walk w = {.entry = LABEL(pad, ferry__pad_tail)};
	raise(SIGWINCH);
	pad.data->mask = 0;
	walk_pad(&pad, &w);
	assert_int_equal(w.by_eintr, 0);
	assert_int_equal(w.rax, 0x1111);
	sigset_t now;
	sigprocmask(SIG_BLOCK, NULL, &now);
	assert_false(sigismember(&now, SIGUSR1));

	sigprocmask(SIG_SETMASK, &all, NULL);
	raise(SIGUSR1);
	handled = 0;
	w.entry = LABEL(pad, ferry__pad_tail);
	walk_pad(&pad, &w);
	assert_int_equal(handled, 1);
	assert_int_equal(w.by_eintr, 1);
	assert_int_equal((int64_t)w.rax, -EINTR);

	/* Blocked by the mask that is restored, it stays pending. */
	sigprocmask(SIG_SETMASK, &all, NULL);
	raise(SIGUSR1);
	pad.data->mask = 1ull << (SIGUSR1 - 1);
	walk_pad(&pad, &w);
	assert_int_equal(handled, 1);
	assert_int_equal(w.by_eintr, 0);
	sigprocmask(SIG_SETMASK, &none, NULL);
	assert_int_equal(handled, 2);
	munmap(pad.code, 4096);
}

/* ------------------------------------------------------------------- restarts */

static const struct {
	long rax, orig_rax;
	enum restart restart;
	long in_place, image; /* rax to go on with */
} restarts[] = {
	{-512, SYS_read, RESTART_AGAIN, SYS_read, SYS_read},
	{-513, SYS_futex, RESTART_AGAIN, SYS_futex, SYS_futex},
	{-514, SYS_pause, RESTART_NO_HANDLER, SYS_pause, SYS_pause},
	{-516, SYS_nanosleep, RESTART_BLOCK, SYS_restart_syscall, SYS_nanosleep},
	{-516, SYS_restart_syscall, RESTART_BLOCK, SYS_restart_syscall, SYS_restart_syscall},
	{-515, SYS_read, RESTART_NONE, 0, 0},
	{-EINTR, SYS_read, RESTART_NONE, 0, 0},
	{0, SYS_read, RESTART_NONE, 0, 0},
	{-512, -1, RESTART_NONE, 0, 0},
};

static void test_restarts(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(restarts); i++) {
		const struct user_regs_struct regs = {.rax = (uint64_t)restarts[i].rax,
						      .orig_rax = (uint64_t)restarts[i].orig_rax,
						      .rip = 0x1000};
		struct user_regs_struct folded = regs;
		assert_int_equal(regs_restart(&regs), restarts[i].restart);
		if (restarts[i].restart == RESTART_NONE)
			continue;
		regs_fold(&folded, FERRY_RESUME_IN_PLACE, false);
		assert_int_equal(folded.rax, restarts[i].in_place);
		assert_int_equal(folded.rip, 0xffe);
		assert_int_equal((long)folded.orig_rax, -1);
		folded = regs;
		regs_fold(&folded, FERRY_RESUME_IMAGE, false);
		assert_int_equal(folded.rax, restarts[i].image);
		folded = regs;
		regs_fold(&folded, FERRY_RESUME_IN_PLACE, true);
		assert_int_equal(folded.rax, restarts[i].restart == RESTART_BLOCK ? 0 : restarts[i].in_place);
	}
}

/* Calls that return EINTR after a stop, with or without a time limit. */
static void test_eintr_table(void **state)
{
	(void)state;
	static const struct {
		struct user_regs_struct regs;
		bool listed, without_limit;
	} cases[] = {
		{{.orig_rax = SYS_epoll_wait, .r10 = 0xffffffff}, true, true},
		{{.orig_rax = SYS_epoll_wait, .r10 = ~0ull}, true, true},
		{{.orig_rax = SYS_epoll_wait, .r10 = 100}, true, false},
		{{.orig_rax = SYS_epoll_pwait2, .r10 = 0}, true, true},
		{{.orig_rax = SYS_epoll_pwait2, .r10 = 0x7fff0000}, true, false},
		{{.orig_rax = SYS_rt_sigtimedwait, .rdx = 0, .r10 = 8}, true, true},
		{{.orig_rax = SYS_rt_sigtimedwait, .rdx = 0x7fff0000, .r10 = 8}, true, false},
		{{.orig_rax = SYS_io_getevents, .r8 = 0x7fff0000}, true, false},
		{{.orig_rax = SYS_semop}, true, true},
		{{.orig_rax = SYS_recvfrom}, true, false},
		{{.orig_rax = SYS_close}, false, false},
		{{.orig_rax = SYS_nanosleep}, false, false},
		{{.orig_rax = ~0ull}, false, false},
		{{.cs = USER_CS_32, .orig_rax = 319, .rsi = 0xffffffff}, true, true},
		{{.cs = USER_CS_32, .orig_rax = 319, .rsi = 100}, true, false},
		{{.cs = USER_CS_32, .orig_rax = SYS_epoll_pwait, .rsi = 0xffffffff}, false, false},
		{{.cs = USER_CS_32, .orig_rax = 117}, true, true},
		{{.cs = USER_CS_32, .orig_rax = 371}, true, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct user_regs_struct regs = cases[i].regs;
		assert_false(regs_eintr_listed(&regs, true));
		regs.rax = (uint64_t)-EINTR;
		assert_int_equal(regs_eintr_listed(&regs, true), cases[i].listed);
		assert_int_equal(regs_eintr_listed(&regs, false), cases[i].without_limit);
		regs.rip = 0x1000;
		regs_set_eintr(&regs);
		assert_int_equal(regs.rip, 0x1002);
		assert_int_equal((long)regs.rax, -EINTR);
	}
}

static void test_registers(void **state)
{
	(void)state;
	struct user_regs_struct regs = {.rsp = 7, .rbx = 8, .eflags = 9, .orig_rax = 3};

	regs_set_call(&regs, 0x1234, &(const struct call){SYS_mmap, {1, 2, 3, 4, 5, 6}});
	assert_int_equal(regs.rip, 0x1234);
	assert_int_equal((long)regs.orig_rax, -1);
	assert_int_equal(regs.rax, SYS_mmap);
	assert_int_equal(regs.rdi, 1);
	assert_int_equal(regs.rsi, 2);
	assert_int_equal(regs.rdx, 3);
	assert_int_equal(regs.r10, 4);
	assert_int_equal(regs.r8, 5);
	assert_int_equal(regs.r9, 6);
	assert_int_equal(regs.rsp, 7);
	assert_int_equal(regs.rbx, 8);
	assert_int_equal(regs.eflags, 9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),           cmocka_unit_test(test_call),
		cmocka_unit_test(test_call_undo),        cmocka_unit_test(test_unmap),
		cmocka_unit_test(test_wait_and_release), cmocka_unit_test(test_due_handler),
		cmocka_unit_test(test_restarts),         cmocka_unit_test(test_eintr_table),
		cmocka_unit_test(test_registers),        cmocka_unit_test(test_run_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
