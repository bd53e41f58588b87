/* SPDX-License-Identifier: Apache-2.0 */
/* The parsers of src/proc against texts of several kernels: exact values, and what must be refused. */
#include "unit.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "kernel/uapi.h"
#include "proc/read.h"
#include "proc/uring.h"
#include "proc_samples.h"

#define TEXT(sample) sample, sizeof(sample) - 1

static void test_status(unused void **state)
{
	struct proc_status st;
	assert_int_equal(proc_status_parse(TEXT(sample_status), &st, NULL), 0);
	assert_string_equal(st.name, "a \\b\n) (c");
	assert_int_equal(st.state, 't');
	assert_int_equal(st.umask, 0027);
	assert_int_equal(st.tgid, 23493);
	assert_int_equal(st.pid, 23495);
	assert_int_equal(st.ppid, 23489);
	assert_int_equal(st.tracer_pid, 77);
	assert_int_equal(st.uid.real, 1000);
	assert_int_equal(st.uid.effective, 1001);
	assert_int_equal(st.uid.saved, 1002);
	assert_int_equal(st.uid.fs, 1003);
	assert_int_equal(st.gid.fs, UINT32_MAX);
	assert_int_equal(st.fd_size, 256);
	assert_int_equal(st.n_groups, 4);
	assert_int_equal(st.groups[0], 4);
	assert_int_equal(st.groups[3], 65534);
	assert_int_equal(st.ns_tgid.n, 3);
	assert_int_equal(st.ns_tgid.v[1], 41);
	assert_int_equal(st.ns_pid.v[2], 3);
	assert_int_equal(st.ns_pgid.v[2], 0);
	assert_int_equal(st.ns_sid.v[0], 4019);
	assert_int_equal(st.vm_size_bytes, 18580 * 1024);
	assert_int_equal(st.vm_locked_bytes, 8192);
	assert_int_equal(st.vm_pinned_bytes, 4096);
	assert_int_equal(st.vm_rss_bytes, 14801 * 1024);
	assert_int_equal(st.vm_swap_bytes, 12288);
	assert_int_equal(st.hugetlb_bytes, 2 << 20);
	assert_int_equal(st.threads, 3);
	assert_int_equal(st.sig_queued, 4);
	assert_int_equal(st.sig_queued_max, 96365);
	assert_int_equal(st.sig_pending, 0x200);
	assert_int_equal(st.sig_shared_pending, 0x200000000);
	assert_int_equal(st.sig_blocked, 0xfffffffe7ffbfeff);
	assert_int_equal(st.sig_ignored, 0x1001000);
	assert_int_equal(st.sig_caught, 0x180000002);
	assert_int_equal(st.cap_inheritable, 1);
	assert_int_equal(st.cap_permitted, 0x1fffeffffff);
	assert_int_equal(st.cap_effective, 0x1fffeffff00);
	assert_int_equal(st.cap_bounding, 0x1fffeffffff);
	assert_int_equal(st.cap_ambient, 0x400);
	assert_true(st.no_new_privs);
	assert_true(st.thp_enabled);
	assert_false(st.core_dumping);
	assert_false(st.kthread);
	assert_true(st.shadow_stack);
	assert_int_equal(st.seccomp, 2);
	assert_int_equal(st.seccomp_filters, 5);
	assert_int_equal(st.n_cpu_words, 2);
	assert_int_equal(st.cpus_allowed[0], 0x80000003);
	assert_int_equal(st.cpus_allowed[1], 0xff);
	assert_int_equal(st.have, (PROC_HAVE_SHSTK << 1) - 1);
	proc_status_release(&st);
}

static void test_status_older(unused void **state)
{
	struct proc_status st;
	assert_int_equal(proc_status_parse(TEXT(sample_status_old), &st, NULL), 0);
	assert_int_equal(st.have, PROC_HAVE_VM | PROC_HAVE_SECCOMP | PROC_HAVE_CPUS);
	assert_int_equal(st.ns_pid.n, 0);
	assert_null(st.groups);
	assert_int_equal(st.cap_bounding, 0x1fffffffff);
	proc_status_release(&st);

	assert_int_equal(proc_status_parse(TEXT(sample_status_5_4), &st, NULL), 0);
	assert_false(st.have & PROC_HAVE_SECCOMP_FILTERS);
	assert_true(st.have & PROC_HAVE_NS_PIDS);
	assert_int_equal(st.seccomp, 2);
	assert_false(st.thp_enabled);
	assert_int_equal(st.ns_pid.n, 1);
	proc_status_release(&st);

	assert_int_equal(proc_status_parse(TEXT(sample_status_zombie), &st, NULL), 0);
	assert_int_equal(st.state, 'Z');
	assert_false(st.have & (PROC_HAVE_VM | PROC_HAVE_UMASK));
	proc_status_release(&st);
}

/* A copy of text in which the first 'from' was replaced; "" for from appends. */
static char *replaced(const char *text, const char *from, const char *to)
{
	char *out = NULL;
	const char *at = *from ? strstr(text, from) : text + strlen(text);
	assert_non_null(at);
	assert_true(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
	return out;
}

static void test_status_refused(unused void **state)
{
	static const struct {
		const char *from, *to;
	} cases[] = {
		{"Uid:\t1000\t1001\t1002\t1003", "Uid:\t1000\t1001\t1002"},
		{"Uid:\t1000\t1001\t1002\t1003", "Uid:\t1000\t1001\t1002\t4294967296"},
		{"Uid:\t1000\t1001\t1002\t1003", "Uid:\t1000\t1001\t1002\t1003\t1"},
		{"Pid:\t23495", "Pid:\t99999999999"},
		{"Pid:\t23495", "Pid:\t"},
		{"Pid:\t23495", "Pid:\tx"},
		{"SigBlk:\tfffffffe7ffbfeff", "SigBlk:\t1fffffffe7ffbfeff"},
		{"SigBlk:\tfffffffe7ffbfeff\n", ""},
		{"Groups:\t4 24 27 65534", "Groups:\t4 24 -1"},
		{"Groups:\t4 24 27 65534", "Groups:\t4,24"},
		{"Tgid:\t23493", "Tgid:\t23493\nTgid:\t1"},
		{"NoNewPrivs:\t1", "NoNewPrivs:\t2"},
		{"Seccomp:\t2", "Seccomp:\t256"},
		{"VmLck:\t       8 kB", "VmLck:\t       8"},
		{"VmLck:\t       8 kB", "VmLck:\t       18446744073709551615 kB"},
		{"State:\tt (tracing stop)", "State:\t"},
		{"Cpus_allowed:\tff,", "Cpus_allowed:\tff,,"},
		{"SigQ:\t4/96365", "SigQ:\t4"},
		{"Name:\ta ",
		 "Name:\tabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"},
		{"", "no colon\n"},
		{"", "Cut:\tline"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct proc_status st;
		struct ferry_error err = FERRY_ERROR_INIT;
		char *text = replaced(sample_status, cases[i].from, cases[i].to);
		assert_int_equal(proc_status_parse(text, strlen(text), &st, &err), -EBADMSG);
		assert_int_equal(err.id, FERRY_ERROR_SYSTEM);
		assert_int_equal(err.code, EBADMSG);
		assert_non_null(strstr(err.message, "'status'"));
		free(text);
	}
	/* what a later kernel may add is skipped */
	struct proc_status st;
	char *text = replaced(sample_status, "Threads:", "New_thing:\t0x1 (x)\nThreads:");
	assert_int_equal(proc_status_parse(text, strlen(text), &st, NULL), 0);
	proc_status_release(&st);
	free(text);
}

static void test_status_depth(unused void **state)
{
	char line[512] = "NSpid:";
	struct proc_status st;
	size_t n = strlen(line);
	for (int i = 0; i < PROC_PID_DEPTH; i++)
		n += (size_t)snprintf(line + n, sizeof(line) - n, "\t%d", i + 1);
	char *text = replaced(sample_status, "NSpid:\t23495\t43\t3", line);
	assert_int_equal(proc_status_parse(text, strlen(text), &st, NULL), 0);
	assert_int_equal(st.ns_pid.n, PROC_PID_DEPTH);
	assert_int_equal(st.ns_pid.v[PROC_PID_DEPTH - 1], PROC_PID_DEPTH);
	proc_status_release(&st);
	free(text);
	snprintf(line + n, sizeof(line) - n, "\t34");
	text = replaced(sample_status, "NSpid:\t23495\t43\t3", line);
	assert_int_equal(proc_status_parse(text, strlen(text), &st, NULL), -EBADMSG);
	free(text);
}

static void test_stat(unused void **state)
{
	struct proc_stat st;
	assert_int_equal(proc_stat_parse(TEXT(sample_stat), &st, NULL), 0);
	assert_int_equal(st.pid, 23493);
	assert_string_equal(st.comm, "a) S 1 (b\n");
	assert_int_equal(st.state, 't');
	assert_int_equal(st.ppid, 23489);
	assert_int_equal(st.pgrp, 23488);
	assert_int_equal(st.session, 4019);
	assert_int_equal(st.tty_nr, 34816);
	assert_int_equal(st.tpgid, -1);
	assert_int_equal(st.flags, 4194560);
	assert_int_equal(st.minflt, 3348);
	assert_int_equal(st.cmajflt, 1);
	assert_int_equal(st.utime_ticks, 5);
	assert_int_equal(st.cstime_ticks, -1);
	assert_int_equal(st.priority, 20);
	assert_int_equal(st.nice, -5);
	assert_int_equal(st.num_threads, 3);
	assert_int_equal(st.starttime_ticks, 347193);
	assert_int_equal(st.vsize_bytes, 19025920);
	assert_int_equal(st.rss_pages, 3661);
	assert_int_equal(st.rsslim_bytes, UINT64_MAX);
	assert_int_equal(st.startcode, 94100531818496);
	assert_int_equal(st.endcode, 94100531818837);
	assert_int_equal(st.startstack, 140731980656192);
	assert_int_equal(st.signal, 512);
	assert_int_equal(st.blocked, 4096);
	assert_int_equal(st.sigignore, 16781312);
	assert_int_equal(st.sigcatch, 2);
	assert_int_equal(st.wchan, 1);
	assert_int_equal(st.exit_signal, 17);
	assert_int_equal(st.processor, 1);
	assert_int_equal(st.rt_priority, 2);
	assert_int_equal(st.policy, 6);
	assert_int_equal(st.blkio_delay_ticks, 7);
	assert_int_equal(st.guest_time_ticks, 8);
	assert_int_equal(st.cguest_time_ticks, 9);
	assert_int_equal(st.start_data, 94100531830192);
	assert_int_equal(st.end_data, 94100531830808);
	assert_int_equal(st.start_brk, 94101348237312);
	assert_int_equal(st.arg_start, 140731980658842);
	assert_int_equal(st.arg_end, 140731980658896);
	assert_int_equal(st.env_start, 140731980658897);
	assert_int_equal(st.env_end, 140731980660687);
	assert_int_equal(st.exit_code, 768);
	assert_int_equal(st.n_fields, 52);

	assert_int_equal(proc_stat_parse(TEXT(sample_stat_old), &st, NULL), 0);
	assert_int_equal(st.n_fields, 44);
	assert_int_equal(st.wchan, 18446744071580572297u);
	assert_int_equal(st.arg_start, 0);
	/* a 53rd field is for a later ferry */
	char *text = replaced(sample_stat, " 768\n", " 768 5 x\n");
	assert_int_equal(proc_stat_parse(text, strlen(text), &st, NULL), 0);
	assert_int_equal(st.exit_code, 768);
	free(text);
}

static void test_stat_refused(unused void **state)
{
	static const struct {
		const char *from, *to;
	} cases[] = {
		{"23493 (", "23493 "},
		{"23493 (", "x ("},
		{"23493 (", "99999999999 ("},
		{" 347193 ", " 34719x3 "},
		{" 347193 ", "  347193 "},
		{" 347193 ", " -347193 "},
		{" 17 1 2 6 ", " 17 1 2 4294967296 "},
		{" 768\n", " 768"},
		{") t ", ")t "},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct proc_stat st;
		char *text = replaced(sample_stat, cases[i].from, cases[i].to);
		assert_int_equal(proc_stat_parse(text, strlen(text), &st, NULL), -EBADMSG);
		free(text);
	}
	struct proc_stat st;
	static const char few[] = "1 (x) S 0 0 0\n";
	assert_int_equal(proc_stat_parse(TEXT(few), &st, NULL), -EBADMSG);
	assert_int_equal(proc_stat_parse("", 0, &st, NULL), -EBADMSG);
}

static void test_maps(unused void **state)
{
	static const struct {
		const char *name;
		enum proc_vma_kind kind;
		bool deleted;
	} want[] = {
		{"/usr/bin/with space (deleted) name", PROC_VMA_FILE},
		{"/usr/bin/gone", PROC_VMA_FILE, true},
		{"[heap]", PROC_VMA_HEAP},
		{"/memfd:x y", PROC_VMA_MEMFD, true},
		{"/dev/zero", PROC_VMA_SHMEM_ANON, true},
		{"/SYSV0000abcd", PROC_VMA_SYSV, true},
		{"[anon:my name ]", PROC_VMA_ANON_NAMED},
		{"[anon_shmem:s]", PROC_VMA_SHMEM_ANON},
		{"/anon_hugepage", PROC_VMA_HUGETLB_ANON, true},
		{"anon_inode:[io_uring]", PROC_VMA_ANON_INODE},
		{"/[aio]", PROC_VMA_AIO, true},
		{"socket:[4711]", PROC_VMA_SOCKET},
		{"/secretmem", PROC_VMA_SECRETMEM, true},
		{"/tmp/new\nline", PROC_VMA_FILE},
		{"", PROC_VMA_ANON},
		{"/dev/zero", PROC_VMA_FILE},
		{"[stack]", PROC_VMA_STACK},
		{"[vvar]", PROC_VMA_VVAR},
		{"[vvar_vclock]", PROC_VMA_VVAR_VCLOCK},
		{"[vdso]", PROC_VMA_VDSO},
		{"[uprobes]", PROC_VMA_UPROBES},
		{"[sigpage]", PROC_VMA_SPECIAL},
	};
	struct proc_maps maps = {0};
	assert_int_equal(proc_maps_parse(TEXT(sample_maps), &maps, NULL), 0);
	/* the gate is left out */
	assert_int_equal(maps.vmas.n, ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		const struct proc_vma *vma = &maps.vmas.v[i];
		assert_string_equal(proc_vma_name(&maps, vma), want[i].name);
		assert_int_equal(vma->kind, want[i].kind);
		assert_int_equal(vma->deleted, want[i].deleted);
		assert_false(vma->has_flags);
	}
	const struct proc_vma *v = maps.vmas.v;
	assert_int_equal(v[0].start, 0x400000);
	assert_int_equal(v[0].end, 0x40b000);
	assert_int_equal(v[0].prot, PROT_READ | PROT_EXEC);
	assert_int_equal(v[0].dev, makedev(0xfd, 1));
	assert_int_equal(v[0].ino, 531);
	assert_int_equal(v[1].offset, 0xa000);
	assert_int_equal(v[1].prot, PROT_READ | PROT_WRITE);
	assert_false(v[1].shared);
	assert_true(v[3].shared);
	assert_int_equal(v[13].ino, UINT64_MAX);
	assert_int_equal(v[13].offset, 0x1000);
	assert_int_equal(v[14].prot, PROT_NONE);
	/* the same name has one place */
	assert_int_equal(v[4].name, v[15].name);
	assert_ptr_equal(proc_maps_find(&maps, 0x400000), &v[0]);
	assert_ptr_equal(proc_maps_find(&maps, 0x40afff), &v[0]);
	assert_null(proc_maps_find(&maps, 0x40b000));
	assert_null(proc_maps_find(&maps, 0));
	assert_null(proc_maps_find(&maps, UINT64_MAX));
	proc_maps_release(&maps);
}

static void test_smaps(unused void **state)
{
	struct proc_maps maps = {0};
	assert_int_equal(proc_maps_parse(TEXT(sample_smaps), &maps, NULL), 0);
	assert_int_equal(maps.vmas.n, 3);
	const struct proc_vma *v = maps.vmas.v;
	assert_true(v[0].has_flags && v[1].has_flags && v[2].has_flags);
	assert_int_equal(v[0].vm_flags, PROC_VM(READ) | PROC_VM(EXEC) | PROC_VM(MAYREAD) | PROC_VM(MAYWRITE) |
						PROC_VM(MAYEXEC) | PROC_VM(SOFTDIRTY));
	assert_int_equal(v[0].common_bytes, 40 * 1024);
	assert_int_equal(v[0].page_shift, 12);
	assert_int_equal(v[1].page_shift, 21);
	assert_int_equal(v[1].pkey, 3);
	assert_true(v[1].vm_flags & PROC_VM(HUGETLB));
	/* a word that ferry does not know is not lost */
	assert_true(v[1].vm_flags & PROC_VM(OTHER));
	assert_int_equal(v[2].vm_flags, PROC_VM(READ) | PROC_VM(WRITE) | PROC_VM(MAYREAD) |
						PROC_VM(MAYWRITE) | PROC_VM(MAYEXEC) | PROC_VM(LOCKED) |
						PROC_VM(WIPEONFORK) | PROC_VM(DONTDUMP) | PROC_VM(SEALED) |
						PROC_VM(DROPPABLE) | PROC_VM(UFFD_WP) | PROC_VM(ACCOUNT));
	proc_maps_release(&maps);

	assert_int_equal(proc_maps_parse(TEXT(sample_smaps_old), &maps, NULL), 0);
	assert_int_equal(maps.vmas.n, 1);
	assert_false(maps.vmas.v[0].has_flags);
	assert_int_equal(maps.vmas.v[0].common_bytes, 24 * 1024);
	proc_maps_release(&maps);
}

static void test_maps_refused(unused void **state)
{
	static const struct {
		const char *text;
		int result;
	} cases[] = {
		{"00400000-0040b000 r-xp 00000000 fd:01 531", -EBADMSG},
		{"00400000-00400000 r-xp 00000000 fd:01 531 \n", -EBADMSG},
		{"00500000-00400000 r-xp 00000000 fd:01 531 \n", -EBADMSG},
		{"00400000-0040b000 rwxz 00000000 fd:01 531 \n", -EBADMSG},
		{"00400000-0040b000 r-x 00000000 fd:01 531 \n", -EBADMSG},
		{"00400000-0040b000 r-xp 00000000 fd:01 531x\n", -EBADMSG},
		{"00400000-0040b000 r-xp 00000000 fd-01 531 \n", -EBADMSG},
		{"10000000000000000-20000000000000000 r-xp 0 fd:01 531 \n", -EBADMSG},
		{"Size: 4 kB\n", -EBADMSG},
		{"\n", -EBADMSG},
		{"00400000-0040b000 r-xp 00000000 fd:01 531 \nShared_Dirty: x kB\n", -EBADMSG},
		{"00400000-0040b000 r-xp 00000000 fd:01 531 \nKernelPageSize: 3 kB\n", -EBADMSG},
		{"00400000-0040b000 r-xp 00000000 fd:01 531 \nKernelPageSize: 0 kB\n", -EBADMSG},
		{"00400000-0040b000 r-xp 00000000 fd:01 531 \nProtectionKey: 256\n", -EBADMSG},
		{"00400000-0040b000 r-xp 0 fd:01 531 \n0040a000-0040c000 r-xp 0 fd:01 531 \n", -EAGAIN},
		{"00400000-0040b000 r-xp 0 fd:01 531 \n00100000-00101000 r-xp 0 fd:01 531 \n", -EAGAIN},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct proc_maps maps = {0};
		struct ferry_error err = FERRY_ERROR_INIT;
		assert_int_equal(proc_maps_parse(cases[i].text, strlen(cases[i].text), &maps, &err),
				 cases[i].result);
		assert_int_equal(err.code, -cases[i].result);
		proc_maps_release(&maps);
	}
}

static void test_maps_query(unused void **state)
{
	struct proc_maps maps = {0};
	struct procmap_query query = {
		.vma_start = 0x1000,
		.vma_end = 0x3000,
		.vma_flags =
			PROCMAP_QUERY_VMA_READABLE | PROCMAP_QUERY_VMA_WRITABLE | PROCMAP_QUERY_VMA_SHARED,
		.vma_page_size = 2 << 20,
		.vma_offset = 0x5000,
		.inode = 77,
		.dev_major = 254,
		.dev_minor = 3,
		.vma_name_size = sizeof("/memfd:a\n\\012 (deleted)"),
	};
	assert_int_equal(proc_maps_add_query(&maps, &query, "/memfd:a\n\\012 (deleted)", NULL), 0);
	const struct proc_vma *v = maps.vmas.v;
	/* here nothing is escaped */
	assert_string_equal(proc_vma_name(&maps, v), "/memfd:a\n\\012");
	assert_int_equal(v->kind, PROC_VMA_MEMFD);
	assert_true(v->shared && v->deleted && !v->has_flags);
	assert_int_equal(v->prot, PROT_READ | PROT_WRITE);
	assert_int_equal(v->page_shift, 21);
	assert_int_equal(v->offset, 0x5000);
	assert_int_equal(v->ino, 77);
	assert_int_equal(v->dev, makedev(254, 3));
	query.vma_start = 0x2000;
	assert_int_equal(proc_maps_add_query(&maps, &query, "", NULL), -EAGAIN);
	query.vma_start = query.vma_end = 0x4000;
	assert_int_equal(proc_maps_add_query(&maps, &query, "", NULL), -EBADMSG);
	query = (struct procmap_query){.vma_start = 0x4000, .vma_end = 0x5000};
	assert_int_equal(proc_maps_add_query(&maps, &query, NULL, NULL), 0);
	assert_int_equal(maps.vmas.v[1].kind, PROC_VMA_ANON);
	assert_string_equal(proc_vma_name(&maps, &maps.vmas.v[1]), "");
	proc_maps_release(&maps);
}

static struct proc_fdinfo fdinfo(const char *text, enum proc_fdinfo_kind kind)
{
	struct proc_fdinfo info = {0};
	assert_int_equal(proc_fdinfo_parse(text, strlen(text), &info, NULL), 0);
	assert_int_equal(info.kind, kind);
	return info;
}

static void test_fdinfo_inline(unused void **state)
{
	struct proc_fdinfo info = fdinfo(sample_eventfd, PROC_FDINFO_EVENTFD);
	assert_int_equal(info.flags, 02004002);
	assert_int_equal(info.mnt_id, 17);
	assert_int_equal(info.ino, 1038);
	assert_true(info.has_ino && info.has_mnt_id);
	assert_int_equal(info.eventfd.count, 0xfffffffffffffffe);
	assert_int_equal(info.eventfd.id, 12);
	assert_int_equal(info.eventfd.semaphore, 1);

	info = fdinfo(sample_eventfd_old, PROC_FDINFO_EVENTFD);
	assert_int_equal(info.eventfd.count, 0x1f);
	assert_int_equal(info.eventfd.id, -1);
	assert_int_equal(info.eventfd.semaphore, -1);
	assert_false(info.has_ino || info.has_mnt_id);

	info = fdinfo(sample_signalfd, PROC_FDINFO_SIGNALFD);
	assert_int_equal(info.signalfd.mask, 0xa00);

	info = fdinfo(sample_timerfd, PROC_FDINFO_TIMERFD);
	assert_int_equal(info.timerfd.clockid, 7);
	assert_int_equal(info.timerfd.ticks, UINT64_MAX);
	assert_int_equal(info.timerfd.settime_flags, 3);
	assert_int_equal(info.timerfd.value.it_value.tv_sec, 999);
	assert_int_equal(info.timerfd.value.it_value.tv_nsec, 999972106);
	assert_int_equal(info.timerfd.value.it_interval.tv_sec, 3);
	assert_int_equal(info.timerfd.value.it_interval.tv_nsec, 500);

	info = fdinfo(sample_pidfd, PROC_FDINFO_PIDFD);
	assert_int_equal(info.pidfd.pid, 23493);
	assert_int_equal(info.pidfd.ns_pid.n, 3);
	assert_int_equal(info.pidfd.ns_pid.v[2], 1);
	info = fdinfo(sample_pidfd_dead, PROC_FDINFO_PIDFD);
	assert_int_equal(info.pidfd.pid, -1);

	info = fdinfo(sample_uffd, PROC_FDINFO_UFFD);
	assert_int_equal(info.uffd.pending, 2);
	assert_int_equal(info.uffd.total, 3);
	assert_int_equal(info.uffd.api, 0xaa);
	assert_int_equal(info.uffd.features, 0x8001);

	info = fdinfo(sample_tun, PROC_FDINFO_TUN);
	assert_string_equal(info.tun.name, "tap0");
	info = fdinfo(sample_tun_free, PROC_FDINFO_TUN);
	assert_string_equal(info.tun.name, "");

	info = fdinfo(sample_bpf_map, PROC_FDINFO_BPF_MAP);
	assert_int_equal(info.bpf.type, 2);
	assert_int_equal(info.bpf.id, 25);

	info = fdinfo(sample_plain_old, PROC_FDINFO_PLAIN);
	assert_int_equal(info.pos, 17);
	assert_int_equal(info.flags, 0100000);
}

static void test_fdinfo_io_uring(unused void **state)
{
	struct proc_fdinfo info = fdinfo(sample_io_uring, PROC_FDINFO_IO_URING);
	assert_int_equal(info.io_uring.sq_mask, 7);
	assert_int_equal(info.io_uring.sq_head, UINT32_MAX);
	assert_int_equal(info.io_uring.sq_tail, 2);
	assert_int_equal(info.io_uring.cached_sq_head, 3);
	assert_int_equal(info.io_uring.cq_mask, 15);
	assert_int_equal(info.io_uring.cq_head, 4);
	assert_int_equal(info.io_uring.cq_tail, 5);
	assert_int_equal(info.io_uring.cached_cq_tail, 6);
	assert_int_equal(info.io_uring.sq_thread, -1);
	assert_int_equal(info.io_uring.user_files, 1);
	assert_int_equal(info.io_uring.user_bufs, 2);
	assert_true(info.io_uring.has_polls);
	assert_false(info.io_uring.has_overflow);
}

static void test_uring(unused void **state)
{
	static const char text[] = "SqMask:\t0x7\nSqHead:\t4294967295\nSqTail:\t2\nCachedSqHead:\t3\n"
				   "CqMask:\t0xf\nCqHead:\t4\nCqTail:\t5\nCachedCqTail:\t6\nSQEs:\t1\n"
				   "    2: opcode:READ, fd:0, flags:0, e0:0x0, e1:0x1\nCQEs:\t1\n"
				   "    4: user_data:7, res:0, flag:0, extra1:0, extra2:0\n\nSqThread:\t77\n"
				   "UserFiles:\t4\n    1: /tmp/a\\040b\n    2: <none>\n    3: socket:[12]\n"
				   "UserBufs:\t3\n    0: 0x7f0000001064/5000\n    1: <none>\nPollList:\n"
				   "  op=13, task_works=0\n  op=6, task_works=1\nCqOverflowList:\n"
				   "  user_data=18446744073709551615, res=-11, flags=2a\nNAPI:\tenabled\n";
	struct proc_uring u;
	assert_int_equal(proc_uring_parse(text, sizeof(text) - 1, &u, NULL), 0);
	assert_true(u.whole && u.napi && u.wide_sqe && u.wide_cqe && !u.personalities);
	assert_int_equal(u.sq_mask, 7);
	assert_int_equal(u.sq_head, UINT32_MAX);
	assert_int_equal(u.cached_cq_tail, 6);
	assert_int_equal(u.sq_thread, 77);
	assert_int_equal(u.sqes_shown, 1);
	assert_int_equal(u.n_files, 4);
	assert_int_equal(u.files.n, 2);
	assert_int_equal(u.files.v[1].slot, 3);
	assert_string_equal(proc_names_get(&u.names, u.files.v[0].name), "/tmp/a\\040b");
	assert_string_equal(proc_names_get(&u.names, u.files.v[1].name), "socket:[12]");
	assert_int_equal(u.n_buffers, 3);
	assert_int_equal(u.buffers.n, 1);
	assert_int_equal(u.buffers.v[0].address, 0x7f0000001064);
	assert_int_equal(u.buffers.v[0].bytes, 5000);
	assert_int_equal(u.polls.n, 2);
	assert_int_equal(u.polls.v[0], 13);
	assert_int_equal(u.overflow.n, 1);
	assert_int_equal(u.overflow.v[0].user_data, UINT64_MAX);
	assert_int_equal(u.overflow.v[0].res, -11);
	assert_int_equal(u.overflow.v[0].flags, 0x2a);
	proc_uring_release(&u);
	assert_int_equal(proc_uring_parse(sample_io_uring, sizeof(sample_io_uring) - 1, &u, NULL), 0);
	assert_true(u.whole && !u.napi && u.sq_thread == -1 && u.polls.n == 1 && !u.overflow.n);
	proc_uring_release(&u);
}

/* What does not make sense is told, and a ring that could not be locked shows less. */
static void test_uring_bad(unused void **state)
{
	static const char *const bad[] = {
		"SqMask:\t7\n",
		"SqHead:\t4294967296\n",
		"UserFiles:\t1\n    x: y\n",
		"UserBufs:\t1\n    0: 7f00/1\n",
		"PollList:\n  op=x\n",
		"CqOverflowList:\n  user_data=1\n",
		"SqThread:\t\n",
		"UserBufs:\t1\n    0: 0x/1\n",
		"SqTail:\t1",
	};
	struct proc_uring u;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(proc_uring_parse(bad[i], strlen(bad[i]), &u, NULL), -EBADMSG);
		proc_uring_release(&u);
	}
	assert_int_equal(proc_uring_parse("pos:\t0\n", 7, &u, NULL), 0);
	assert_false(u.whole);
	proc_uring_release(&u);
}

static void test_fdinfo_lists(unused void **state)
{
	struct proc_fdinfo info = fdinfo(sample_epoll, PROC_FDINFO_EPOLL);
	assert_int_equal(info.epoll.n, 2);
	assert_int_equal(info.epoll.v[0].fd, 3);
	assert_int_equal(info.epoll.v[0].events, 0x80000019);
	assert_int_equal(info.epoll.v[0].data, 3);
	assert_true(info.epoll.v[0].has_file);
	assert_int_equal(info.epoll.v[0].ino, 0x40e);
	assert_int_equal(info.epoll.v[0].dev, makedev(0, 16));
	assert_int_equal(info.epoll.v[1].data, UINT64_MAX);
	assert_int_equal(info.epoll.v[1].pos, -1);
	assert_int_equal(info.epoll.v[1].dev, makedev(254, 3));
	proc_fdinfo_release(&info);

	info = fdinfo(sample_epoll_old, PROC_FDINFO_EPOLL);
	assert_int_equal(info.epoll.n, 1);
	assert_false(info.epoll.v[0].has_file);
	assert_int_equal(info.epoll.v[0].data, UINT64_MAX);
	proc_fdinfo_release(&info);

	info = fdinfo(sample_inotify, PROC_FDINFO_INOTIFY);
	assert_int_equal(info.inotify.n, 3);
	assert_int_equal(info.inotify.v[0].wd, 20);
	assert_int_equal(info.inotify.v[0].handle.n, 12);
	assert_int_equal(info.inotify.v[0].handle.type, 0x81);
	assert_int_equal(info.inotify.v[1].wd, 15);
	assert_int_equal(info.inotify.v[1].ino, 0xa7a768);
	assert_int_equal(info.inotify.v[1].dev, makedev(254, 0));
	assert_int_equal(info.inotify.v[1].mask, 0x800afce);
	assert_memory_equal(info.inotify.v[1].handle.bytes, "\x68\xa7\xa7\x00\x57\xb9\xd6\xc7", 8);
	assert_int_equal(info.inotify.v[2].handle.n, 0);
	proc_fdinfo_release(&info);

	info = fdinfo(sample_fanotify, PROC_FDINFO_FANOTIFY);
	assert_int_equal(info.fanotify.flags, 0x11);
	assert_int_equal(info.fanotify.event_flags, 0x8002);
	assert_int_equal(info.fanotify_marks.n, 3);
	assert_int_equal(info.fanotify_marks.v[0].target, PROC_FANOTIFY_SB);
	assert_int_equal(info.fanotify_marks.v[0].dev, makedev(254, 0));
	assert_int_equal(info.fanotify_marks.v[1].target, PROC_FANOTIFY_MOUNT);
	assert_int_equal(info.fanotify_marks.v[1].mnt_id, 27);
	assert_int_equal(info.fanotify_marks.v[2].target, PROC_FANOTIFY_INODE);
	assert_int_equal(info.fanotify_marks.v[2].ino, 0x3c51a);
	assert_int_equal(info.fanotify_marks.v[2].mflags, 0x40);
	assert_int_equal(info.fanotify_marks.v[2].ignored_mask, 2);
	assert_int_equal(info.fanotify_marks.v[2].handle.n, 8);
	proc_fdinfo_release(&info);

	info = fdinfo(sample_file_locked, PROC_FDINFO_PLAIN);
	assert_int_equal(info.pos, 100);
	assert_int_equal(info.locks.n, 3);
	assert_int_equal(info.locks.v[0].type, PROC_LOCK_FLOCK);
	assert_int_equal(info.locks.v[0].fl_type, F_RDLCK);
	assert_int_equal(info.locks.v[1].type, PROC_LOCK_POSIX);
	assert_int_equal(info.locks.v[1].start, 5);
	assert_int_equal(info.locks.v[1].end, 14);
	assert_int_equal(info.locks.v[2].type, PROC_LOCK_OFD);
	assert_int_equal(info.locks.v[2].pid, -1);
	assert_int_equal(info.locks.v[2].start, 50);
	assert_int_equal(info.locks.v[2].end, UINT64_MAX);
	proc_fdinfo_release(&info);
}

static void test_fdinfo_refused(unused void **state)
{
	static const char *const bad[] = {
		"",
		"pos:\t0\n",
		"flags:\t02\n",
		"pos:\t0\nflags:\t08\n",
		"pos:\tx\nflags:\t02\n",
		"pos:\t0\nflags:\t02\nino:\t-1\n",
		"pos:\t0\nflags:\t02\neventfd-count: 10000000000000000\n",
		"pos:\t0\nflags:\t02\neventfd-semaphore: 2\n",
		"pos:\t0\nflags:\t02\nit_value: (1, 1000000000)\n",
		"pos:\t0\nflags:\t02\nit_value: (1, 2\n",
		"pos:\t0\nflags:\t02\ntfd: 1 events: 2\n",
		"pos:\t0\nflags:\t02\ntfd: 1 events: 2 data: 3 pos:0 ino:1\n",
		"pos:\t0\nflags:\t02\ninotify wd:80000000 ino:1 sdev:1 mask:1 ignored_mask:0\n",
		"pos:\t0\nflags:\t02\nlock:\t1: POSIX\n",
		"pos:\t0\nflags:\t02\niff:\tabcdefghijklmnop\n",
		"pos:\t0\nflags:\t02\nsigmask:\t0",
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct proc_fdinfo info = {0};
		assert_int_equal(proc_fdinfo_parse(bad[i], strlen(bad[i]), &info, NULL), -EBADMSG);
		proc_fdinfo_release(&info);
	}
	static const char *const handles[] = {
		"fhandle-bytes:2 fhandle-type:1 f_handle:01",
		"fhandle-bytes:81 fhandle-type:1 f_handle:01",
		"fhandle-bytes:1 fhandle-type:1 f_handle:0x",
		"fhandle-bytes:1 fhandle-type:1 f_handle:0100",
	};
	for (size_t i = 0; i < ARRAY_SIZE(handles); i++) {
		struct proc_fdinfo info = {0};
		char *text = replaced(sample_inotify,
				      "fhandle-bytes:8 fhandle-type:1 f_handle:68a7a70057b9d6c7", handles[i]);
		assert_int_equal(proc_fdinfo_parse(text, strlen(text), &info, NULL), -EBADMSG);
		proc_fdinfo_release(&info);
		free(text);
	}
	/* lines of another kind do not overwrite what is there */
	struct proc_fdinfo info =
		fdinfo("pos:\t0\nflags:\t02\nsigmask:\ta\nticks: 7\nPid:\t9\n", PROC_FDINFO_SIGNALFD);
	assert_int_equal(info.signalfd.mask, 10);
}

static void test_locks(unused void **state)
{
	struct proc_locks locks = {0};
	assert_int_equal(proc_locks_parse(TEXT(sample_locks), &locks, NULL), 0);
	assert_int_equal(locks.v.n, 7);
	const struct proc_lock *v = locks.v.v;
	assert_int_equal(v[0].dev, makedev(0, 0x16));
	assert_int_equal(v[0].ino, 921);
	assert_int_equal(v[0].fl_type, F_WRLCK);
	assert_false(v[0].waiting);
	assert_true(v[1].waiting && v[2].waiting);
	assert_int_equal(v[1].id, 1);
	assert_int_equal(v[1].end, 7);
	assert_int_equal(v[2].pid, 0);
	assert_int_equal(v[3].type, PROC_LOCK_LEASE);
	assert_int_equal(v[3].lease, PROC_LEASE_BREAKING);
	assert_int_equal(v[4].type, PROC_LOCK_DELEGATION);
	assert_int_equal(v[5].fl_type, F_WRLCK);
	assert_int_equal(v[5].ino, 0);
	assert_true(v[6].mandatory);
	assert_int_equal(v[6].start, 1073741826);
	proc_locks_release(&locks);
}

static void test_mountinfo(unused void **state)
{
	struct proc_mounts mounts = {0};
	assert_int_equal(proc_mounts_parse(TEXT(sample_mountinfo), &mounts, NULL), 0);
	assert_int_equal(mounts.v.n, 4);
	const struct proc_mount *m = mounts.v.v;
	assert_int_equal(m[0].id, 36);
	assert_int_equal(m[0].parent_id, 35);
	assert_int_equal(m[0].dev, makedev(98, 0));
	assert_string_equal(m[0].root, "/mnt1");
	assert_string_equal(m[0].point, "/mnt2");
	assert_string_equal(m[0].options, "rw,noatime");
	assert_int_equal(m[0].master, 1);
	assert_int_equal(m[0].shared, 0);
	assert_string_equal(m[0].fstype, "ext3");
	assert_string_equal(m[0].source, "/dev/root");
	assert_string_equal(m[0].super_options, "rw,errors=continue");
	assert_int_equal(m[1].shared, 12);
	assert_int_equal(m[1].master, 3);
	assert_int_equal(m[1].propagate_from, 2);
	assert_string_equal(m[2].root, "/a b\\c");
	assert_string_equal(m[2].point, "/mnt/tab\tnl\n");
	assert_true(m[2].unbindable);
	assert_string_equal(m[2].source, "user@host:/x y");
	assert_string_equal(m[3].source, "");
	assert_string_equal(m[3].super_options, "rw");
	assert_int_equal(m[3].dev, makedev(4095, 1048575));
	assert_ptr_equal(proc_mounts_find(&mounts, 23), &m[2]);
	assert_null(proc_mounts_find(&mounts, 1));
	assert_true(proc_mount_has_option(m[0].options, "rw"));
	assert_true(proc_mount_has_option(m[0].options, "noatime"));
	assert_false(proc_mount_has_option(m[0].options, "atime"));
	assert_false(proc_mount_has_option(m[0].options, "noatim"));
	proc_mounts_release(&mounts);

	static const char *const bad[] = {
		"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 ext3 /dev/root rw\n",
		"36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root\n",
		"36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw extra\n",
		"36 35 98.0 / / rw - ext3 /dev/root rw\n",
		"36 35 98:0 / / rw shared:x - ext3 /dev/root rw\n",
		"36 35 98:0 / / rw - ext3 /dev/root rw",
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		mounts = (struct proc_mounts){0};
		assert_int_equal(proc_mounts_parse(bad[i], strlen(bad[i]), &mounts, NULL), -EBADMSG);
		proc_mounts_release(&mounts);
	}
}

static void test_auxv(unused void **state)
{
	uint64_t words[2 * (PROC_AUXV_MAX + 1)] = {
		AT_PAGESZ, 4096, AT_SYSINFO_EHDR, 0x7ffff0000000, AT_NULL, 0, 1, 2};
	struct proc_auxv auxv;
	uint64_t value;
	assert_int_equal(proc_auxv_parse(words, 64, 8, &auxv, NULL), 0);
	assert_int_equal(auxv.n, 2);
	assert_true(proc_auxv_get(&auxv, AT_SYSINFO_EHDR, &value));
	assert_int_equal(value, 0x7ffff0000000);
	assert_false(proc_auxv_get(&auxv, AT_BASE, &value));
	/* without an end, cut in an entry, too long */
	assert_int_equal(proc_auxv_parse(words, 32, 8, &auxv, NULL), -EBADMSG);
	assert_int_equal(proc_auxv_parse(words, 60, 8, &auxv, NULL), -EBADMSG);
	assert_int_equal(proc_auxv_parse(words, 0, 8, &auxv, NULL), -EBADMSG);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = 1;
	assert_int_equal(proc_auxv_parse(words, sizeof(words), 8, &auxv, NULL), -EBADMSG);

	uint32_t small[] = {AT_PAGESZ, 4096, AT_BASE, 0xf7fd0000, AT_NULL, 0};
	assert_int_equal(proc_auxv_parse(small, sizeof(small), 4, &auxv, NULL), 0);
	assert_int_equal(auxv.word_bytes, 4);
	assert_int_equal(proc_auxv_parse(small, sizeof(small), 0, &auxv, NULL), 0);
	assert_int_equal(auxv.word_bytes, 4);
	assert_int_equal(auxv.n, 2);
	uint64_t large[] = {AT_SYSINFO_EHDR, 0x7ffff0000000, AT_NULL, 0, UINT64_MAX, 5};
	assert_int_equal(proc_auxv_parse(large, sizeof(large), 0, &auxv, NULL), 0);
	assert_int_equal(auxv.word_bytes, 8);
	assert_int_equal(auxv.n, 1);
	assert_int_equal(proc_auxv_parse(small, sizeof(small), 4, &auxv, NULL), 0);
	assert_true(proc_auxv_get(&auxv, AT_BASE, &value));
	assert_int_equal(value, 0xf7fd0000);
}

static void test_limits(unused void **state)
{
	struct proc_limits limits;
	assert_int_equal(proc_limits_parse(TEXT(sample_limits), &limits, NULL), 0);
	assert_int_equal(limits.v[RLIMIT_CPU].soft, RLIM64_INFINITY);
	assert_int_equal(limits.v[RLIMIT_STACK].soft, 8388608);
	assert_int_equal(limits.v[RLIMIT_STACK].hard, RLIM64_INFINITY);
	assert_int_equal(limits.v[RLIMIT_NPROC].hard, 96366);
	assert_int_equal(limits.v[RLIMIT_NOFILE].soft, 1024);
	assert_int_equal(limits.v[RLIMIT_NOFILE].hard, 20000);
	assert_int_equal(limits.v[RLIMIT_MEMLOCK].hard, 8388609);
	assert_int_equal(limits.v[RLIMIT_RTPRIO].soft, 5);
	assert_int_equal(limits.v[RLIMIT_RTTIME].hard, 18446744073709551614u);
	char *text = replaced(sample_limits, "Max file locks", "Max file docks");
	assert_int_equal(proc_limits_parse(text, strlen(text), &limits, NULL), -EBADMSG);
	free(text);
}

static void test_small_files(unused void **state)
{
	struct proc_cgroups cgroups = {0};
	assert_int_equal(proc_cgroups_parse(TEXT(sample_cgroup), &cgroups, NULL), 0);
	assert_int_equal(cgroups.v.n, 3);
	assert_int_equal(cgroups.v.v[0].hierarchy, 9);
	assert_string_equal(cgroups.v.v[0].controllers, "name=systemd");
	assert_string_equal(cgroups.v.v[0].path, "/user.slice/user@0.service:x");
	assert_string_equal(cgroups.v.v[1].controllers, "cpu,cpuacct");
	assert_string_equal(cgroups.v.v[2].controllers, "");
	assert_string_equal(cgroups.v.v[2].path, "/system.slice/a b.scope");
	assert_true(cgroups.v.v[2].deleted);
	proc_cgroups_release(&cgroups);

	struct proc_pid_list list = {0};
	assert_int_equal(proc_children_parse("7 8 32768 ", 10, &list, NULL), 0);
	assert_int_equal(list.v.n, 3);
	assert_int_equal(list.v.v[2], 32768);
	proc_pid_list_release(&list);
	/* a cut number is not a number */
	assert_int_equal(proc_children_parse("7 8 3276", 8, &list, NULL), -EBADMSG);
	proc_pid_list_release(&list);
	assert_int_equal(proc_children_parse("", 0, &list, NULL), 0);
	assert_int_equal(list.v.n, 0);

	struct proc_id_map map = {0};
	assert_int_equal(proc_id_map_parse(TEXT(sample_id_map), &map, NULL), 0);
	assert_int_equal(map.v.n, 2);
	assert_int_equal(map.v.v[0].outside, 100000);
	assert_int_equal(map.v.v[1].inside, 65536);
	assert_int_equal(map.v.v[1].count, 4294901759u);
	proc_id_map_release(&map);

	struct proc_timens_offsets offsets;
	assert_int_equal(proc_timens_offsets_parse(TEXT(sample_timens), &offsets, NULL), 0);
	assert_int_equal(offsets.monotonic.sec, 864000);
	assert_int_equal(offsets.monotonic.nsec, 999999999);
	assert_int_equal(offsets.boottime.sec, -9007199);
	assert_int_equal(offsets.boottime.nsec, 5);
	assert_int_equal(proc_timens_offsets_parse(sample_timens, strlen("monotonic      864000 999999999\n"),
						   &offsets, NULL),
			 -EBADMSG);

	bool allowed = false;
	assert_int_equal(proc_setgroups_parse("allow\n", 6, &allowed, NULL), 0);
	assert_true(allowed);
	assert_int_equal(proc_setgroups_parse("deny\n", 5, &allowed, NULL), 0);
	assert_false(allowed);
	assert_int_equal(proc_setgroups_parse("maybe\n", 6, &allowed, NULL), -EBADMSG);
}

static void test_timers(unused void **state)
{
	static const struct proc_timer want[] = {
		{.id = 3, .signo = 14, .sigval = 3, .notify = SIGEV_SIGNAL, .pid = 23493, .clockid = 1},
		{.id = 2,
		 .signo = 35,
		 .sigval = 0x7fff1234567a,
		 .notify = SIGEV_SIGNAL,
		 .thread_id = true,
		 .pid = 23494,
		 .clockid = -2},
		{.id = 1, .notify = SIGEV_NONE, .pid = 23493, .clockid = 1},
		{.id = 0, .signo = 34, .sigval = 0x7fff12345678, .notify = SIGEV_THREAD, .clockid = 11},
	};
	struct proc_timers timers = {0};
	assert_int_equal(proc_timers_parse(TEXT(sample_timers), &timers, NULL), 0);
	assert_int_equal(timers.v.n, ARRAY_SIZE(want));
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		const struct proc_timer *t = &timers.v.v[i];
		assert_int_equal(t->id, want[i].id);
		assert_int_equal(t->signo, want[i].signo);
		assert_int_equal(t->sigval, want[i].sigval);
		assert_int_equal(t->notify, want[i].notify);
		assert_int_equal(t->thread_id, want[i].thread_id);
		assert_int_equal(t->pid, want[i].pid);
		assert_int_equal(t->clockid, want[i].clockid);
	}
	proc_timers_release(&timers);
	assert_int_equal(proc_timers_parse("signal: 1/0\n", 12, &timers, NULL), -EBADMSG);
	proc_timers_release(&timers);
}

static void test_numbers(unused void **state)
{
	uint64_t u = 1;
	int64_t i = 1;
	assert_int_equal(proc_u64_parse("18446744073709551615", 20, 10, "x", &u, NULL), 0);
	assert_int_equal(u, UINT64_MAX);
	assert_int_equal(proc_u64_parse("18446744073709551616", 20, 10, "x", &u, NULL), -EBADMSG);
	assert_int_equal(proc_u64_parse("00000033\n", 9, 16, "x", &u, NULL), 0);
	assert_int_equal(u, 0x33);
	assert_int_equal(proc_u64_parse("\n", 1, 16, "x", &u, NULL), -EBADMSG);
	assert_int_equal(proc_u64_parse("5\n\n", 3, 16, "x", &u, NULL), -EBADMSG);
	assert_int_equal(u, 0x33);
	assert_int_equal(proc_i64_parse("-9223372036854775808\n", 21, "x", &i, NULL), 0);
	assert_int_equal(i, INT64_MIN);
	assert_int_equal(proc_i64_parse("9223372036854775808\n", 20, "x", &i, NULL), -EBADMSG);
	assert_int_equal(proc_i64_parse("--1\n", 4, "x", &i, NULL), -EBADMSG);

	assert_int_equal(proc_link_number("net:[4026531840]", "net", &u), 0);
	assert_int_equal(u, 4026531840);
	assert_int_equal(proc_link_number("net:[4026531840]x", "net", &u), -EINVAL);
	assert_int_equal(proc_link_number("pipe:[1]", "net", &u), -EINVAL);
	assert_int_equal(proc_link_number("pipe:[]", "pipe", &u), -EINVAL);
	for (int ns = 0; ns < PROC_NS_COUNT; ns++)
		assert_non_null(proc_ns_info(ns)->file);
	assert_null(proc_ns_info(PROC_NS_COUNT));
}

static void test_names(unused void **state)
{
	struct proc_names names = {0};
	uint32_t ids[5000];
	char text[32];
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 5000; i++) {
			uint32_t id;
			int n = sprintf(text, "/lib/lib%d.so", i);
			assert_int_equal(proc_names_add(&names, text, (size_t)n, &id), 0);
			if (round)
				assert_int_equal(id, ids[i]);
			ids[i] = id;
		}
	for (int i = 0; i < 5000; i++) {
		sprintf(text, "/lib/lib%d.so", i);
		assert_string_equal(proc_names_get(&names, ids[i]), text);
	}
	uint32_t id = 1;
	assert_int_equal(proc_names_add(&names, "", 0, &id), 0);
	assert_int_equal(id, 0);
	assert_int_equal(proc_names_add(&names, "a\0b", 3, &id), -EBADMSG);
	assert_string_equal(proc_names_get(&names, UINT32_MAX), "");
	/* a prefix is another string */
	assert_int_equal(proc_names_add(&names, "/lib/lib1", 9, &id), 0);
	assert_int_not_equal(id, ids[1]);
	proc_names_release(&names);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status),         cmocka_unit_test(test_status_older),
		cmocka_unit_test(test_status_refused), cmocka_unit_test(test_status_depth),
		cmocka_unit_test(test_stat),           cmocka_unit_test(test_stat_refused),
		cmocka_unit_test(test_maps),           cmocka_unit_test(test_smaps),
		cmocka_unit_test(test_maps_refused),   cmocka_unit_test(test_maps_query),
		cmocka_unit_test(test_fdinfo_inline),  cmocka_unit_test(test_fdinfo_io_uring),
		cmocka_unit_test(test_uring),          cmocka_unit_test(test_uring_bad),
		cmocka_unit_test(test_fdinfo_lists),   cmocka_unit_test(test_fdinfo_refused),
		cmocka_unit_test(test_locks),          cmocka_unit_test(test_mountinfo),
		cmocka_unit_test(test_auxv),           cmocka_unit_test(test_limits),
		cmocka_unit_test(test_small_files),    cmocka_unit_test(test_timers),
		cmocka_unit_test(test_numbers),        cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
