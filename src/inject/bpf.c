/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns running a seccomp filter in classic BPF over a system call that has not been made, the way the
 * kernel would (kernel/seccomp.c, net/core/filter.c). Programs come from PTRACE_SECCOMP_GET_FILTER, so the
 * kernel has accepted them; whatever it would not have accepted counts as "kill".
 */
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <string.h>

#include "inject/internal.h"

struct bpf_state {
	uint32_t a, x, mem[BPF_MEMWORDS];
	struct seccomp_data data;
};

static bool bpf_alu(uint16_t op, uint32_t operand, uint32_t *a)
{
	switch (op) {
	case BPF_ADD: *a += operand; return true;
	case BPF_SUB: *a -= operand; return true;
	case BPF_MUL: *a *= operand; return true;
	case BPF_AND: *a &= operand; return true;
	case BPF_OR: *a |= operand; return true;
	case BPF_XOR: *a ^= operand; return true;
	case BPF_LSH: *a <<= operand & 31; return true;
	case BPF_RSH: *a >>= operand & 31; return true;
	case BPF_NEG: *a = -*a; return true;
	case BPF_DIV:
		if (!operand)
			return false;
		*a /= operand;
		return true;
	default: return false;
	}
}

static bool bpf_jump(uint16_t op, uint32_t operand, uint32_t a, bool *ret_taken)
{
	switch (op) {
	case BPF_JEQ: *ret_taken = a == operand; return true;
	case BPF_JGT: *ret_taken = a > operand; return true;
	case BPF_JGE: *ret_taken = a >= operand; return true;
	case BPF_JSET: *ret_taken = a & operand; return true;
	default: return false;
	}
}

/* A load into a or x; false: not one that seccomp knows. */
static bool bpf_load(const struct bpf_state *s, const struct sock_filter *f, uint32_t *to)
{
	switch (BPF_MODE(f->code)) {
	case BPF_IMM: *to = f->k; return true;
	case BPF_LEN: *to = sizeof(s->data); return true;
	case BPF_MEM:
		if (f->k >= BPF_MEMWORDS)
			return false;
		*to = s->mem[f->k];
		return true;
	case BPF_ABS:
		if (BPF_CLASS(f->code) != BPF_LD || f->k % 4 || f->k > sizeof(s->data) - 4)
			return false;
		memcpy(to, (const char *)&s->data + f->k, sizeof(*to));
		return true;
	default: return false;
	}
}

/* One instruction; returns how far to go on, 0 = finished with *ret_verdict. */
static uint32_t bpf_execute(struct bpf_state *s, const struct sock_filter *f, uint32_t *ret_verdict)
{
	uint32_t operand = BPF_SRC(f->code) == BPF_X ? s->x : f->k;
	bool taken;

	*ret_verdict = SECCOMP_RET_KILL_PROCESS;
	switch (BPF_CLASS(f->code)) {
	case BPF_LD: return BPF_SIZE(f->code) == BPF_W && bpf_load(s, f, &s->a);
	case BPF_LDX: return BPF_SIZE(f->code) == BPF_W && bpf_load(s, f, &s->x);
	case BPF_ST:
	case BPF_STX:
		if (f->k >= BPF_MEMWORDS)
			return 0;
		s->mem[f->k] = BPF_CLASS(f->code) == BPF_ST ? s->a : s->x;
		return 1;
	case BPF_ALU:
		if (bpf_alu(BPF_OP(f->code), operand, &s->a))
			return 1;
		/* Division by zero ends a program with 0. */
		if (BPF_OP(f->code) == BPF_DIV)
			*ret_verdict = SECCOMP_RET_KILL_THREAD;
		return 0;
	case BPF_JMP:
		if (BPF_OP(f->code) == BPF_JA)
			return f->k < UINT32_MAX ? 1 + f->k : 0;
		if (!bpf_jump(BPF_OP(f->code), operand, s->a, &taken))
			return 0;
		return 1u + (taken ? f->jt : f->jf);
	case BPF_RET: *ret_verdict = BPF_RVAL(f->code) == BPF_A ? s->a : f->k; return 0;
	case BPF_MISC:
		if (BPF_MISCOP(f->code) == BPF_TAX)
			s->x = s->a;
		else
			s->a = s->x;
		return 1;
	default: return 0;
	}
}

uint32_t bpf_evaluate(const struct bpf_filter *filter, const struct call *call, uint64_t rip)
{
	struct bpf_state s = {
		.data = {.nr = (int)call->nr, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = rip}};
	uint64_t at = 0;

	memcpy(s.data.args, call->args, sizeof(s.data.args));
	while (at < filter->n) {
		uint32_t verdict, step = bpf_execute(&s, &filter->code[at], &verdict);
		if (!step)
			return verdict;
		at += step;
	}
	return SECCOMP_RET_KILL_PROCESS;
}
