/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BPF and userfaultfd that a dump refuses. A word says which: "program" (a BPF program), "ring" (a BPF map that is a ring),
 * "minor" (a userfaultfd for minor faults), "elsewhere" (one whose descriptor only a child has). Proof: after the refusal
 * the descriptor answers as before.
 */
#include "program.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BYTES = 16384 };

struct state {
	int fd;
	unsigned char *memory;
};

static int bpf_call(int cmd, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static void make_program(struct state *s)
{
	const struct bpf_insn code[2] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
			       .insns = (uintptr_t)code,
			       .insn_cnt = 2,
			       .license = (uintptr_t) "GPL"};

	s->fd = bpf_call(BPF_PROG_LOAD, &attr);
	if (s->fd < 0)
		program_lacks("BPF_PROG_LOAD");
}

static void make_ring(struct state *s)
{
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_RINGBUF, .max_entries = 4096};

	s->fd = bpf_call(BPF_MAP_CREATE, &attr);
	if (s->fd < 0)
		program_lacks("BPF_MAP_CREATE");
}

static void make_watched(struct state *s, uint64_t features, uint64_t mode)
{
	s->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	if (s->fd < 0 || ioctl(s->fd, UFFDIO_API, &api) < 0)
		program_lacks("userfaultfd");
	struct uffdio_register reg = {.range = {(uintptr_t)s->memory, BYTES}, .mode = mode};
	must(ioctl(s->fd, UFFDIO_REGISTER, &reg));
}

static void make_minor(struct state *s)
{
	s->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	make_watched(s, UFFD_FEATURE_MINOR_SHMEM, UFFDIO_REGISTER_MODE_MINOR);
}

static void make_elsewhere(struct state *s)
{
	s->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	make_watched(s, 0, UFFDIO_REGISTER_MODE_MISSING);
	if (!must(fork())) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	close(s->fd);
	s->fd = must(open("/dev/null", O_RDONLY | O_CLOEXEC));
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	expect(p, fcntl(s->fd, F_GETFD) >= 0, "the descriptor is closed");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *word;
		void (*make)(struct state *s);
	} makers[] = {{"program", make_program},
		      {"ring", make_ring},
		      {"minor", make_minor},
		      {"elsewhere", make_elsewhere}};
	static const struct program_ops ops = {.verify = verify};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		if (program_told(argc, argv, makers[i].word)) {
			makers[i].make(&s);
			return program_serve(&p, &ops, &s);
		}
	return 2;
}
