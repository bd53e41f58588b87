/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is watched for writes (userfaultfd), some pages of it write-protected; two userfaultfds, each with a
 * range of its own, and a third that was never set up. Proof: which pages are protected, by pagemap; at the end a write to such
 * a page waits for the handler of the right one, and others do not.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, RANGES = 2 };

struct state {
	int fd[RANGES], idle;
	unsigned char *memory[RANGES];
	_Atomic int faults[RANGES];
};

/* Of range 0 each even page, of range 1 each third. */
static bool is_protected(int range, int page)
{
	return page % (range + 2) == 0;
}

static void protect(int fd, void *at, uint64_t mode)
{
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)at, PAGE}, .mode = mode};

	must(ioctl(fd, UFFDIO_WRITEPROTECT, &wp));
}

static void *serve(void *context)
{
	struct state *s = context;
	struct uffd_msg msg;

	for (;; sleep_ms(1))
		for (int i = 0; i < RANGES; i++)
			if (read(s->fd[i], &msg, sizeof(msg)) == sizeof(msg)) {
				s->faults[i]++;
				protect(s->fd[i],
					(void *)(uintptr_t)(msg.arg.pagefault.address &
							    ~(uint64_t)(PAGE - 1)),
					0);
			}
	return NULL;
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	int fd = must(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));

	for (int i = 0; i < RANGES; i++) {
		uint64_t words[PAGES] = {0};
		must(pread(fd, words, sizeof(words), (off_t)((uintptr_t)s->memory[i] / PAGE * 8)));
		for (int page = 0; page < PAGES; page++) {
			expect_same(p, "a page that is protected", words[page] >> 57 & 1,
				    is_protected(i, page));
			expect_same(p, "first byte of a page", s->memory[i][page * PAGE], page + i);
		}
		expect_same(p, "faults", s->faults[i], 0);
	}
	close(fd);
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	int faults[RANGES] = {0};
	struct uffdio_api api = {.api = UFFD_API};

	verify(p, s);
	for (int i = 0; i < RANGES; i++)
		for (int page = 0; page < PAGES; page++) {
			((volatile unsigned char *)s->memory[i])[page * PAGE] = 99;
			faults[i] += is_protected(i, page);
		}
	for (int i = 0; i < RANGES; i++)
		expect_same(p, "writes that waited", s->faults[i], faults[i]);
	expect_same(p, "setting the third up", ioctl(s->idle, UFFDIO_API, &api), 0);
}

static void spoil(void *context)
{
	struct state *s = context;

	protect(s->fd[1], s->memory[1], 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	for (int i = 0; i < RANGES; i++) {
		s.fd[i] = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
		if (s.fd[i] < 0 || ioctl(s.fd[i], UFFDIO_API, &api) < 0)
			program_lacks("userfaultfd");
		s.memory[i] =
			mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int page = 0; page < PAGES; page++)
			s.memory[i][page * PAGE] = (unsigned char)(page + i);
		struct uffdio_register reg = {.range = {(uintptr_t)s.memory[i], PAGES * PAGE},
					      .mode = UFFDIO_REGISTER_MODE_WP};
		must(ioctl(s.fd[i], UFFDIO_REGISTER, &reg));
		for (int page = 0; page < PAGES; page++)
			if (is_protected(i, page))
				protect(s.fd[i], s.memory[i] + page * PAGE, UFFDIO_WRITEPROTECT_MODE_WP);
	}
	s.idle = must((int)syscall(SYS_userfaultfd, O_CLOEXEC));
	if (pthread_create(&thread, NULL, serve, &s))
		program_die("pthread_create");
	return program_serve(&p, &ops, &s);
}
