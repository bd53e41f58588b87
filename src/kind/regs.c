/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns processor state of threads: general registers, segment bases, floating point and vector state, protection keys.
 *
 * CRIU's record names components one by one; ferry-task holds the whole XSAVE area beside it (AMX has no field there).
 * The area is used as it is when this processor lays it out alike, else it is put together from the record.
 *
 * Kernel interface: ptrace(2) NT_PRSTATUS, NT_X86_XSTATE; arch_prctl(2) ARCH_SET_FS, ARCH_SET_GS, ARCH_REQ_XCOMP_PERM (5.16);
 * modify_ldt(2); the layout of the area comes from the processor (kernel/xstate.c). For 32-bit code PTRACE_GET_THREAD_AREA and
 * set_thread_area(2) of the 32-bit table of system calls.
 *
 * What the kernel settles when a 32-bit program is executed cannot be set afterwards: a restored one has the 64-bit
 * [vsyscall] page in its maps, calls of the 64-bit table give it memory above 4 GiB, and its core dumps are 64-bit files.
 *
 * Does not handle: programs of the x32 ABI, 64-bit code in 32-bit programs, FS and GS that are loaded in 64-bit code, selectors
 * of the local descriptor table, more than 128 entries in it and a table that begins with none, all refused; shadow stacks;
 * hardware breakpoints, which end with the debugger that set them.
 */
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <ferry/inject.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "blob/tracer.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "model/record.h"

#ifndef ARCH_GET_XCOMP_PERM
#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

enum {
	REGS_LEGACY_BYTES = 512, /* FXSAVE */
	REGS_HEADER_BYTES = 64,
	REGS_AREA_MAX = 16384,
	REGS_TLS_FIRST = 12,
	REGS_TLS_N = 3,
	REGS_CS_32 = 0x23,
	REGS_CS_64 = 0x33,
	REGS_RESTART_FIRST = -512,
	REGS_RESTART_NO_HANDLER = -514,
	REGS_RESTART_LAST = -516,
	REGS_DS = 0x2b,
	REGS_NR32_EXIT = 1,
	REGS_NR32_SET_THREAD_AREA = 243,
	REGS_FLAGS = 0x202, /* interrupts are on */
	REGS_VDSO_BYTES = 16384,
	REGS_LDT_READ = 0,
	REGS_LDT_WRITE = 0x11,
	REGS_LDT_ENTRY = 8,
	REGS_LDT_BYTES = 129 * REGS_LDT_ENTRY,
};

/* XSAVE components that CRIU's record has a field for. */
enum {
	REGS_YMM = 2,
	REGS_BNDREGS,
	REGS_BNDCSR,
	REGS_OPMASK,
	REGS_ZMM_UPPER,
	REGS_ZMM_HIGH,
	REGS_PKRU = 9,
	REGS_TILECFG = 17,
	REGS_TILEDATA
};

#define REGS_CRIU_FEATURES 0x2ffull
#define REGS_AMX_FEATURES (1ull << REGS_TILECFG | 1ull << REGS_TILEDATA)

/*
 * Programs of the x32 ABI are told by their file: they are of 32 bits and of this processor's machine. Code in segments of
 * its own shows when it is stopped.
 */
static int regs_check_task(pid_t pid, int proc_dir, const struct proc_status *status,
			   const struct kind_options *options unused, struct ferry_error *err)
{
	Elf32_Ehdr head;
	_cleanup_close_ int fd = fd_open(proc_dir, "exe", O_RDONLY, 0);
	if (fd < 0 || fd_read_all(fd, &head, sizeof(head)) < 0 ||
	    memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS32 ||
	    head.e_machine != EM_X86_64)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP, "pid %d (%s) is a program of the x32 ABI", pid,
		  status->name);
	error_hint(err, "use a 64-bit build of it");
	return -ENOTSUP;
}

static void regs_ask_task(const struct snap_task *t unused, int proc_dir unused, struct script *s)
{
	struct blob_call *call = script_call(s, "reading extended state permissions", SYS_arch_prctl,
					     ARCH_GET_XCOMP_PERM, script_put(s, NULL, 8));
	call->data_mask = 1 << 1;
	call->check = BLOB_CHECK_NONE;
	call = script_call(s, "reading the local descriptor table", SYS_modify_ldt, REGS_LDT_READ,
			   script_put(s, NULL, REGS_LDT_BYTES), REGS_LDT_BYTES);
	call->data_mask = 1 << 1;
	call->check = BLOB_CHECK_NONE;
}

static int regs_collect_ldt(struct collect *c, struct snap_task *t, const char *table,
			    struct ferry_error *err)
{
	size_t n = REGS_LDT_BYTES;
	while (n > 0 && !table[n - 1])
		n--;
	/* There is a table, and no call reads it from the middle on. */
	if (!n)
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			"pid %d has nothing among the first %d entries of its local descriptor table", t->pid,
			REGS_LDT_BYTES / REGS_LDT_ENTRY);
	n = align_up(n, REGS_LDT_ENTRY);
	if (n == REGS_LDT_BYTES)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				 "pid %d has more than %d entries in its local descriptor table", t->pid,
				 REGS_LDT_BYTES / REGS_LDT_ENTRY - 1);
	FerryTaskEntry *extra = t->threads.v[0].extra;
	extra->ldt = record_bytes(&c->snap->arena, table, n);
	extra->has_ldt = extra->ldt.data != NULL;
	return extra->has_ldt ? 0 : error_memory(err);
}

static int regs_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
			     const struct answers *a, struct ferry_error *err)
{
	uint64_t permitted = 0;
	if (a->calls[0].ret >= 0)
		memcpy(&permitted, a->data, sizeof(permitted));
	if (permitted & 1ull << REGS_TILEDATA)
		record_set(t->threads.v[0].extra, xcomp_permitted, permitted);
	return a->calls[1].ret > 0 ? regs_collect_ldt(c, t, a->data + 64, err) : 0;
}

static UserX86RegsEntry *regs_record(struct arena *a, const struct user_regs_struct *u)
{
	UserX86RegsEntry *r = record_new(a, UserX86RegsEntry, user_x86_regs_entry);
	if (!r)
		return NULL;
	r->r15 = u->r15, r->r14 = u->r14, r->r13 = u->r13, r->r12 = u->r12;
	r->bp = u->rbp, r->bx = u->rbx;
	r->r11 = u->r11, r->r10 = u->r10, r->r9 = u->r9, r->r8 = u->r8;
	r->ax = u->rax, r->cx = u->rcx, r->dx = u->rdx, r->si = u->rsi, r->di = u->rdi;
	r->orig_ax = u->orig_rax;
	r->ip = u->rip, r->cs = u->cs, r->flags = u->eflags, r->sp = u->rsp, r->ss = u->ss;
	r->fs_base = u->fs_base, r->gs_base = u->gs_base;
	r->ds = u->ds, r->es = u->es, r->fs = u->fs, r->gs = u->gs;
	record_set(r, mode, USER_X86_REGS_MODE__NATIVE);
	if (u->cs == REGS_CS_64)
		return r;
	/* CRIU has it as the thread sees it: its bases follow from its descriptors. */
	r->mode = USER_X86_REGS_MODE__COMPAT;
	r->ax = (uint32_t)u->rax, r->orig_ax = (uint32_t)u->orig_rax;
	if (u->fs)
		r->fs_base = 0;
	if (u->gs)
		r->gs_base = 0;
	return r;
}

/* A thread's XSAVE area, and how this processor lays it out. */
struct regs_area {
	const uint8_t *area;
	size_t bytes;
	const struct kern_xstate *layout;
};

static void *regs_copy_part(struct arena *a, const struct regs_area *from, int component, size_t expected)
{
	uint32_t bytes = from->layout->part[component].bytes, offset = from->layout->part[component].offset;
	if (bytes < expected || offset + expected > from->bytes)
		return arena_alloc(a, expected);
	return arena_copy(a, from->area + offset, expected);
}

static int regs_xsave_record(struct arena *a, const struct regs_area *from, UserX86FpregsEntry *fp)
{
	UserX86XsaveEntry *x = record_new(a, UserX86XsaveEntry, user_x86_xsave_entry);
	if (!x)
		return -ENOMEM;
	memcpy(&x->xstate_bv, from->area + REGS_LEGACY_BYTES, 8);
	x->xstate_bv &= REGS_CRIU_FEATURES;
	x->n_ymmh_space = 64, x->ymmh_space = regs_copy_part(a, from, REGS_YMM, 256);
	x->n_opmask_reg = 8, x->opmask_reg = regs_copy_part(a, from, REGS_OPMASK, 64);
	x->n_zmm_upper = 64, x->zmm_upper = regs_copy_part(a, from, REGS_ZMM_UPPER, 512);
	x->n_hi16_zmm = 128, x->hi16_zmm = regs_copy_part(a, from, REGS_ZMM_HIGH, 1024);
	if (!x->ymmh_space || !x->opmask_reg || !x->zmm_upper || !x->hi16_zmm)
		return -ENOMEM;
	if (x->xstate_bv & 1ull << REGS_PKRU) {
		x->n_pkru = 2, x->pkru = regs_copy_part(a, from, REGS_PKRU, 8);
		if (!x->pkru)
			return -ENOMEM;
	}
	fp->xsave = x;
	return 0;
}

static UserX86FpregsEntry *regs_fp_record(struct arena *a, const struct regs_area *from)
{
	const uint8_t *area = from->area;
	UserX86FpregsEntry *fp = record_new(a, UserX86FpregsEntry, user_x86_fpregs_entry);
	if (!fp)
		return NULL;
	uint16_t word[4];
	memcpy(word, area, sizeof(word));
	fp->cwd = word[0], fp->swd = word[1], fp->twd = word[2], fp->fop = word[3];
	memcpy(&fp->rip, area + 8, 8);
	memcpy(&fp->rdp, area + 16, 8);
	memcpy(&fp->mxcsr, area + 24, 4);
	memcpy(&fp->mxcsr_mask, area + 28, 4);
	fp->n_st_space = 32, fp->st_space = arena_copy(a, area + 32, 128);
	fp->n_xmm_space = 64, fp->xmm_space = arena_copy(a, area + 160, 256);
	if (!fp->st_space || !fp->xmm_space)
		return NULL;
	if (from->bytes >= REGS_LEGACY_BYTES + REGS_HEADER_BYTES && regs_xsave_record(a, from, fp) < 0)
		return NULL;
	return fp;
}

static bool regs_tls_empty(const UserDescT *d)
{
	return !d->base_addr && !d->limit && d->read_exec_only && d->seg_not_present;
}

/* Slots of the thread's descriptors for set_thread_area(2): 64-bit programs have none in use. */
static int regs_tls(struct arena *a, pid_t tid, ThreadInfoX86 *info, struct ferry_error *err)
{
	info->tls = arena_array(a, UserDescT *, REGS_TLS_N);
	for (unsigned i = 0; info->tls && i < REGS_TLS_N; i++) {
		struct user_desc u = {0};
		UserDescT *d = record_new(a, UserDescT, user_desc_t);
		if (!d)
			return error_memory(err);
		if (ptrace(PTRACE_GET_THREAD_AREA, tid, REGS_TLS_FIRST + i, &u) < 0)
			u = (struct user_desc){.read_exec_only = 1, .seg_not_present = 1};
		d->entry_number = REGS_TLS_FIRST + i;
		d->base_addr = u.base_addr;
		d->limit = u.limit;
		d->seg_32bit = u.seg_32bit;
		d->contents_h = u.contents >> 1 & 1;
		d->contents_l = u.contents & 1;
		d->read_exec_only = u.read_exec_only;
		d->limit_in_pages = u.limit_in_pages;
		d->seg_not_present = u.seg_not_present;
		d->usable = u.useable;
		info->tls[info->n_tls++] = d;
		/* They are set by a call that takes an address of 32 bits; there is such memory only on the stack. */
		if (!regs_tls_empty(d) && info->gpregs->sp > UINT32_MAX)
			return error_set(
				err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
				"thread %d of a 64-bit program has a segment descriptor of its own (%u)", tid,
				d->entry_number);
	}
	return info->tls ? 0 : error_memory(err);
}

/* Whether a selector is one of the thread's own descriptors. */
static bool regs_is_tls(uint64_t selector)
{
	return selector >> 3 >= REGS_TLS_FIRST && selector >> 3 < REGS_TLS_FIRST + REGS_TLS_N &&
	       (selector & 7) == 3;
}

static bool regs_is_flat(uint64_t selector)
{
	return !selector || selector == REGS_DS;
}

/*
 * 32-bit code has its data and its thread's area in segments; 64-bit code has bases of its own, which are lost when a
 * selector is loaded.
 */
static bool regs_has_segments(const UserX86RegsEntry *r)
{
	bool narrow = r->cs == REGS_CS_32;
	return (regs_is_flat(r->ds) || regs_is_tls(r->ds)) && (regs_is_flat(r->es) || regs_is_tls(r->es)) &&
	       (!r->fs || (narrow && (regs_is_flat(r->fs) || regs_is_tls(r->fs)))) &&
	       (!r->gs || (narrow && (regs_is_flat(r->gs) || regs_is_tls(r->gs)))) &&
	       (!narrow || r->ss == REGS_DS);
}

static int regs_check_segments(pid_t pid, pid_t tid, const UserX86RegsEntry *r, struct ferry_error *err)
{
	if (regs_has_segments(r))
		return 0;
	return error_set(
		err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
		"thread %d of pid %d has a segment register loaded that cannot be set again (ss %llx, ds %llx, es %llx, "
		"fs %llx, gs %llx)",
		tid, pid, (unsigned long long)r->ss, (unsigned long long)r->ds, (unsigned long long)r->es,
		(unsigned long long)r->fs, (unsigned long long)r->gs);
}

/*
 * A tracee that is about to receive a signal in the middle of a system call: the kernel is going to decide what becomes of the
 * call once the signal is known. What it has kept to go on with a time-out is lost, so that is begun anew.
 */
static int regs_normalize_at_stop(const struct snap_thread *th, struct ferry_regs *regs,
				  struct ferry_error *err)
{
	int64_t result = (int64_t)regs->user.rax, nr = (int64_t)regs->user.orig_rax;
	bool restarts = nr >= 0 && result <= REGS_RESTART_FIRST && result >= REGS_RESTART_LAST;
	if (restarts && result != REGS_RESTART_LAST)
		return 0;
	struct ferry_regs folded = *regs;
	int r = ferry_thread_normalize(th->control, FERRY_RESUME_IMAGE, &folded, err);
	if (r < 0)
		return r;
	if (restarts) {
		/* Once it was gone on with, the number is not in the registers any more. */
		regs->user.orig_rax = folded.user.rax;
		regs->user.rax = (uint64_t)REGS_RESTART_NO_HANDLER;
		return 0;
	}
	/* What number a finished call had its tracer may look at. */
	if (!r)
		folded.user.orig_rax = (uint64_t)nr;
	*regs = folded;
	return 0;
}

static int regs_normalize(const struct snap_thread *th, struct ferry_regs *regs, struct ferry_error *err)
{
	return th->traced && th->traced->stop == BLOB_STOP_SIGNAL
		       ? regs_normalize_at_stop(th, regs, err)
		       : ferry_thread_normalize(th->control, FERRY_RESUME_IMAGE, regs, err);
}

static int regs_collect_thread(struct collect *c, struct snap_task *t, struct snap_thread *th,
			       int proc_dir unused, const struct answers *a unused, struct ferry_error *err)
{
	struct arena *arena = &c->snap->arena;
	struct ferry_regs regs = FERRY_REGS_INIT;
	int r = ferry_thread_get_regs(th->control, &regs, err);
	if (r >= 0)
		r = regs_normalize(th, &regs, err);
	if (r >= 0) {
		ThreadInfoX86 *info = th->core->thread_info;
		info->gpregs = regs_record(arena, &regs.user);
		struct regs_area from = {regs.xstate, regs.xstate_bytes, kern_xstate(c->caps)};
		info->fpregs = regs.xstate_bytes >= REGS_LEGACY_BYTES ? regs_fp_record(arena, &from) : NULL;
		th->extra->xstate = record_bytes(arena, regs.xstate, regs.xstate_bytes);
		th->extra->has_xstate = 1;
		if (!info->gpregs || !info->fpregs || !th->extra->xstate.data)
			r = error_memory(err);
		else
			r = regs_check_segments(t->pid, th->tid, info->gpregs, err);
		if (r >= 0)
			r = regs_tls(arena, th->tid, info, err);
	}
	ferry_regs_release(&regs);
	return r < 0 ? r : 0;
}

/*
 * A leader that has ended while others run gets registers with which it would end again at once, by a call of the vdso's:
 * who knows nothing of the field that says so restores it like any other thread. No address: there is no such call.
 */
static uint64_t regs_find_call(const struct snap_task *t)
{
	static const unsigned char wide[] = {0x0f, 0x05}, narrow[] = {0xcd, 0x80}; /* syscall, int $0x80 */
	unsigned char vdso[REGS_VDSO_BYTES];
	struct iovec ours = {vdso, MIN(t->vdso_bytes, sizeof(vdso))};
	struct iovec theirs = {(void *)(uintptr_t)t->vdso_start, ours.iov_len};
	ssize_t n = ours.iov_len ? sys_process_vm_readv(t->look, &ours, 1, &theirs, 1) : 0;
	const unsigned char *found =
		n > 0 ? memmem(vdso, (size_t)n, t->is_32 ? narrow : wide, sizeof(wide)) : NULL;
	return found ? t->vdso_start + (uint64_t)(found - vdso) : 0;
}

static int regs_collect_ended(struct collect *c, struct snap_task *t, struct snap_thread *th,
			      int proc_dir unused, const struct answers *a unused, struct ferry_error *err)
{
	struct arena *arena = &c->snap->arena;
	ThreadInfoX86 *info = th->core->thread_info;
	uint64_t status = th->extra->ended >> 8;
	const struct user_regs_struct regs = {
		.rip = regs_find_call(t),
		.rax = t->is_32 ? REGS_NR32_EXIT : SYS_exit,
		.rdi = status,
		.rbx = t->is_32 ? status : 0,
		.cs = t->is_32 ? REGS_CS_32 : REGS_CS_64,
		.ss = REGS_DS,
		.ds = t->is_32 ? REGS_DS : 0,
		.es = t->is_32 ? REGS_DS : 0,
		.eflags = REGS_FLAGS,
		.orig_rax = ~0ull,
	};
	uint8_t *area = arena_alloc(arena, align_up(REGS_LEGACY_BYTES + REGS_HEADER_BYTES, 64));
	if (!area)
		return error_memory(err);
	const struct regs_area from = {area, REGS_LEGACY_BYTES + REGS_HEADER_BYTES, kern_xstate(c->caps)};
	info->gpregs = regs_record(arena, &regs);
	info->fpregs = regs_fp_record(arena, &from);
	return info->gpregs && info->fpregs ? 0 : error_memory(err);
}

static void regs_put_part(uint8_t *area, const struct kern_xstate *layout, int component, const void *from,
			  size_t n)
{
	uint32_t bytes = layout->part[component].bytes, offset = layout->part[component].offset;
	if (bytes >= n && offset + n <= layout->bytes && from)
		memcpy(area + offset, from, n);
}

/* An area in this processor's layout from the record alone. */
static uint8_t *regs_rebuild(struct arena *a, const UserX86FpregsEntry *fp, const struct kern_xstate *layout)
{
	uint8_t *area = arena_alloc(a, align_up(layout->bytes, 64));
	if (!area)
		return NULL;
	uint16_t word[4] = {(uint16_t)fp->cwd, (uint16_t)fp->swd, (uint16_t)fp->twd, (uint16_t)fp->fop};
	memcpy(area, word, sizeof(word));
	memcpy(area + 8, &fp->rip, 8);
	memcpy(area + 16, &fp->rdp, 8);
	memcpy(area + 24, &fp->mxcsr, 4);
	memcpy(area + 28, &fp->mxcsr_mask, 4);
	memcpy(area + 32, fp->st_space, MIN(fp->n_st_space * 4, 128u));
	memcpy(area + 160, fp->xmm_space, MIN(fp->n_xmm_space * 4, 256u));
	const UserX86XsaveEntry *x = fp->xsave;
	uint64_t bv = (x ? x->xstate_bv : 3) & layout->features;
	memcpy(area + REGS_LEGACY_BYTES, &bv, 8);
	if (!x)
		return area;
	regs_put_part(area, layout, REGS_YMM, x->ymmh_space, MIN(x->n_ymmh_space * 4, 256u));
	regs_put_part(area, layout, REGS_OPMASK, x->opmask_reg, MIN(x->n_opmask_reg * 8, 64u));
	regs_put_part(area, layout, REGS_ZMM_UPPER, x->zmm_upper, MIN(x->n_zmm_upper * 8, 512u));
	regs_put_part(area, layout, REGS_ZMM_HIGH, x->hi16_zmm, MIN(x->n_hi16_zmm * 8, 1024u));
	regs_put_part(area, layout, REGS_PKRU, x->pkru, MIN(x->n_pkru * 4, 8u));
	return area;
}

static int regs_check_features(const struct plan_thread *th, uint64_t needed, uint64_t features,
			       struct ferry_error *err)
{
	if (!(needed & ~features))
		return 0;
	error_set(err, FERRY_ERROR_CPU_FEATURE, ENOTSUP,
		  "thread %d has processor state 0x%llx in use that this machine lacks", th->tid,
		  (unsigned long long)(needed & ~features));
	error_hint(err, "restore on a processor with the same extensions (AVX-512, AMX, protection keys)");
	return -ENOTSUP;
}

static int regs_plan_xstate(struct reader *r, struct plan_thread *th, struct ferry_error *err)
{
	const UserX86FpregsEntry *fp = th->core->thread_info->fpregs;
	struct arena *a = &r->plan->arena;
	const struct kern_xstate *layout = kern_xstate(r->caps);
	uint32_t size = layout->bytes;
	uint64_t features = layout->features, needed = fp->xsave ? fp->xsave->xstate_bv : 3;
	bool raw =
		th->extra && th->extra->has_xstate && th->extra->xstate.len == size && size <= REGS_AREA_MAX;
	if (raw)
		memcpy(&needed, th->extra->xstate.data + REGS_LEGACY_BYTES, 8);
	int ret = regs_check_features(th, needed, features, err);
	if (ret < 0)
		return ret;
	th->xstate = raw ? arena_copy(a, th->extra->xstate.data, size) : regs_rebuild(a, fp, layout);
	th->xstate_bytes = size;
	if (!th->xstate)
		return error_memory(err);
	/* The image decides what is loaded, never how: a compacted or reserved header would fault in the task. */
	memset(th->xstate + REGS_LEGACY_BYTES + 8, 0, REGS_HEADER_BYTES - 8);
	uint32_t mask, mxcsr;
	memcpy(&mask, th->xstate + 28, 4);
	memcpy(&mxcsr, th->xstate + 24, 4);
	mxcsr &= 0xffff & (mask ? mask : 0xffbf);
	memcpy(th->xstate + 24, &mxcsr, 4);
	th->xstate_mask = features & (needed & REGS_AMX_FEATURES ? ~0ull : ~REGS_AMX_FEATURES);
	return 0;
}

/* An entry of the table, in the words of modify_ldt(2). */
static struct user_desc regs_descriptor(unsigned number, uint64_t raw)
{
	return (struct user_desc){
		.entry_number = number,
		.base_addr = (unsigned)(raw >> 16 & 0xffffff) | (unsigned)(raw >> 56) << 24,
		.limit = (unsigned)(raw & 0xffff) | (unsigned)(raw >> 48 & 0xf) << 16,
		.read_exec_only = !(raw >> 41 & 1),
		.contents = (unsigned)(raw >> 42 & 3),
		.seg_not_present = !(raw >> 47 & 1),
		.useable = raw >> 52 & 1,
		.seg_32bit = raw >> 54 & 1,
		.limit_in_pages = raw >> 55 & 1,
	};
}

static int regs_restore_ldt(struct plan_task *t, const ProtobufCBinaryData *ldt, struct script *s,
			    struct ferry_error *err)
{
	if (ldt->len > REGS_LDT_BYTES || ldt->len % REGS_LDT_ENTRY)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "the local descriptor table of pid %d has %zu bytes", t->pid, ldt->len);
	for (unsigned i = 0; i < ldt->len / REGS_LDT_ENTRY; i++) {
		uint64_t raw;
		memcpy(&raw, ldt->data + (size_t)i * REGS_LDT_ENTRY, sizeof(raw));
		if (!raw)
			continue;
		struct user_desc d = regs_descriptor(i, raw);
		/* The result is one of 32 bits. */
		struct blob_call *call = script_call(s, "writing the local descriptor table", SYS_modify_ldt,
						     REGS_LDT_WRITE, script_put(s, &d, sizeof(d)), sizeof(d));
		call->data_mask = 1 << 1;
		call->check = BLOB_CHECK_EQUAL;
		script_detail(s, i);
	}
	return 0;
}

static int regs_restore_task(struct reader *r unused, struct plan_task *t, struct script *s,
			     struct ferry_error *err)
{
	const FerryTaskEntry *extra = t->threads.v[0].extra;
	if (extra && extra->has_ldt && !t->vm_owner && regs_restore_ldt(t, &extra->ldt, s, err) < 0)
		return -EBADMSG;
	if (extra && extra->has_xcomp_permitted && extra->xcomp_permitted & 1ull << REGS_TILEDATA)
		script_call(&t->memory, "asking for AMX", SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, REGS_TILEDATA);
	return 0;
}

/* ------------------------------------------------------------ segments and descriptors */

static int regs_restore_tls(struct plan_task *t, const struct plan_thread *th, const UserDescT *d,
			    struct script *s, struct ferry_error *err)
{
	uint64_t at = plan_frame_place(th);
	struct user_desc u = {
		.entry_number = d->entry_number,
		.base_addr = d->base_addr,
		.limit = d->limit,
		.seg_32bit = d->seg_32bit,
		.contents = (unsigned)d->contents_h << 1 | (unsigned)d->contents_l,
		.read_exec_only = d->read_exec_only,
		.limit_in_pages = d->limit_in_pages,
		.seg_not_present = d->seg_not_present,
		.useable = d->usable,
	};
	if (d->entry_number - REGS_TLS_FIRST >= REGS_TLS_N || at + BLOB_FRAME_WORDS * 8 > UINT32_MAX)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "thread %d of pid %d cannot have descriptor %u", th->tid, t->pid,
				 d->entry_number);
	script_call(s, "placing a descriptor", BLOB_OP_COPY, at, script_put(s, &u, sizeof(u)), sizeof(u))
		->data_mask = 1 << 1;
	script_call_i386(s, "setting a descriptor of the thread", REGS_NR32_SET_THREAD_AREA, at);
	script_detail(s, d->entry_number);
	return 0;
}

/* A selector whose descriptor is not there would be a fault in the task. */
static bool regs_selector_is_set(const ThreadInfoX86 *info, uint64_t selector)
{
	if (!regs_is_tls(selector))
		return true;
	for (size_t i = 0; i < info->n_tls; i++)
		if (info->tls[i]->entry_number == selector >> 3)
			return !info->tls[i]->seg_not_present && info->tls[i]->contents_h == 0;
	return false;
}

static bool regs_are_sound(const ThreadInfoX86 *info)
{
	const UserX86RegsEntry *g = info->gpregs;
	bool narrow = plan_mode_is_32(info);
	if (g->cs != (narrow ? REGS_CS_32 : REGS_CS_64) || !regs_has_segments(g))
		return false;
	if (narrow && (g->ip | g->sp) > UINT32_MAX)
		return false;
	return regs_selector_is_set(info, g->ds) && regs_selector_is_set(info, g->es) &&
	       regs_selector_is_set(info, g->fs) && regs_selector_is_set(info, g->gs);
}

static int regs_restore_segments(struct plan_task *t, const struct plan_thread *th, struct script *s,
				 struct ferry_error *err)
{
	const ThreadInfoX86 *info = th->core->thread_info;
	const UserX86RegsEntry *g = info->gpregs;
	int r = 0;
	for (size_t i = 0; i < info->n_tls && r >= 0; i++)
		if (!regs_tls_empty(info->tls[i]))
			r = regs_restore_tls(t, th, info->tls[i], s, err);
	if (!g->fs)
		script_call(s, "setting the FS base", SYS_arch_prctl, ARCH_SET_FS, g->fs_base);
	if (!g->gs)
		script_call(s, "setting the GS base", SYS_arch_prctl, ARCH_SET_GS, g->gs_base);
	if (g->ds | g->es | g->fs | g->gs)
		script_call(s, "loading segment registers", BLOB_OP_SEGMENTS, g->ds, g->es, g->fs, g->gs);
	return r;
}

/* An image of CRIU's may have the registers as the stop left them; ours were folded when it was taken. */
static void regs_fold_call(UserX86RegsEntry *g, bool narrow)
{
	int64_t ax = narrow ? (int32_t)g->ax : (int64_t)g->ax;
	int64_t nr = narrow ? (int32_t)g->orig_ax : (int64_t)g->orig_ax;
	if (nr >= 0 && (ax == -512 || ax == -513 || ax == -514)) {
		g->ax = g->orig_ax;
		g->ip -= 2;
	} else if (nr >= 0 && ax == -516) {
		g->ax = (uint64_t)-EINTR;
	}
}

static int regs_restore_thread(struct reader *r, struct plan_task *t, struct plan_thread *th,
			       struct script *s, struct ferry_error *err)
{
	ThreadInfoX86 *info = th->core->thread_info;
	/* It never comes to use them. */
	if (th->ended)
		return 0;
	if (th->core->mtype != CORE_ENTRY__MARCH__X86_64 || !info || !info->gpregs || !info->fpregs)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "thread %d of pid %d is not of an x86-64 machine", th->tid, t->pid);
	if (!regs_are_sound(info))
		return error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"thread %d of pid %d executes code in segment %#llx, which cannot be set again",
			th->tid, t->pid, (unsigned long long)info->gpregs->cs);
	regs_fold_call(info->gpregs, plan_mode_is_32(info));
	int ret = regs_restore_segments(t, th, s, err);
	return ret < 0 ? ret : regs_plan_xstate(r, th, err);
}

const struct kind_ops kind_regs = {
	.name = "regs",
	.what = "general, floating point and vector registers, protection keys",
	.fd_type = -1,
	.image_file = -1,
	.check_task = regs_check_task,
	.ask_task = regs_ask_task,
	.collect_task = regs_collect_task,
	.collect_thread = regs_collect_thread,
	.collect_ended = regs_collect_ended,
	.restore_task = regs_restore_task,
	.restore_thread = regs_restore_thread,
};
