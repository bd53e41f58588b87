/* SPDX-License-Identifier: Apache-2.0 */
/* The BPF evaluator against programs written by hand, and against the kernel itself. */
#include "unit.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject/internal.h"

#define RIP 0x7fff12345678ull
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define RETURN_A BPF_STMT(BPF_RET | BPF_A, 0)
#define DATA(field) offsetof(struct seccomp_data, field)

static const struct call sample = {SYS_mmap, {0x1122334455667788, 2, 3, 4, 5, 0x99aabbccddeeff00}};

static uint32_t run(const struct sock_filter *code, size_t n)
{
	struct bpf_filter filter = {.n = (uint16_t)n, .code = (struct sock_filter *)(uintptr_t)code};

	return bpf_evaluate(&filter, &sample, RIP);
}

#define RUN(...)                                                  \
	({                                                        \
		const struct sock_filter code_[] = {__VA_ARGS__}; \
		run(code_, ARRAY_SIZE(code_));                    \
	})

static void test_loads(void **state)
{
	(void)state;
	assert_int_equal(RUN(LOAD(DATA(nr)), RETURN_A), SYS_mmap);
	assert_int_equal(RUN(LOAD(DATA(arch)), RETURN_A), AUDIT_ARCH_X86_64);
	assert_int_equal(RUN(LOAD(DATA(instruction_pointer)), RETURN_A), (uint32_t)RIP);
	assert_int_equal(RUN(LOAD(DATA(instruction_pointer) + 4), RETURN_A), RIP >> 32);
	assert_int_equal(RUN(LOAD(DATA(args)), RETURN_A), 0x55667788);
	assert_int_equal(RUN(LOAD(DATA(args) + 4), RETURN_A), 0x11223344);
	assert_int_equal(RUN(LOAD(DATA(args[5]) + 4), RETURN_A), 0x99aabbcc);
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), RETURN_A), 64);
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_IMM, 77), RETURN_A), 77);
	/* The accumulator begins as 0. */
	assert_int_equal(RUN(RETURN_A), 0);
}

static void test_memory(void **state)
{
	(void)state;
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_IMM, 5), BPF_STMT(BPF_ST, 15),
			     BPF_STMT(BPF_LD | BPF_IMM, 6), BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 15),
			     BPF_STMT(BPF_MISC | BPF_TXA, 0), RETURN_A),
			 5);
	assert_int_equal(RUN(BPF_STMT(BPF_LDX | BPF_IMM, 9), BPF_STMT(BPF_STX, 0),
			     BPF_STMT(BPF_LD | BPF_MEM, 0), RETURN_A),
			 9);
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_IMM, 4), BPF_STMT(BPF_MISC | BPF_TAX, 0),
			     BPF_STMT(BPF_LD | BPF_IMM, 0), BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0), RETURN_A),
			 4);
}

static uint32_t alu(uint16_t op, uint32_t a, uint32_t k)
{
	const struct sock_filter by_constant[] = {BPF_STMT(BPF_LD | BPF_IMM, a),
						  BPF_STMT(BPF_ALU | op | BPF_K, k), RETURN_A};
	const struct sock_filter by_x[] = {BPF_STMT(BPF_LD | BPF_IMM, a), BPF_STMT(BPF_LDX | BPF_IMM, k),
					   BPF_STMT(BPF_ALU | op | BPF_X, 0), RETURN_A};
	uint32_t r = run(by_constant, ARRAY_SIZE(by_constant));

	assert_int_equal(r, run(by_x, ARRAY_SIZE(by_x)));
	return r;
}

static void test_arithmetic(void **state)
{
	(void)state;
	assert_int_equal(alu(BPF_ADD, 0xffffffff, 2), 1);
	assert_int_equal(alu(BPF_SUB, 1, 2), 0xffffffff);
	assert_int_equal(alu(BPF_MUL, 0x10000, 0x10001), 0x10000);
	assert_int_equal(alu(BPF_DIV, 100, 7), 14);
	assert_int_equal(alu(BPF_AND, 0xff0f, 0x0ff0), 0x0f00);
	assert_int_equal(alu(BPF_OR, 0xf000, 0x000f), 0xf00f);
	assert_int_equal(alu(BPF_XOR, 0xff, 0x0f), 0xf0);
	assert_int_equal(alu(BPF_LSH, 1, 31), 0x80000000);
	assert_int_equal(alu(BPF_RSH, 0x80000000, 31), 1);
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_IMM, 5), BPF_STMT(BPF_ALU | BPF_NEG, 0), RETURN_A), -5u);
	/* Dividing by zero in the index register ends a program with 0: kill the thread. */
	assert_int_equal(
		RUN(BPF_STMT(BPF_LD | BPF_IMM, 5), BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), RETURN(7)), 0);
}

static uint32_t jump(uint16_t op, uint32_t a, uint32_t k)
{
	return RUN(BPF_STMT(BPF_LD | BPF_IMM, a), BPF_JUMP(BPF_JMP | op | BPF_K, k, 1, 0), RETURN(0),
		   RETURN(1));
}

static void test_jumps(void **state)
{
	(void)state;
	assert_int_equal(jump(BPF_JEQ, 3, 3), 1);
	assert_int_equal(jump(BPF_JEQ, 3, 4), 0);
	assert_int_equal(jump(BPF_JGT, 4, 3), 1);
	assert_int_equal(jump(BPF_JGT, 3, 3), 0);
	/* Unsigned. */
	assert_int_equal(jump(BPF_JGT, 0xffffffff, 3), 1);
	assert_int_equal(jump(BPF_JGE, 3, 3), 1);
	assert_int_equal(jump(BPF_JGE, 2, 3), 0);
	assert_int_equal(jump(BPF_JSET, 6, 2), 1);
	assert_int_equal(jump(BPF_JSET, 4, 2), 0);
	assert_int_equal(RUN(BPF_STMT(BPF_JMP | BPF_JA, 2), RETURN(1), RETURN(2), RETURN(3)), 3);
	assert_int_equal(RUN(BPF_STMT(BPF_LDX | BPF_IMM, SYS_mmap), LOAD(DATA(nr)),
			     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, 1), RETURN(1), RETURN(2)),
			 1);
}

/* What the kernel would not have let in counts as the worst. */
static void test_malformed(void **state)
{
	(void)state;
	const uint32_t kill = SECCOMP_RET_KILL_PROCESS;

	assert_int_equal(run(NULL, 0), kill);
	assert_int_equal(RUN(LOAD(DATA(nr))), kill);
	assert_int_equal(RUN(LOAD(64), RETURN(1)), kill);
	assert_int_equal(RUN(LOAD(0xfffffffc), RETURN(1)), kill);
	assert_int_equal(RUN(LOAD(2), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_LD | BPF_MEM, 16), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_ST, 16), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_JMP | BPF_JA, 5), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 1), RETURN(1)), kill);
	assert_int_equal(RUN(BPF_STMT(BPF_LDX | BPF_W | BPF_ABS, 0), RETURN(1)), kill);
}

static void test_verdicts(void **state)
{
	(void)state;
	struct sock_filter allow = RETURN(SECCOMP_RET_ALLOW), deny = RETURN(SECCOMP_RET_ERRNO | 5),
			   kill = RETURN(SECCOMP_RET_KILL_PROCESS), trap = RETURN(SECCOMP_RET_TRAP);
	struct bpf_filter filters[] = {{1, &allow}, {1, &deny}, {1, &trap}, {1, &kill}};
	struct seccomp_state s = {.mode = SECCOMP_MODE_FILTER, .filters = filters};

	assert_int_equal(seccomp_verdict(&s, &sample, RIP), SECCOMP_RET_ALLOW);
	s.n = 1;
	assert_int_equal(seccomp_verdict(&s, &sample, RIP), SECCOMP_RET_ALLOW);
	s.n = 2;
	assert_int_equal(seccomp_verdict(&s, &sample, RIP), SECCOMP_RET_ERRNO | 5);
	s.n = 3;
	assert_int_equal(seccomp_verdict(&s, &sample, RIP), SECCOMP_RET_TRAP);
	s.n = 4;
	assert_int_equal(seccomp_verdict(&s, &sample, RIP), SECCOMP_RET_KILL_PROCESS);
	assert_int_equal(seccomp_classify(SECCOMP_RET_ALLOW), SECCOMP_RUNS);
	assert_int_equal(seccomp_classify(SECCOMP_RET_LOG), SECCOMP_RUNS);
	assert_int_equal(seccomp_classify(SECCOMP_RET_TRACE | 3), SECCOMP_DENIES);
	assert_int_equal(seccomp_classify(SECCOMP_RET_ERRNO | 3), SECCOMP_DENIES);
	assert_int_equal(seccomp_classify(SECCOMP_RET_USER_NOTIF), SECCOMP_DENIES);
	assert_int_equal(seccomp_classify(SECCOMP_RET_TRAP), SECCOMP_KILLS);
	assert_int_equal(seccomp_classify(SECCOMP_RET_KILL_THREAD), SECCOMP_KILLS);
	assert_int_equal(seccomp_classify(0x12340000), SECCOMP_KILLS);
	struct seccomp_state strict = {.mode = SECCOMP_MODE_STRICT};
	assert_int_equal(seccomp_verdict(&strict, &(struct call){SYS_read, {0}}, RIP), SECCOMP_RET_ALLOW);
	assert_int_equal(seccomp_verdict(&strict, &sample, RIP), SECCOMP_RET_KILL_THREAD);
}

/*
 * Programs of chance, as far as the kernel accepts them: it and the evaluator agree on the errno they
 * answer with.
 */
static struct sock_filter chance(uint32_t *seed, unsigned left)
{
	static const uint16_t ops[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_AND, BPF_OR, BPF_XOR};
	static const uint16_t jumps[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
	uint32_t r = *seed = *seed * 1664525 + 1013904223;
	uint32_t k = r >> 4 & 0xff;
	uint16_t source = r & 1u << 31 ? BPF_X : BPF_K;

	unsigned kind = r >> 24 & 7;

	/* A jump needs somewhere to go. */
	if (kind == 4 && left <= 2)
		kind = 5;
	switch (kind) {
	case 0: return (struct sock_filter)LOAD(k % 16 * 4);
	case 1: return (struct sock_filter)BPF_STMT(BPF_LDX | BPF_IMM, k);
	case 2: return (struct sock_filter)BPF_STMT(BPF_MISC | (source == BPF_X ? BPF_TAX : BPF_TXA), 0);
	case 3: return (struct sock_filter)BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, k % 32);
	case 4:
		return (struct sock_filter)BPF_JUMP(BPF_JMP | jumps[k % 4] | source, k,
						    (uint8_t)(k % (left - 1)), (uint8_t)(k / 3 % (left - 1)));
	default: return (struct sock_filter)BPF_STMT(BPF_ALU | ops[k % 6] | source, k);
	}
}

#define PROGRAM 24

static void test_against_kernel(void **state)
{
	(void)state;
	uint32_t seed = 20240229;

	for (int round = 0; round < 150; round++) {
		/*
		 * getppid answers with an errno of 1 to 256 that the program has computed; all other calls
		 * are let through.
		 */
		struct sock_filter code[PROGRAM + 6] = {
			LOAD(DATA(nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
			RETURN(SECCOMP_RET_ALLOW),
		};
		for (unsigned i = 0; i < PROGRAM; i++)
			code[3 + i] = chance(&seed, PROGRAM - i);
		code[PROGRAM + 3] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff);
		code[PROGRAM + 4] =
			(struct sock_filter)BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, SECCOMP_RET_ERRNO + 1);
		code[PROGRAM + 5] = (struct sock_filter)RETURN_A;
		struct sock_fprog program = {ARRAY_SIZE(code), code};
		struct bpf_filter filter = {ARRAY_SIZE(code), code};
		const struct call call = {SYS_getppid, {1, 22, 333, 4444, 55555, 666666}};
		/*
		 * The instruction pointer is the one thing that is not known beforehand: not loaded by test
		 * programs.
		 */
		for (unsigned i = 0; i < PROGRAM; i++)
			if (code[3 + i].code == (BPF_LD | BPF_W | BPF_ABS) &&
			    (code[3 + i].k == 8 || code[3 + i].k == 12))
				code[3 + i].k = 16;
		uint32_t expected = bpf_evaluate(&filter, &call, 0) & 0xffff;
		pid_t pid = fork();
		if (!pid) {
			if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
			    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
				_exit(250);
			long r = syscall(SYS_getppid, 1, 22, 333, 4444, 55555, 666666);
			_exit(r == -1 && errno == (int)expected ? 0 : 1);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_loads),          cmocka_unit_test(test_memory),
		cmocka_unit_test(test_arithmetic),     cmocka_unit_test(test_jumps),
		cmocka_unit_test(test_malformed),      cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_against_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
