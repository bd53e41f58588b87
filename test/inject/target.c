/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program to inject into, that proves its own state: target MODE, with memory shared with the test on
 * descriptor TARGET_FD. Every thread checks what it computes or waits for, counts what is wrong, and beats
 * while it is well.
 */
#include "target.h"

#include <arpa/inet.h>
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define HOLD_LOOPS 60000

static struct target_shared *S;
static const char *mode_argument;

static void bad(const char *fmt, ...)
{
	va_list ap;

	if (__atomic_fetch_add(&S->bad, 1, __ATOMIC_SEQ_CST))
		return;
	va_start(ap, fmt);
	vsnprintf(S->bad_text, sizeof(S->bad_text), fmt, ap);
	va_end(ap);
}

static struct target_thread *enlist(const char *name)
{
	struct target_thread *me = &S->thread[__atomic_fetch_add(&S->n_threads, 1, __ATOMIC_SEQ_CST)];

	snprintf(me->name, sizeof(me->name), "%s", name);
	me->tid = (pid_t)syscall(SYS_gettid);
	return me;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A crash says where. */
static void crashed(int signal, siginfo_t *info, void *context)
{
	const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	S->bad++;
	snprintf(S->bad_text, sizeof(S->bad_text),
		 "signal %d (code %d, address %p) in thread %d: rip %llx rsp %llx rax %llx rcx %llx rbx %llx",
		 signal, info->si_code, info->si_addr, (int)syscall(SYS_gettid), regs[REG_RIP], regs[REG_RSP],
		 regs[REG_RAX], regs[REG_RCX], regs[REG_RBX]);
	_exit(100);
}

static void tell_crashes(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS};
	struct sigaction action = {.sa_sigaction = crashed, .sa_flags = SA_SIGINFO | SA_RESETHAND};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &action, NULL);
}

/* ---------------------------------------------------------------- computing */

static unsigned vector_level(void)
{
	if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512f"))
		return 2;
	return __builtin_cpu_supports("avx") != 0;
}

/* PKRU: 0 when the CPU has no protection keys. */
static bool has_pku(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 4));
}

static uint32_t pkru_get(void)
{
	uint32_t value, d;

	__asm__ volatile(".byte 0x0f,0x01,0xee" : "=a"(value), "=d"(d) : "c"(0));
	return value;
}

static void pkru_set(uint32_t value)
{
	__asm__ volatile(".byte 0x0f,0x01,0xef" : : "a"(value), "c"(0), "d"(0));
}

/* AMX tiles: the CPU has them and the kernel permits their use. */
static bool has_amx(void)
{
	unsigned a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 24)) &&
	       !syscall(SYS_arch_prctl, 0x1023, 18);
}

struct amx {
	uint8_t config[64], in[8 * 1024], out[8 * 1024];
} __attribute__((aligned(64)));

static void amx_fill(struct amx *x, uint64_t *seed)
{
	memset(x->config, 0, sizeof(x->config));
	x->config[0] = 1;
	for (int i = 0; i < 8; i++) {
		x->config[16 + 2 * i] = 64;
		x->config[48 + i] = 16;
	}
	for (size_t i = 0; i < sizeof(x->in); i++)
		x->in[i] = (uint8_t)next_random(seed);
}

static void hold_fill(struct hold *h, uint64_t *seed)
{
	for (int i = 0; i < 15; i++)
		h->in[i] = next_random(seed);
	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 64; j++)
			h->vector_in[i][j] = (uint8_t)next_random(seed);
	for (int i = 0; i < 8; i++) {
		h->k_in[i] = next_random(seed);
		h->x87_in[i] = (int64_t)(next_random(seed) >> 2);
	}
	memset(h->out, 0, sizeof(h->out));
	memset(h->vector_out, 0, sizeof(h->vector_out));
	h->level = vector_level();
	h->mxcsr_in = 0x1f80 | 0x6000; /* towards zero */
	h->fcw_in = 0x0f7f;            /* towards zero, 64 bits of mantissa */
	h->loops = HOLD_LOOPS;
}

static void hold_check(const struct hold *h)
{
	size_t bytes = h->level == 2 ? 64 : h->level == 1 ? 32 : 16, n = h->level == 2 ? 32 : 16;

	for (int i = 0; i < 15; i++)
		if (h->in[i] != h->out[i])
			bad("general register %d is %llx, not %llx", i, (long long)h->out[i],
			    (long long)h->in[i]);
	for (size_t i = 0; i < n; i++)
		if (memcmp(h->vector_in[i], h->vector_out[i], bytes) != 0)
			bad("vector register %zu changed", i);
	for (int i = 1; h->level == 2 && i < 8; i++)
		if (h->k_in[i] != h->k_out[i])
			bad("mask register %d changed", i);
	for (int i = 0; i < 8; i++)
		if (h->x87_in[7 - i] != h->x87_out[i])
			bad("x87 register %d changed", i);
	if ((h->mxcsr_in ^ h->mxcsr_out) & 0xffc0)
		bad("mxcsr is %x, not %x", h->mxcsr_out, h->mxcsr_in);
	if (h->fcw_in != h->fcw_out)
		bad("x87 control word is %x, not %x", h->fcw_out, h->fcw_in);
	if ((h->flags & 0x401) != 0x401)
		bad("flags are %llx: carry or direction is lost", (long long)h->flags);
}

static void *compute_as(struct target_thread *me)
{
	static __thread struct hold h;
	static __thread struct amx tiles;
	bool amx = has_amx(), pku = has_pku();
	uint64_t seed = 88172645463325252u + (uint64_t)me->tid;
	uint32_t pkru = pku ? pkru_get() : 0;

	for (;;) {
		hold_fill(&h, &seed);
		if (amx) {
			amx_fill(&tiles, &seed);
			amx_load(tiles.config, tiles.in);
		}
		/* Key 15 is nobody's: forbid or allow it. */
		if (pku)
			pkru_set(pkru ^ (uint32_t)(me->beat & 1) << 30);
		hold_run(&h);
		if (pku && pkru_get() != (pkru ^ (uint32_t)(me->beat & 1) << 30))
			bad("PKRU changed");
		if (amx) {
			amx_store(tiles.out);
			if (memcmp(tiles.in, tiles.out, sizeof(tiles.in)) != 0)
				bad("AMX tiles changed");
		}
		hold_check(&h);
		me->beat++;
	}
	return NULL;
}

static void *compute(void *name)
{
	return compute_as(enlist(name));
}

/* A stack of 2 KiB of which 16 bytes are used; all around it, and the unused part, must stay as it is. */
static void *small_stack(void *name)
{
	enum { WORDS = 8192 / 8, TOP = 6144 / 8 };
	struct target_thread *me = enlist(name);
	static uint64_t memory[WORDS] __attribute__((aligned(4096)));
	static struct hold h;
	uint64_t seed = 362436069 + (uint64_t)me->tid, copy;

	for (;;) {
		copy = seed;
		hold_fill(&h, &seed);
		for (int i = 0; i < WORDS; i++)
			memory[i] = (uint64_t)i * 0x9e3779b97f4a7c15u ^ copy;
		h.stack = (uint64_t)&memory[TOP];
		hold_run(&h);
		hold_check(&h);
		for (int i = 0; i < WORDS; i++)
			if (i != TOP - 1 && i != TOP - 2 &&
			    memory[i] != ((uint64_t)i * 0x9e3779b97f4a7c15u ^ copy))
				bad("memory %d bytes from the stack pointer changed", 8 * (i - TOP));
		me->beat++;
	}
	return NULL;
}

/* --------------------------------------------------------------------- rseq */

/*
 * Stays inside a restartable sequence until told to commit (aux[0]); aux[1] counts aborts, aux[2] commits.
 * A stop is always inside, so it has to show as an abort.
 */
static void *rseq_loop(void *name)
{
	struct target_thread *me = enlist(name);
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	for (;;) {
		__asm__ volatile goto(".pushsection __rseq_cs, \"aw\"\n"
				      ".balign 32\n"
				      "9: .long 0, 0\n"
				      ".quad 1f, (2f - 1f), 4f\n"
				      ".popsection\n"
				      "lea 9b(%%rip), %%rax\n"
				      "mov %%rax, %0\n"
				      "1: cmpq $0, %1\n"
				      "je 1b\n"
				      "addq $1, %2\n"
				      "2: jmp 5f\n"
				      ".byte 0x0f, 0xb9, 0x3d\n"
				      ".long 0x53053053\n"
				      "4: jmp %l[aborted]\n"
				      "5:\n"
				      :
				      : "m"(area->rseq_cs), "m"(me->aux[0]), "m"(me->aux[2])
				      : "rax", "memory", "cc"
				      : aborted);
		me->aux[0] = 0;
		me->beat++;
		continue;
aborted:
		me->aux[1]++;
		me->beat++;
	}
	return NULL;
}

/* ----------------------------------------------------------------- sleepers */

#define SLEEP_MS 40
#define LONG_SLEEP_MS 3000

struct sleeper {
	const char *name;
	long (*sleep)(long ms); /* 0, or -errno */
	bool anew;              /* its time limit counts anew after a stop */
};

static struct timespec ms_timespec(long ms)
{
	return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
}

/* A call that must come back with this errno, or with 0 when that is 0, is a sleep that went well. */
static long expect(long r, int code)
{
	if (r < 0)
		return errno == code ? 0 : -errno;
	return code ? -EPROTO : 0;
}

static __thread int idle_fds[2];

static int idle_fd(void)
{
	if (!idle_fds[1] && pipe2(idle_fds, O_CLOEXEC) < 0)
		abort();
	return idle_fds[0];
}

static long by_nanosleep(long ms)
{
	struct timespec t = ms_timespec(ms);

	return expect(syscall(SYS_nanosleep, &t, NULL), 0);
}

static long by_clock_nanosleep(long ms)
{
	struct timespec t = ms_timespec(ms);

	return expect(syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &t, NULL), 0);
}

static long by_clock_nanosleep_until(long ms)
{
	struct timespec t = ms_timespec((long)(now_ns() / 1000000) + ms);

	return expect(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL), 0);
}

static long by_poll(long ms)
{
	struct pollfd p = {.fd = idle_fd(), .events = POLLIN};

	return expect(syscall(SYS_poll, &p, 1, ms), 0);
}

static long by_ppoll(long ms)
{
	struct pollfd p = {.fd = idle_fd(), .events = POLLIN};
	struct timespec t = ms_timespec(ms);
	uint64_t mask = 0;

	return expect(syscall(SYS_ppoll, &p, 1, &t, &mask, sizeof(mask)), 0);
}

static long by_select(long ms)
{
	struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	fd_set set;
	int fd = idle_fd();

	FD_ZERO(&set);
	FD_SET(fd, &set);
	return expect(syscall(SYS_select, fd + 1, &set, NULL, NULL, &t), 0);
}

static long by_futex(long ms)
{
	static __thread uint32_t word;
	struct timespec t = ms_timespec(ms);

	return expect(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0), ETIMEDOUT);
}

static long by_epoll(long ms, int variant)
{
	static __thread int epoll;
	struct epoll_event event = {.events = EPOLLIN};
	struct timespec t = ms_timespec(ms);
	uint64_t mask = 0;

	if (!epoll) {
		epoll = epoll_create1(EPOLL_CLOEXEC);
		epoll_ctl(epoll, EPOLL_CTL_ADD, idle_fd(), &event);
	}
	if (variant == 2)
		return expect(syscall(SYS_epoll_pwait2, epoll, &event, 1, &t, &mask, sizeof(mask)), 0);
	if (variant == 1)
		return expect(syscall(SYS_epoll_pwait, epoll, &event, 1, ms, &mask, sizeof(mask)), 0);
	return expect(syscall(SYS_epoll_wait, epoll, &event, 1, ms), 0);
}

static long by_epoll_wait(long ms)
{
	return by_epoll(ms, 0);
}

static long by_epoll_pwait(long ms)
{
	return by_epoll(ms, 1);
}

static long by_epoll_pwait2(long ms)
{
	return by_epoll(ms, 2);
}

static long by_sigtimedwait(long ms)
{
	struct timespec t = ms_timespec(ms);
	uint64_t set = 1ull << (SIGUSR2 - 1);

	return expect(syscall(SYS_rt_sigtimedwait, &set, NULL, &t, sizeof(set)), EAGAIN);
}

static long by_semtimedop(long ms)
{
	static __thread int id = -1;
	struct timespec t = ms_timespec(ms);
	struct sembuf down = {.sem_op = -1};

	if (id < 0) {
		id = semget(IPC_PRIVATE, 1, 0600);
		if (id < 0)
			return -errno;
		S->semaphore = id + 1;
	}
	return expect(semtimedop(id, &down, 1, &t), EAGAIN);
}

static long by_io_getevents(long ms)
{
	static __thread aio_context_t context;
	struct timespec t = ms_timespec(ms);
	struct io_event event;

	if (!context && syscall(SYS_io_setup, 4, &context) < 0)
		return -errno;
	return expect(syscall(SYS_io_getevents, context, 1, 1, &event, &t), 0);
}

static long by_receive_timeout(long ms)
{
	static __thread int pair[2];
	struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	char byte;

	if (!pair[1] && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -errno;
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return expect(recv(pair[0], &byte, 1, 0), EAGAIN);
}

/* Calls without a time limit, ended by a partner: the thread that ends them is 'waker'. */
struct handoff {
	int fds[2];
	uint32_t futex;
	volatile uint64_t asked, woken;
};
static struct handoff handoffs[2];

static long by_read(long ms)
{
	struct handoff *h = &handoffs[0];
	char byte;

	(void)ms;
	h->asked++;
	return expect(read(h->fds[0], &byte, 1) - 1, 0);
}

static long by_futex_forever(long ms)
{
	struct handoff *h = &handoffs[1];
	uint32_t seen = __atomic_load_n(&h->futex, __ATOMIC_SEQ_CST);

	(void)ms;
	h->asked++;
	while (__atomic_load_n(&h->futex, __ATOMIC_SEQ_CST) == seen) {
		long r = syscall(SYS_futex, &h->futex, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
		if (r < 0 && errno != EAGAIN)
			return -errno;
	}
	return 0;
}

static void *waker(void *name)
{
	struct target_thread *me = enlist(name);

	for (;;) {
		by_nanosleep(SLEEP_MS);
		for (size_t i = 0; i < ARRAY_SIZE(handoffs); i++) {
			struct handoff *h = &handoffs[i];
			if (h->woken == h->asked)
				continue;
			h->woken = h->asked;
			/* Late enough that the partner sleeps. */
			if (i == 0 && write(h->fds[1], "x", 1) != 1)
				bad("write: %s", strerror(errno));
			__atomic_add_fetch(&h->futex, 1, __ATOMIC_SEQ_CST);
			if (i == 1)
				syscall(SYS_futex, &h->futex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		}
		me->beat++;
	}
	return NULL;
}

static const struct sleeper sleepers[] = {
	{"nanosleep", by_nanosleep, false},
	{"clock_nanosleep", by_clock_nanosleep, false},
	{"clock_nanosleep-until", by_clock_nanosleep_until, false},
	{"poll", by_poll, false},
	{"ppoll", by_ppoll, false},
	{"select", by_select, false},
	{"futex", by_futex, false},
	{"epoll_wait", by_epoll_wait, true},
	{"epoll_pwait", by_epoll_pwait, true},
	{"epoll_pwait2", by_epoll_pwait2, true},
	{"sigtimedwait", by_sigtimedwait, true},
	{"semtimedop", by_semtimedop, true},
	{"io_getevents", by_io_getevents, true},
	{"recv-timeout", by_receive_timeout, true},
	{"read", by_read, false},
	{"futex-forever", by_futex_forever, false},
};

static void *sleeper_thread(void *argument)
{
	const struct sleeper *sleeper = argument;
	struct target_thread *me = enlist(sleeper->name);
	/*
	 * "sleep-long": one sleep; aux[] is what it took in ms, whether it counts anew, its start and its
	 * end in ms.
	 */
	bool once = !strcmp(mode_argument, "sleep-long");
	long ms = once ? LONG_SLEEP_MS : SLEEP_MS;

	me->aux[1] = sleeper->anew;
	for (;;) {
		bool timed = sleeper->sleep != by_read && sleeper->sleep != by_futex_forever;
		uint64_t start = now_ns();
		me->aux[2] = timed && once ? start / 1000000 : 0;
		long r = sleeper->sleep(ms);
		uint64_t end = now_ns(), took = (end - start) / 1000000;
		if (r == -EINTR && sleeper->anew)
			me->eintr++;
		else if (r < 0)
			bad("%s: %s", sleeper->name, strerror((int)-r));
		else if (timed && took + 1 < (uint64_t)ms)
			bad("%s of %ld ms took %llu ms", sleeper->name, ms, (long long)took);
		me->beat++;
		if (once && timed) {
			me->aux[0] = took;
			me->aux[3] = end / 1000000;
			break;
		}
	}
	__atomic_add_fetch(&S->finished, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
	return NULL;
}

/* ------------------------------------------------------------------ signals */

/* A handler that uses vector registers of its own. */
static void count_signal(int signal, siginfo_t *info, void *context)
{
	static volatile double sum;

	(void)signal;
	(void)context;
	sum = sum * 1.5 + info->si_value.sival_int;
	if ((uint64_t)info->si_value.sival_int != (S->handled & 0x7fffffff))
		bad("signal %d arrived when %llu was due", info->si_value.sival_int, (long long)S->handled);
	S->handled++;
}

static void *flood(void *name)
{
	struct target_thread *me = enlist(name);
	siginfo_t info;

	pid_t victim = 0;
	while (S->n_threads < 2)
		usleep(1000);
	usleep(1000);
	for (int i = 0; i < S->n_threads; i++)
		if (!strcmp(S->thread[i].name, "flooded"))
			victim = S->thread[i].tid;
	for (;;) {
		memset(&info, 0, sizeof(info));
		info.si_code = SI_QUEUE;
		info.si_value.sival_int = (int)(S->sent & 0x7fffffff);
		if (S->go || S->sent > S->handled + 100) {
			usleep(200);
		} else if (syscall(SYS_rt_tgsigqueueinfo, getpid(), victim, SIGRTMIN + 3, &info) == 0) {
			S->sent++;
			if (S->sent % 8 == 0)
				usleep(100);
		} else if (errno != EAGAIN) {
			bad("rt_tgsigqueueinfo: %s", strerror(errno));
		}
		me->beat++;
	}
	return NULL;
}

/* ---------------------------------------------------------------------- TCP */

static int tcp_fds[2];

static void tcp_pair(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	tcp_fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&address, n) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&address, &n) < 0 ||
	    connect(tcp_fds[0], (struct sockaddr *)&address, n) < 0) {
		perror("tcp");
		exit(77);
	}
	tcp_fds[1] = accept(listener, NULL, NULL);
	close(listener);
}

/* Sends a running number and looks at the echo twice, by MSG_PEEK and for good. */
static void *tcp_client(void *name)
{
	struct target_thread *me = enlist(name);
	uint64_t peeked, got;

	for (uint64_t i = 0;; i++) {
		if (send(tcp_fds[0], &i, sizeof(i), 0) != sizeof(i))
			bad("send: %s", strerror(errno));
		if (recv(tcp_fds[0], &peeked, sizeof(peeked), MSG_PEEK | MSG_WAITALL) != sizeof(peeked))
			bad("recv with MSG_PEEK: %s", strerror(errno));
		if (recv(tcp_fds[0], &got, sizeof(got), MSG_WAITALL) != sizeof(got))
			bad("recv: %s", strerror(errno));
		if (peeked != i || got != i)
			bad("number %llu came back as %llu", (long long)i, (long long)got);
		me->beat++;
	}
	return NULL;
}

static void *tcp_server(void *name)
{
	struct target_thread *me = enlist(name);
	uint64_t number, expected = 0;

	for (;; expected++) {
		ssize_t n = recv(tcp_fds[1], &number, sizeof(number), MSG_WAITALL);
		if (n != sizeof(number) || number != expected)
			bad("server got %zd bytes, number %llu for %llu (%s)", n, (long long)number,
			    (long long)expected, strerror(errno));
		if (send(tcp_fds[1], &number, sizeof(number), 0) != sizeof(number))
			bad("server send: %s", strerror(errno));
		me->beat++;
	}
	return NULL;
}

/* ------------------------------------------------------------------ seccomp */

struct seccomp_mode {
	const char *name;
	uint32_t action;
	long calls[4];
};

static const struct seccomp_mode seccomp_modes[] = {
	{"seccomp-kill-mmap", SECCOMP_RET_KILL_PROCESS, {SYS_mmap, SYS_userfaultfd}},
	{"seccomp-kill-munmap", SECCOMP_RET_KILL_PROCESS, {SYS_munmap, SYS_madvise}},
	{"seccomp-kill-mask", SECCOMP_RET_KILL_PROCESS, {SYS_rt_sigprocmask, SYS_ppoll}},
	{"seccomp-errno", SECCOMP_RET_ERRNO | 1, {SYS_mmap, SYS_getpid, SYS_ppoll}},
	{"seccomp-kill-other", SECCOMP_RET_KILL_PROCESS, {SYS_userfaultfd, SYS_bpf}},
};

/* A filter that answers up to four calls with an action; one jump over the other architecture first. */
static void seccomp_install(const struct seccomp_mode *mode)
{
	struct sock_filter code[16] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	unsigned short n = 4;

	for (size_t i = 0; i < ARRAY_SIZE(mode->calls) && mode->calls[i]; i++) {
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)mode->calls[i],
							 0, 1);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, mode->action);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {.len = n, .filter = code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
		perror("seccomp");
		_exit(77);
	}
}

static void seccomp_enter(void)
{
	if (!strcmp(mode_argument, "strict"))
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	for (size_t i = 0; i < ARRAY_SIZE(seccomp_modes); i++)
		if (!strcmp(mode_argument, seccomp_modes[i].name))
			seccomp_install(&seccomp_modes[i]);
}

static void *compute_confined(void *name)
{
	struct target_thread *me = enlist(name);

	seccomp_enter();
	return compute_as(me);
}

static void *read_confined(void *name)
{
	struct target_thread *me = enlist(name);
	char byte;

	seccomp_enter();
	for (;;) {
		ssize_t n = read(handoffs[0].fds[0], &byte, 1);
		if (n != 1)
			bad("read under seccomp gave %zd (%s)", n, strerror(errno));
		me->beat++;
	}
	return NULL;
}

static void *write_pulse(void *name)
{
	struct target_thread *me = enlist(name);

	for (;;) {
		by_nanosleep(3);
		if (write(handoffs[0].fds[1], "x", 1) != 1)
			bad("write: %s", strerror(errno));
		me->beat++;
	}
	return NULL;
}

/* -------------------------------------------------------------------- modes */

static void start(void *(*function)(void *), const void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int before = S->n_threads;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 128 * 1024);
	if (pthread_create(&thread, &attributes, function, (void *)(uintptr_t)argument))
		abort();
	while (S->n_threads == before)
		usleep(100);
}

static void start_compute(void)
{
	start(compute, "compute-1");
	start(small_stack, "small-stack");
}

static void start_sleepers(void)
{
	if (pipe2(handoffs[0].fds, O_CLOEXEC) < 0)
		abort();
	start(waker, "waker");
	for (size_t i = 0; i < ARRAY_SIZE(sleepers); i++)
		start(sleeper_thread, &sleepers[i]);
}

static void start_tcp(void)
{
	tcp_pair();
	start(tcp_server, "tcp-server");
	start(tcp_client, "tcp-client");
}

static void start_flood(void)
{
	start(flood, "flood");
}

static void start_rseq(void)
{
	start(rseq_loop, "rseq-1");
}

static void start_confined(void)
{
	if (pipe2(handoffs[0].fds, O_CLOEXEC) < 0)
		abort();
	start(compute_confined, "compute-confined");
	start(read_confined, "read-confined");
	start(write_pulse, "write-pulse");
}

/* Interrupting a call is what this one waits for: an alarm that ends pause(), once. */
static void on_alarm(int signal)
{
	(void)signal;
	S->handled++;
}

static void *alarmed(void *name)
{
	struct target_thread *me = enlist(name);
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval soon = {.it_value.tv_usec = 30000};
	uint64_t handled;

	sigaction(SIGALRM, &action, NULL);
	for (;;) {
		handled = S->handled;
		setitimer(ITIMER_REAL, &soon, NULL);
		if (syscall(SYS_pause) != -1 || errno != EINTR || S->handled != handled + 1)
			bad("pause ended with %s after %llu alarms", strerror(errno),
			    (long long)(S->handled - handled));
		me->beat++;
	}
	return NULL;
}

static void main_sleeps(void)
{
	struct target_thread *me = enlist("main");

	S->ready = 1;
	for (;;) {
		by_nanosleep(2);
		me->beat++;
	}
}

static void main_gone(void)
{
	S->ready = 1;
	pthread_exit(NULL);
}

static void main_flooded(void)
{
	struct sigaction action = {.sa_sigaction = count_signal, .sa_flags = SA_SIGINFO | SA_RESTART};

	sigaction(SIGRTMIN + 3, &action, NULL);
	start_flood();
	S->ready = 1;
	compute((void *)(uintptr_t) "flooded");
}

static void main_alarmed(void)
{
	S->ready = 1;
	alarmed((void *)(uintptr_t) "alarmed");
}

static void main_rseq(void)
{
	S->ready = 1;
	rseq_loop((void *)(uintptr_t) "rseq-main");
}

/* Many threads that only sleep, for speed. */
static void *idle(void *name)
{
	struct target_thread *me = enlist(name);

	for (;;) {
		by_nanosleep(2);
		me->beat++;
	}
	return NULL;
}

static void *idle_quiet(void *name)
{
	(void)name;
	for (;;)
		pause();
	return NULL;
}

static void start_crowd(void)
{
	for (int i = 0; i < 1000; i++) {
		pthread_attr_t attributes;
		pthread_t thread;
		pthread_attr_init(&attributes);
		pthread_attr_setstacksize(&attributes, 32 * 1024);
		if (pthread_create(&thread, &attributes, idle_quiet, NULL))
			break;
	}
	start(idle, "idle");
}

struct mode {
	const char *name;
	void (*start)(void);
	void (*main)(void);
};

static const struct mode modes[] = {
	{"compute", start_compute, main_sleeps},
	{"zombie-leader", start_compute, main_gone},
	{"rseq", start_rseq, main_rseq},
	{"sleepers", start_sleepers, main_sleeps},
	{"sleep-long", start_sleepers, main_sleeps},
	{"tcp", start_tcp, main_sleeps},
	{"flood", NULL, main_flooded},
	{"alarmed", NULL, main_alarmed},
	{"crowd", start_crowd, main_sleeps},
	{"strict", start_confined, main_sleeps},
	{"seccomp-kill-mmap", start_confined, main_sleeps},
	{"seccomp-kill-munmap", start_confined, main_sleeps},
	{"seccomp-kill-mask", start_confined, main_sleeps},
	{"seccomp-errno", start_confined, main_sleeps},
	{"seccomp-kill-other", start_confined, main_sleeps},
};

int main(int argc, char **argv)
{
	S = mmap(NULL, sizeof(*S), PROT_READ | PROT_WRITE, MAP_SHARED, TARGET_FD, 0);
	if (argc != 2 || S == MAP_FAILED) {
		fprintf(stderr, "usage: target MODE, run by a test\n");
		return 2;
	}
	close(TARGET_FD);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	mode_argument = argv[1];
	tell_crashes();
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (strcmp(modes[i].name, mode_argument) != 0)
			continue;
		if (modes[i].start)
			modes[i].start();
		modes[i].main();
	}
	fprintf(stderr, "target: no mode '%s'\n", mode_argument);
	return 2;
}
