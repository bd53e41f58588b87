/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every system call that sleeps, stopped inside: which of them the kernel fails with EINTR, and that none
 * shows one to its caller after an injection. test_restart TARGET (unused) prints what it saw.
 */
#include "harness.h"
#include "scenario.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RESTART_BLOCK = 516 }; /* the kernel's ERESTART_RESTARTBLOCK */

/* What the sleeping children share: objects made before the call, and what the call returned. */
struct world {
	int pipe[2], pair[2], epoll, lock[2], ring, semaphore, queue;
	aio_context_t aio;
	uint32_t futex;
	uint64_t mask;
	struct timespec limit;
	char buffer[70000];
};

static struct world w;
static volatile long *outcome;
static const struct timeval receive_limit = {.tv_sec = 100};

#define CALLS(X)                                                                                             \
	X(epoll_wait, syscall(SYS_epoll_wait, w.epoll, w.buffer, 4, -1))                                     \
	X(epoll_wait_limit, syscall(SYS_epoll_wait, w.epoll, w.buffer, 4, 100000))                           \
	X(epoll_pwait, syscall(SYS_epoll_pwait, w.epoll, w.buffer, 4, -1, &w.mask, sizeof(w.mask)))          \
	X(epoll_pwait2, syscall(SYS_epoll_pwait2, w.epoll, w.buffer, 4, &w.limit, &w.mask, sizeof(w.mask)))  \
	X(sigtimedwait,                                                                                      \
	  syscall(SYS_rt_sigtimedwait, &(uint64_t){1u << (SIGUSR2 - 1)}, 0, &w.limit, sizeof(w.mask)))       \
	X(sigwaitinfo, syscall(SYS_rt_sigtimedwait, &(uint64_t){1u << (SIGUSR2 - 1)}, 0, 0, sizeof(w.mask))) \
	X(semop, semop(w.semaphore, &(struct sembuf){.sem_op = -1}, 1))                                      \
	X(semtimedop, semtimedop(w.semaphore, &(struct sembuf){.sem_op = -1}, 1, &w.limit))                  \
	X(msgrcv, msgrcv(w.queue, w.buffer, 10, 0, 0))                                                       \
	X(io_getevents, syscall(SYS_io_getevents, w.aio, 1, 1, w.buffer, NULL))                              \
	X(io_getevents_limit, syscall(SYS_io_getevents, w.aio, 1, 1, w.buffer, &w.limit))                    \
	X(io_pgetevents, syscall(SYS_io_pgetevents, w.aio, 1, 1, w.buffer, NULL, NULL))                      \
	X(io_uring_enter, syscall(SYS_io_uring_enter, w.ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0L))       \
	X(futex, syscall(SYS_futex, &w.futex, FUTEX_WAIT, 0, NULL))                                          \
	X(futex_limit, syscall(SYS_futex, &w.futex, FUTEX_WAIT, 0, &w.limit))                                \
	X(select, select(w.pipe[0] + 1, pipe_set(), NULL, NULL, &(struct timeval){.tv_sec = 100}))           \
	X(pselect, pselect(w.pipe[0] + 1, pipe_set(), NULL, NULL, &w.limit, (sigset_t *)w.buffer))           \
	X(poll, poll(&(struct pollfd){w.pipe[0], POLLIN, 0}, 1, 100000))                                     \
	X(poll_forever, poll(&(struct pollfd){w.pipe[0], POLLIN, 0}, 1, -1))                                 \
	X(ppoll, ppoll(&(struct pollfd){w.pipe[0], POLLIN, 0}, 1, &w.limit, (sigset_t *)w.buffer))           \
	X(nanosleep, nanosleep(&w.limit, NULL))                                                              \
	X(nanosleep_by_syscall, syscall(SYS_nanosleep, &w.limit, NULL))                                      \
	X(poll_by_syscall, syscall(SYS_poll, &(struct pollfd){w.pipe[0], POLLIN, 0}, 1, 100000))             \
	X(poll_nothing, poll(NULL, 0, 100000))                                                               \
	X(clock_nanosleep, syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &w.limit, NULL))                 \
	X(read_pipe, read(w.pipe[0], w.buffer, 1))                                                           \
	X(readv_pipe, readv(w.pipe[0], &(struct iovec){w.buffer, 1}, 1))                                     \
	X(write_pipe, write(full_pipe(), w.buffer, 1))                                                       \
	X(read_eventfd, read(eventfd(0, 0), w.buffer, 8))                                                    \
	X(read_timerfd, read(timerfd(), w.buffer, 8))                                                        \
	X(read_inotify, read(inotify_init1(IN_CLOEXEC), w.buffer, 4096))                                     \
	X(read_signalfd, read(signalfd(-1, (sigset_t *)w.buffer, 0), w.buffer, 128))                         \
	X(recv, recv(w.pair[0], w.buffer, 1, 0))                                                             \
	X(recv_limit, recv(limited(SO_RCVTIMEO), w.buffer, 1, 0))                                            \
	X(recvmsg_limit, recvmsg(limited(SO_RCVTIMEO), &(struct msghdr){0}, 0))                              \
	X(read_limit, read(limited(SO_RCVTIMEO), w.buffer, 1))                                               \
	X(readv_limit, readv(limited(SO_RCVTIMEO), &(struct iovec){w.buffer, 1}, 1))                         \
	X(recvmmsg_limit, recvmmsg(limited(SO_RCVTIMEO), &(struct mmsghdr){0}, 1, 0, NULL))                  \
	X(accept, accept(listener(0), NULL, NULL))                                                           \
	X(accept_limit, accept(listener(1), NULL, NULL))                                                     \
	X(accept4_limit, accept4(listener(1), NULL, NULL, 0))                                                \
	X(send_limit, send(stuffed(), w.buffer, 100, 0))                                                     \
	X(sendmsg_limit,                                                                                     \
	  sendmsg(stuffed(), &(struct msghdr){.msg_iov = &(struct iovec){w.buffer, 9}, .msg_iovlen = 1}, 0)) \
	X(write_limit, write(stuffed(), w.buffer, 100))                                                      \
	X(flock, flock(w.lock[1], LOCK_EX))                                                                  \
	X(wait4, wait4(-1, NULL, 0, NULL))                                                                   \
	X(sigsuspend, syscall(SYS_rt_sigsuspend, &w.mask, sizeof(w.mask)))                                   \
	X(pause, syscall(SYS_pause))                                                                         \
	X(splice, splice(w.pipe[0], NULL, w.pair[0], NULL, 10, 0))

static fd_set *pipe_set(void)
{
	static fd_set set;

	FD_SET(w.pipe[0], &set);
	return &set;
}

/*
 * A call that has written something returns how much when it is stopped; one that has not can be made
 * again.
 */
static int full_pipe(void)
{
	fcntl(w.pipe[1], F_SETFL, O_NONBLOCK);
	while (write(w.pipe[1], w.buffer, sizeof(w.buffer)) > 0 || write(w.pipe[1], w.buffer, 1) > 0)
		;
	fcntl(w.pipe[1], F_SETFL, 0);
	return w.pipe[1];
}

static int timerfd(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	struct itimerspec later = {.it_value.tv_sec = 100};

	timerfd_settime(fd, 0, &later, NULL);
	return fd;
}

static int limited(int option)
{
	setsockopt(w.pair[0], SOL_SOCKET, option, &receive_limit, sizeof(receive_limit));
	return w.pair[0];
}

static int listener(int limit)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (limit)
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive_limit, sizeof(receive_limit));
	/* Autobind: an abstract address of the kernel's choice. */
	if (bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 || listen(fd, 1) < 0)
		_exit(1);
	return fd;
}

/* A socket that takes no byte more. */
static int stuffed(void)
{
	limited(SO_SNDTIMEO);
	fcntl(w.pair[0], F_SETFL, O_NONBLOCK);
	while (write(w.pair[0], w.buffer, sizeof(w.buffer)) > 0 || write(w.pair[0], w.buffer, 1) > 0)
		;
	fcntl(w.pair[0], F_SETFL, 0);
	return w.pair[0];
}

#define DEFINE(name, ...)                 \
	static long sleep_in_##name(void) \
	{                                 \
		return __VA_ARGS__;       \
	}
CALLS(DEFINE)

#define ENTRY(name, ...) {#name, sleep_in_##name},
static const struct {
	const char *name;
	long (*sleep)(void);
} sleeps[] = {CALLS(ENTRY)};

static void world_make(void)
{
	struct epoll_event event = {.events = EPOLLIN};
	struct io_uring_params parameters = {0};
	int lock = memfd_create("lock", MFD_CLOEXEC);
	char path[32];

	memset(&w, 0, sizeof(w));
	w.limit.tv_sec = 100;
	if (pipe2(w.pipe, O_CLOEXEC) < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, w.pair) < 0)
		_exit(1);
	w.epoll = epoll_create1(EPOLL_CLOEXEC);
	epoll_ctl(w.epoll, EPOLL_CTL_ADD, w.pipe[0], &event);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", lock);
	w.lock[0] = open(path, O_RDWR | O_CLOEXEC);
	w.lock[1] = open(path, O_RDWR | O_CLOEXEC);
	flock(w.lock[0], LOCK_EX);
	w.semaphore = semget(IPC_PRIVATE, 1, 0600);
	w.queue = msgget(IPC_PRIVATE, 0600);
	outcome[1] = w.semaphore;
	outcome[2] = w.queue;
	syscall(SYS_io_setup, 4, &w.aio);
	w.ring = (int)syscall(SYS_io_uring_setup, 4, &parameters);
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
}

/*
 * The same thread as it is seen when it is stopped again before it has made its call again: it stands at the instruction,
 * with the number of restart_syscall.
 */
static void look_before_restart(struct ferry_thread *thread, const struct ferry_regs *stopped,
				const char *name, long nr)
{
	const uint64_t before[] = {(uint64_t)nr, ~0ull};
	struct ferry_error err = FERRY_ERROR_INIT;

	for (size_t i = 0; i < sizeof(before) / sizeof(*before); i++) {
		struct ferry_regs regs = {.size = sizeof(regs), .user = stopped->user};
		regs.user.rip -= 2;
		regs.user.rax = SYS_restart_syscall;
		regs.user.orig_rax = before[i];
		int done = (int)must(ferry_thread_normalize(thread, FERRY_RESUME_IMAGE, &regs, &err), &err);
		check(done == FERRY_RESUMED_CALL && (long)regs.user.rax == nr &&
			      regs.user.rip == stopped->user.rip - 2,
		      "%s: before it is made again an image would go on with call %lld, not %ld", name,
		      regs.user.rax, nr);
	}
}

/* Stop the child inside its call, inject, release; 1 = the kernel failed the call with EINTR, 0 = not. */
static int visit_sleeper(pid_t pid, const char *name, long nr)
{
	struct ferry_inject_options options = FERRY_INJECT_OPTIONS_INIT;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_regs regs = FERRY_REGS_INIT, image = FERRY_REGS_INIT;
	struct ferry_inject *inject;
	struct ferry_thread *thread;
	int64_t r;

	must(ferry_thread_seize(pid, &options, &thread, &err), &err);
	must(ferry_thread_interrupt(thread, &err), &err);
	must(ferry_thread_wait(thread, 5000, &err), &err);
	must(ferry_thread_get_regs(thread, &regs, &err), &err);
	must(ferry_thread_get_regs(thread, &image, &err), &err);
	int done = (int)must(ferry_thread_normalize(thread, FERRY_RESUME_IMAGE, &image, &err), &err);
	check(done == FERRY_RESUMED_CALL || done == FERRY_RESUMED_EINTR,
	      "%s: normalized with %d (rax %lld, orig_rax %lld)", name, done, regs.user.rax,
	      regs.user.orig_rax);
	check((long)image.user.orig_rax == -1 && (long)image.user.rax == nr,
	      "%s: an image would go on with call %lld, not %ld", name, image.user.rax, nr);
	if ((long)regs.user.rax == -RESTART_BLOCK)
		look_before_restart(thread, &regs, name, nr);
	must(ferry_inject_open(thread, &options, &inject, &err), &err);
	must(ferry_inject_call(inject, thread, SYS_getpid, NULL, &r, &err), &err);
	check(r == pid, "%s: getpid gave %lld", name, (long long)r);
	must(ferry_thread_release(thread, &err), &err);
	ferry_inject_close(inject);
	ferry_regs_release(&regs);
	ferry_regs_release(&image);
	return done == FERRY_RESUMED_EINTR;
}

static void sleep_once(size_t i)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	harness_disown();
	world_make();
	outcome[0] = 1;
	long r = sleeps[i].sleep();
	outcome[0] = r < 0 ? -errno : 1000 + r;
	for (;;)
		pause();
}

/* The system call that a process sleeps in; -1 = it runs. */
static long sleeping_in(pid_t pid)
{
	char path[64], line[256];
	long nr = -1;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	FILE *f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f) && isdigit((unsigned char)*line))
		nr = strtol(line, NULL, 10);
	if (f)
		fclose(f);
	return nr;
}

static long wait_asleep(pid_t pid, const char *name)
{
	uint64_t end = clock_ns() + 8000000000u;
	int same = 0;

	for (long before = -2; same < 4;) {
		long nr = sleeping_in(pid);
		same = nr >= 0 && nr == before && outcome[0] == 1 ? same + 1 : 0;
		before = nr;
		check(outcome[0] == 0 || outcome[0] == 1, "%s: ended with %ld before anything was done", name,
		      outcome[0]);
		check(clock_ns() < end, "%s: does not sleep", name);
		sleep_us(3000);
	}
	return sleeping_in(pid);
}

static bool test_sleep(size_t i)
{
	bool eintr = false;

	memset((void *)(uintptr_t)outcome, 0, 3 * sizeof(*outcome));
	fflush(NULL);
	pid_t pid = fork();
	check(pid >= 0, "fork: %s", strerror(errno));
	if (!pid)
		sleep_once(i);
	long nr = wait_asleep(pid, sleeps[i].name);
	for (int round = 0; round < 3; round++) {
		eintr = visit_sleeper(pid, sleeps[i].name, nr);
		wait_asleep(pid, sleeps[i].name);
	}
	check(outcome[0] == 1, "%s: returned %s", sleeps[i].name, strerror((int)-outcome[0]));
	kill(pid, SIGKILL);
	/* Its child follows it, and is ours then. */
	while (waitpid(-1, NULL, 0) > 0)
		;
	semctl((int)outcome[1], 0, IPC_RMID);
	msgctl((int)outcome[2], IPC_RMID, NULL);
	return eintr;
}

int main(void)
{
	int n = 0;

	outcome = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(outcome != MAP_FAILED, "mmap: %s", strerror(errno));
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (size_t i = 0; i < sizeof(sleeps) / sizeof(sleeps[0]); i++) {
		if (test_sleep(i)) {
			printf("%s%s", n ? " " : "EINTR after a stop: ", sleeps[i].name);
			n++;
		}
	}
	printf("\n%zu calls, %d of them mended\n", sizeof(sleeps) / sizeof(sleeps[0]), n);
	check(n >= 10,
	      "the kernel fails only %d calls with EINTR: the table is out of date, or nothing slept", n);
	return 0;
}
