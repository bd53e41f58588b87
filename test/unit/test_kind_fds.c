/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes, eventfds, timerfds, signalfds and epoll instances through their kinds and an image. */
#include "kind_trip.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "image/proto/pipe-data.pb-c.h"
#include "kernel/syscalls.h"

#define must(call)                           \
	({                                   \
		typeof(call) must_ = (call); \
		if (must_ < 0) {             \
			perror(#call);       \
			_exit(1);            \
		}                            \
		must_;                       \
	})

/* In a restored process: the line that failed, 0 when none did. */
#define check(condition)                 \
	do {                             \
		if (!(condition))        \
			return __LINE__; \
	} while (0)

static char big[1 << 20];

static void fill(char *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (char)(i * 2654435761u >> 13);
}

static void make_pipe(int out, int in, int flags)
{
	int ends[2];
	must(pipe2(ends, flags));
	trip_place(ends[0], out);
	trip_place(ends[1], in);
}

static int open_again(int fd, int flags)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags);
}

/* ---------------------------------------------------------------------------- pipes */

static void pipes_setup(void)
{
	fill(big, sizeof(big));
	make_pipe(10, 11, O_CLOEXEC);
	must(fcntl(11, F_SETPIPE_SZ, 1 << 18));
	must(write(11, big, 200000));
	/* Further descriptions of both ends, one that reads and writes, and a further descriptor of one. */
	trip_place(open_again(11, O_WRONLY), 9);
	trip_place(open_again(11, O_WRONLY | O_NONBLOCK), 12);
	trip_place(open_again(10, O_RDWR | O_CLOEXEC), 13);
	trip_place(open_again(10, O_RDONLY | O_NONBLOCK), 14);
	must(dup2(10, 15));
	make_pipe(20, 21, O_NONBLOCK);
	must(write(21, "left", 4));
	close(21);
	make_pipe(22, 23, 0);
	close(22);
	make_pipe(24, 25, 0);
	must(fcntl(24, F_SETPIPE_SZ, 4096));
	/* As many pages as there are, with little in each. */
	make_pipe(26, 27, O_CLOEXEC);
	must(fcntl(26, F_SETPIPE_SZ, 16 * 4096));
	int zero[2];
	must(pipe2(zero, O_CLOEXEC));
	for (int i = 0; i < 16; i++) {
		must(write(zero[1], big + i, 1));
		must(splice(zero[0], NULL, 27, NULL, 1, 0));
	}
	close(zero[0]);
	close(zero[1]);
}

static int pipes_verify(void)
{
	static char want[1 << 20], got[1 << 20];
	struct pollfd reader = {.fd = 20, .events = POLLIN};
	fill(want, sizeof(want));
	check(fcntl(11, F_GETPIPE_SZ) == 1 << 18);
	check(fcntl(25, F_GETPIPE_SZ) == 4096);
	check(fcntl(26, F_GETPIPE_SZ) == 16 * 4096);
	/* All descriptions are of the same pipe: what is written through one is read through another. */
	check(write(12, "tail", 4) == 4);
	check(write(13, "end", 3) == 3);
	check(read(14, got, 100000) == 100000);
	check(read(15, got + 100000, sizeof(got) - 100000) == 100007);
	check(!memcmp(got, want, 200000) && !memcmp(got + 200000, "tailend", 7));
	check(read(14, got, 1) < 0 && errno == EAGAIN);
	check(poll(&reader, 1, 0) == 1 && reader.revents == (POLLIN | POLLHUP));
	check(read(20, got, 10) == 4 && !memcmp(got, "left", 4));
	check(read(20, got, 10) == 0);
	signal(SIGPIPE, SIG_IGN);
	check(write(23, "x", 1) < 0 && errno == EPIPE);
	check(read(26, got, 100) == 16 && !memcmp(got, want, 16));
	return 0;
}

static void pipes_come_back(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, pipes_setup, 1);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 0, pipes_verify), 0);
	trip_end(&t);
}

static void pipe_family_setup(void)
{
	make_pipe(10, 11, 0);
	must(write(11, "between", 7));
	if (!must(fork())) {
		close(11);
		trip_ready();
	}
	close(10);
}

static int family_reads(void)
{
	char got[16];
	struct pollfd reader = {.fd = 10, .events = POLLIN};
	check(read(10, got, sizeof(got)) == 7 && !memcmp(got, "between", 7));
	/* The parent has the other end. */
	check(poll(&reader, 1, 0) == 0);
	return 0;
}

static void pipe_ends_of_two_processes(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, pipe_family_setup, 2);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 1, family_reads), 0);
	trip_end(&t);
}

static void pipe_owner_setup(void)
{
	make_pipe(10, 11, 0);
	must(fchown(10, 1234, 4321));
	must(fchmod(10, 0640));
	/* The test itself gets the signal. */
	must(setresuid(1000, 1001, 0));
	must(fcntl(10, F_SETOWN, getppid()));
	must(setresuid(0, 0, 0));
	must(fcntl(10, F_SETSIG, SIGUSR1));
	must(fcntl(10, F_SETFL, O_ASYNC | O_NONBLOCK));
}

static int pipe_owner_verify(void)
{
	struct stat st;
	uid_t uids[2];
	struct f_owner_ex owner;
	check(!fstat(11, &st) && st.st_uid == 1234 && st.st_gid == 4321 && st.st_mode == (S_IFIFO | 0640));
	check(!fcntl(10, F_GETOWN_EX, &owner) && owner.pid == getppid() && owner.type == F_OWNER_PID);
	check(fcntl(10, F_GETSIG) == SIGUSR1);
	check(!fcntl(10, 17 /* F_GETOWNER_UIDS */, uids) && uids[0] == 1000 && uids[1] == 1001);
	check(getuid() == 0 && geteuid() == 0);
	/* The signal names the number that the task knows. */
	check(!fcntl(10, F_SETOWN, getpid()));
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	check(write(11, "x", 1) == 1);
	check(sigtimedwait(&set, &info, &(struct timespec){.tv_sec = 2}) == SIGUSR1 && info.si_fd == 10);
	return 0;
}

static void pipe_owner_and_rights(void **state)
{
	struct trip t;
	(void)state;
	if (geteuid())
		skip();
	trip_start(&t, pipe_owner_setup, 1);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 0, pipe_owner_verify), 0);
	trip_end(&t);
}

/* A pipe that the test holds, too. */
static int outside[2];

static void outside_setup(void)
{
	/* What was inherited was closed; the parent still has it. */
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), outside[1]);
	trip_place(must(open(path, O_WRONLY | O_CLOEXEC)), 11);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), outside[0]);
	trip_place(must(open(path, O_RDONLY | O_CLOEXEC)), 10);
}

static void pipe_held_outside_is_refused(void **state)
{
	struct trip t;
	(void)state;
	assert_int_equal(pipe2(outside, O_CLOEXEC), 0);
	trip_start(&t, outside_setup, 1);
	close(outside[0]);
	/* Ferry itself does not count, so another process has to hold it. */
	pid_t holder = fork();
	if (!holder)
		for (;;)
			pause();
	close(outside[1]);
	t.peers = peers_new(t.root);
	assert_int_equal(trip_save(&t), -ENOTSUP);
	assert_int_equal(t.err.id, FERRY_ERROR_OUTSIDE_PEER);
	char pid[32];
	snprintf(pid, sizeof(pid), "pid %d ", holder);
	assert_non_null(strstr(t.err.message, pid));
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
	trip_end(&t);
}

static void outside_writer_setup(void)
{
	outside_setup();
	close(11);
}

/* Nobody looks into /proc here, but the kernel says that there is a writer. */
static void pipe_with_a_hidden_writer_is_refused(void **state)
{
	struct trip t;
	(void)state;
	assert_int_equal(pipe2(outside, O_CLOEXEC), 0);
	trip_start(&t, outside_writer_setup, 1);
	assert_int_equal(trip_save(&t), -ENOTSUP);
	assert_int_equal(t.err.id, FERRY_ERROR_OUTSIDE_PEER);
	trip_end(&t);
	trip_start(&t, outside_writer_setup, 1);
	t.options.criu_compat = true;
	assert_int_equal(trip_save(&t), 0);
	trip_end(&t);
	close(outside[0]);
	close(outside[1]);
}

static void pipe_pair_setup(void)
{
	make_pipe(10, 11, 0);
	must(write(11, "12345678", 8));
	make_pipe(12, 13, 0);
}

/* Rewrites pipes-data.img with `bytes` claimed for one pipe and its eight bytes; twice says that it is there again. */
static void pipe_data_rewrite(struct trip *t, uint32_t bytes, bool twice)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	struct image_writer *w = NULL;
	PipeDataEntry data = PIPE_DATA_ENTRY__INIT;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	const struct image_dir_create create = {.no_sync = true, .overwrite = true};
	inventory.img_version = 2;
	assert_int_equal(image_dir_create(AT_FDCWD, t->folder, &create, &dir, &t->err), 0);
	assert_int_equal(image_create(dir, IMAGE_FILES, 0, &w, &t->err), 0);
	for (size_t i = 0; i < t->snap.files.n; i++)
		assert_int_equal(image_put(w, &t->snap.files.v[i].entry->base, &t->err), 0);
	assert_int_equal(image_close(w, &t->err), 0);
	assert_int_equal(image_create(dir, IMAGE_PIPES_DATA, 0, &w, &t->err), 0);
	data.pipe_id = t->snap.files.v[0].entry->pipe->pipe_id;
	data.bytes = bytes;
	for (int i = 0; i <= twice; i++) {
		assert_int_equal(image_put(w, &data.base, &t->err), 0);
		assert_int_equal(image_put_raw(w, "12345678", 8, &t->err), 0);
	}
	assert_int_equal(image_close(w, &t->err), 0);
	assert_int_equal(image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, &t->err), 0);
	assert_int_equal(image_dir_finish(dir, &t->err), 0);
}

static void pipe_bad_image(uint32_t bytes, bool twice, int want)
{
	struct trip t;
	trip_start(&t, pipe_pair_setup, 1);
	assert_int_equal(trip_save(&t), 0);
	pipe_data_rewrite(&t, bytes, twice);
	assert_int_equal(trip_load(&t), want);
	if (want < 0)
		assert_int_equal(t.err.id, FERRY_ERROR_IMAGE_BAD);
	trip_end(&t);
}

static void pipe_data_is_checked(void **state)
{
	(void)state;
	pipe_bad_image(8, false, 0);
	pipe_bad_image(9, false, -EBADMSG);
	pipe_bad_image(UINT32_MAX, false, -EBADMSG);
	pipe_bad_image(8, true, -EBADMSG);
}

/* -------------------------------------------------------------------------- eventfds */

static void eventfds_setup(void)
{
	trip_place(eventfd(7, EFD_NONBLOCK), 20);
	trip_place(eventfd(3, EFD_SEMAPHORE), 21);
	trip_place(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC), 22);
	trip_place(eventfd(0, 0), 23);
	/* More than the 32 bits that eventfd(2) takes. */
	must(write(23, &(uint64_t){UINT64_MAX - 1}, 8));
	must(dup2(20, 24));
}

static int eventfds_verify(void)
{
	uint64_t value;
	check(read(24, &value, 8) == 8 && value == 7);
	check(read(20, &value, 8) < 0 && errno == EAGAIN);
	for (int i = 0; i < 3; i++)
		check(read(21, &value, 8) == 8 && value == 1);
	check(read(22, &value, 8) < 0 && errno == EAGAIN);
	check(read(23, &value, 8) == 8 && value == UINT64_MAX - 1);
	return 0;
}

static void eventfds_come_back(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, eventfds_setup, 1);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 0, eventfds_verify), 0);
	trip_end(&t);
}

/* ------------------------------------------------------------------------- signalfds */

static void signalfds_setup(void)
{
	/* The kernel's numbers 32 and 33, which libc keeps from its callers. */
	sigset_t set;
	memset(&set, 0, sizeof(set));
	((uint64_t *)(void *)&set)[0] = 1ull << (SIGUSR2 - 1) | 1ull << 31 | 1ull << 32 | 1ull << 63;
	trip_place(signalfd(-1, &set, SFD_NONBLOCK), 30);
	trip_place(signalfd(-1, &set, SFD_CLOEXEC), 31);
	sigemptyset(&set);
	trip_place(signalfd(-1, &set, 0), 32);
}

static int signalfds_verify(void)
{
	sigset_t set;
	struct signalfd_siginfo info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	check(read(30, &info, sizeof(info)) < 0 && errno == EAGAIN);
	kill(getpid(), SIGUSR2);
	check(read(31, &info, sizeof(info)) == sizeof(info) && info.ssi_signo == SIGUSR2);
	return 0;
}

static void signalfds_come_back(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, signalfds_setup, 1);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 0, signalfds_verify), 0);
	trip_end(&t);
}

/* -------------------------------------------------------------------------- timerfds */

enum { TIMER_LATE_NS = 300000000 };

static int64_t now_ns(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Shared with the processes: when timers expire on their clocks. */
static struct {
	int64_t monotonic, realtime, boottime, periodic;
	bool continued; /* the clocks go on after the restore */
} * due;

enum { TIMER_PERIOD_NS = 10000000 };

static void timerfd_set(int number, clockid_t clock, int flags, int set_flags, int64_t value,
			int64_t interval)
{
	struct itimerspec spec = {
		.it_value = {value / 1000000000, value % 1000000000},
		.it_interval = {interval / 1000000000, interval % 1000000000},
	};
	trip_place(timerfd_create(clock, flags), number);
	must(timerfd_settime(number, set_flags, &spec, NULL));
}

static void timerfds_setup(void)
{
	due->monotonic = now_ns(CLOCK_MONOTONIC) + 5000000000000;
	due->realtime = now_ns(CLOCK_REALTIME) + 6000000000000;
	due->boottime = now_ns(CLOCK_BOOTTIME) + 7000000000000;
	timerfd_set(40, CLOCK_MONOTONIC, 0, 0, 5000000000000, 1000005000);
	timerfd_set(41, CLOCK_REALTIME, TFD_NONBLOCK, TFD_TIMER_ABSTIME | 2, due->realtime, 0);
	timerfd_set(42, CLOCK_BOOTTIME, TFD_CLOEXEC, TFD_TIMER_ABSTIME, due->boottime, 77);
	timerfd_set(43, CLOCK_BOOTTIME, TFD_NONBLOCK, 0, 1, 0);
	timerfd_set(45, CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 0, 5);
	timerfd_set(46, CLOCK_REALTIME, 0, 0, 6000000000000, 0);
	usleep(20000);
}

static int64_t left_ns(int fd)
{
	struct itimerspec spec = {0};
	timerfd_gettime(fd, &spec);
	return spec.it_value.tv_sec * 1000000000ll + spec.it_value.tv_nsec;
}

static bool near(int64_t a, int64_t b)
{
	return llabs(a - b) < TIMER_LATE_NS;
}

static int timerfds_verify(void)
{
	uint64_t ticks;
	check(near(now_ns(CLOCK_MONOTONIC) + left_ns(40), due->monotonic));
	check(near(now_ns(CLOCK_REALTIME) + left_ns(41), due->realtime));
	check(near(now_ns(CLOCK_BOOTTIME) + left_ns(42), due->boottime));
	check(near(now_ns(CLOCK_REALTIME) + left_ns(46), due->realtime));
	check(read(43, &ticks, 8) == 8 && ticks == 1 && !left_ns(43));
	check(!left_ns(45) && read(45, &ticks, 8) < 0 && errno == EAGAIN);
	return 0;
}

static void timerfds_come_back(void **state)
{
	struct trip t;
	(void)state;
	for (int continued = 0; continued < 2; continued++) {
		trip_start(&t, timerfds_setup, 1);
		t.continue_clocks = continued;
		/* Time that passes in the freeze is no time of the tree's. */
		t.pause_ms = continued ? 2 * TIMER_LATE_NS / 1000000 : 0;
		trip_whole(&t);
		assert_int_equal(trip_ask(&t, 0, timerfds_verify), 0);
		trip_end(&t);
	}
}

static void timerfd_unread_setup(void)
{
	due->periodic = now_ns(CLOCK_MONOTONIC) + 1000000;
	timerfd_set(44, CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 1000000, TIMER_PERIOD_NS);
	usleep(80000);
}

static int timerfd_unread_verify(void)
{
	uint64_t ticks;
	/* Nobody read its expirations; each counts, those before the dump at least. */
	int64_t periods = 1 + (now_ns(CLOCK_MONOTONIC) - due->periodic) / TIMER_PERIOD_NS;
	check(read(44, &ticks, 8) == 8 && ticks >= 8 && (int64_t)ticks <= periods + 1);
	check(!due->continued || llabs((int64_t)ticks - periods) <= 1);
	check(left_ns(44) > 0 && left_ns(44) <= TIMER_PERIOD_NS);
	return 0;
}

static void timerfd_nobody_reads(void **state)
{
	struct trip t;
	(void)state;
	for (int continued = 0; continued < 2; continued++) {
		trip_start(&t, timerfd_unread_setup, 1);
		t.continue_clocks = due->continued = continued;
		assert_int_equal(trip_save(&t), 0);
		assert_int_equal(trip_load(&t), 0);
		assert_int_equal(trip_restore(&t), 0);
		assert_int_equal(trip_ask(&t, 0, timerfd_unread_verify), 0);
		trip_end(&t);
	}
}

#define SECOND_NS 1000000000ll

static void timerfds_short_setup(void)
{
	timerfd_set(40, CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 100 * SECOND_NS, 0);
	timerfd_set(41, CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 100 * SECOND_NS, 200 * SECOND_NS);
	timerfd_set(42, CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_TIMER_ABSTIME,
		    now_ns(CLOCK_MONOTONIC) + 100 * SECOND_NS, 200 * SECOND_NS);
}

static int timerfds_short_verify(void)
{
	uint64_t ticks;
	/* A thousand seconds went by on the clock: at 100, 300, 500, 700 and 900. */
	check(read(40, &ticks, 8) == 8 && ticks == 1);
	check(read(41, &ticks, 8) == 8 && ticks == 5);
	check(read(42, &ticks, 8) == 8 && ticks == 5);
	for (int fd = 41; fd <= 42; fd++)
		check(left_ns(fd) > 50 * SECOND_NS && left_ns(fd) <= 100 * SECOND_NS);
	return 0;
}

/* The clock went on for long between freeze and restore. */
static void timerfds_expire_meanwhile(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, timerfds_short_setup, 1);
	t.continue_clocks = true;
	assert_int_equal(trip_save(&t), 0);
	t.snap.monotonic_ns -= 1000 * SECOND_NS;
	assert_int_equal(trip_load(&t), 0);
	assert_int_equal(trip_restore(&t), 0);
	/* An expired timer is counted by an interrupt. */
	usleep(20000);
	assert_int_equal(trip_ask(&t, 0, timerfds_short_verify), 0);
	trip_end(&t);
}

static void timerfd_periodic_setup(void)
{
	timerfd_set(40, CLOCK_MONOTONIC, TFD_NONBLOCK, 0, 1000, 3000000000000);
}

static int timerfd_periodic_verify(void)
{
	uint64_t ticks;
	check(near(left_ns(40), 3000000000000));
	check(read(40, &ticks, 8) == 8 && ticks == 3);
	return 0;
}

/* As CRIU writes a periodic timer that was not read: nothing is left. */
static void timerfd_that_stood_still_goes_on(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, timerfd_periodic_setup, 1);
	assert_int_equal(trip_save(&t), 0);
	assert_int_equal(trip_load(&t), 0);
	TimerfdEntry *tfd = t.plan.files[0].entry->tfd;
	assert_int_equal(tfd->ticks, 1);
	assert_true(tfd->vsec > 2990);
	tfd->vsec = tfd->vnsec = 0;
	tfd->ticks = 3;
	assert_int_equal(trip_restore(&t), 0);
	assert_int_equal(trip_ask(&t, 0, timerfd_periodic_verify), 0);
	trip_end(&t);
}

static void timerfd_setup(void)
{
	timerfd_set(40, CLOCK_MONOTONIC, 0, 0, 1, 0);
}

static void timerfd_times_are_checked(void **state)
{
	static const struct {
		uint64_t vsec, vnsec, isec;
		uint32_t flags;
		int want;
	} cases[] = {
		{1, 999999999, 1, 3, 0},
		{UINT64_MAX, 0, 0, 0, -EBADMSG},
		{0, 1000000000, 0, 0, -EBADMSG},
		{0, 0, UINT64_MAX / 1000000000, 0, -EBADMSG},
		{1, 0, 0, 4, -EBADMSG},
		{INT64_MAX / 1000000000 - 2, 0, INT64_MAX / 1000000000 - 2, 1, 0},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct trip t;
		trip_start(&t, timerfd_setup, 1);
		assert_int_equal(trip_save(&t), 0);
		assert_int_equal(trip_load(&t), 0);
		TimerfdEntry *tfd = t.plan.files[0].entry->tfd;
		tfd->vsec = cases[i].vsec;
		tfd->vnsec = cases[i].vnsec;
		tfd->isec = cases[i].isec;
		tfd->settime_flags = cases[i].flags;
		assert_int_equal(trip_restore(&t), cases[i].want);
		trip_end(&t);
	}
}

/* ---------------------------------------------------------------------------- epoll */

static void watch(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static void epoll_setup(void)
{
	struct epoll_event got[16];
	make_pipe(10, 11, 0);
	make_pipe(12, 13, 0);
	trip_place(eventfd(1, 0), 20);
	trip_place(eventfd(0, 0), 22);
	trip_place(epoll_create1(EPOLL_CLOEXEC), 50);
	trip_place(epoll_create1(EPOLL_CLOEXEC), 51);
	trip_place(epoll_create1(EPOLL_CLOEXEC), 52);
	must(fcntl(52, F_SETFD, 0));
	watch(51, 10, EPOLLIN | EPOLLET, 0xdeadbeef00000001);
	watch(51, 11, EPOLLOUT | EPOLLONESHOT, 0xdeadbeef00000002);
	watch(51, 20, EPOLLIN | EPOLLEXCLUSIVE, 3);
	watch(51, 22, 0, 4);
	watch(51, 13, EPOLLIN | EPOLLONESHOT, 5);
	watch(52, 51, EPOLLIN, UINT64_MAX);
	/* The one-shot entry that is ready is spent now, the other one is not. */
	must(epoll_wait(51, got, 16, 0));
}

static uint64_t ready(int epoll)
{
	struct epoll_event got[16];
	int n = epoll_wait(epoll, got, 16, 0);
	uint64_t bits = 0;
	for (int i = 0; i < n; i++)
		bits |= 1ull << (got[i].data.u64 & 31);
	return bits;
}

static int epoll_verify(void)
{
	struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data.u64 = 2};
	check(ready(50) == 0);
	check(ready(51) == 1 << 3);
	check(ready(52) == 1u << 31);
	check(write(11, "x", 1) == 1);
	check(ready(51) == (1 << 1 | 1 << 3));
	check(ready(51) == 1 << 3);
	/* The spent entry does not even report that the other end is gone; a new one does. */
	close(10);
	check(ready(51) == 1 << 3);
	check(!epoll_ctl(51, EPOLL_CTL_MOD, 11, &event));
	check(ready(51) == (1 << 2 | 1 << 3));
	close(12);
	check(ready(51) == (1 << 3 | 1 << 5));
	check(ready(51) == 1 << 3);
	return 0;
}

static void epoll_comes_back(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, epoll_setup, 1);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 0, epoll_verify), 0);
	trip_end(&t);
}

/* Entries whose number was closed, was given to something else, or is open in the child only. */
static void epoll_stale_setup(void)
{
	trip_place(epoll_create1(EPOLL_CLOEXEC), 50);
	trip_place(eventfd(0, 0), 20);
	watch(50, 20, EPOLLIN, 1);
	must(dup2(20, 30));
	trip_place(eventfd(5, EFD_CLOEXEC), 20);
	watch(50, 20, EPOLLIN, 2);
	trip_place(eventfd(0, 0), 21);
	watch(50, 21, EPOLLIN, 3);
	must(dup2(21, 31));
	close(21);
	trip_place(eventfd(9, 0), 22);
	watch(50, 22, EPOLLIN, 4);
	if (!must(fork())) {
		close(20);
		close(30);
		close(31);
		trip_ready();
	}
	close(22);
}

static int epoll_stale_verify(void)
{
	check(ready(50) == (1 << 2 | 1 << 4));
	check(fcntl(20, F_GETFD) == FD_CLOEXEC && fcntl(21, F_GETFD) < 0 && fcntl(22, F_GETFD) < 0);
	check(write(30, &(uint64_t){1}, 8) == 8);
	check(ready(50) == (1 << 1 | 1 << 2 | 1 << 4));
	check(write(31, &(uint64_t){1}, 8) == 8);
	check(ready(50) == (1 << 1 | 1 << 2 | 1 << 3 | 1 << 4));
	/* The number belongs to the second entry; the first can only be removed once it is 20 again. */
	check(!epoll_ctl(50, EPOLL_CTL_DEL, 20, NULL));
	check(ready(50) == (1 << 1 | 1 << 3 | 1 << 4));
	check(dup2(30, 20) == 20 && !epoll_ctl(50, EPOLL_CTL_DEL, 20, NULL));
	check(ready(50) == (1 << 3 | 1 << 4));
	return 0;
}

static void epoll_entries_outlive_numbers(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, epoll_stale_setup, 2);
	trip_whole(&t);
	assert_int_equal(trip_ask(&t, 0, epoll_stale_verify), 0);
	trip_end(&t);
}

/* An eventfd of the test, whose description lives on there. */
static int kept;

static void epoll_outside_setup(void)
{
	int parent = must(sys_pidfd_open(getppid(), 0));
	trip_place(must(sys_pidfd_getfd(parent, kept)), 20);
	close(parent);
	trip_place(epoll_create1(EPOLL_CLOEXEC), 50);
	watch(50, 20, EPOLLIN, 1);
	close(20);
}

static void epoll_on_outside_is_refused(void **state)
{
	struct trip t;
	(void)state;
	kept = eventfd(0, 0);
	trip_start(&t, epoll_outside_setup, 1);
	assert_int_equal(trip_save(&t), -ENOTSUP);
	assert_int_equal(t.err.id, FERRY_ERROR_OUTSIDE_PEER);
	assert_non_null(strstr(t.err.message, "fd 20"));
	trip_end(&t);
	close(kept);
}

static void epoll_number_setup(void)
{
	trip_place(epoll_create1(EPOLL_CLOEXEC), 50);
	trip_place(eventfd(0, 0), 20);
	watch(50, 20, EPOLLIN, 1);
}

static void epoll_number_tamper(FileEntry *entry)
{
	if (entry->epfd)
		entry->epfd->tfd[0]->tfd = 77;
}

/* What a damaged image may say. */
static void epoll_number_is_checked(void **state)
{
	struct trip t;
	(void)state;
	trip_start(&t, epoll_number_setup, 1);
	t.tamper = epoll_number_tamper;
	assert_int_equal(trip_save(&t), 0);
	assert_int_equal(trip_load(&t), -EBADMSG);
	assert_int_equal(t.err.id, FERRY_ERROR_IMAGE_BAD);
	assert_non_null(strstr(t.err.message, "fd 77"));
	trip_end(&t);
	trip_start(&t, epoll_number_setup, 1);
	assert_int_equal(trip_save(&t), 0);
	assert_int_equal(trip_load(&t), 0);
	t.plan.files[1].entry->epfd->tfd[0]->tfd = 77;
	assert_int_equal(trip_restore(&t), -EBADMSG);
	assert_int_equal(t.err.id, FERRY_ERROR_IMAGE_BAD);
	assert_non_null(strstr(t.err.message, "fd 77"));
	trip_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pipes_come_back),
		cmocka_unit_test(pipe_ends_of_two_processes),
		cmocka_unit_test(pipe_owner_and_rights),
		cmocka_unit_test(pipe_held_outside_is_refused),
		cmocka_unit_test(pipe_with_a_hidden_writer_is_refused),
		cmocka_unit_test(pipe_data_is_checked),
		cmocka_unit_test(eventfds_come_back),
		cmocka_unit_test(signalfds_come_back),
		cmocka_unit_test(timerfds_come_back),
		cmocka_unit_test(timerfd_nobody_reads),
		cmocka_unit_test(timerfds_expire_meanwhile),
		cmocka_unit_test(timerfd_that_stood_still_goes_on),
		cmocka_unit_test(timerfd_times_are_checked),
		cmocka_unit_test(epoll_comes_back),
		cmocka_unit_test(epoll_entries_outlive_numbers),
		cmocka_unit_test(epoll_on_outside_is_refused),
		cmocka_unit_test(epoll_number_is_checked),
	};
	due = mmap(NULL, sizeof(*due), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return due == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
