/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children whose end is told by another signal than SIGCHLD, or by none; one of them is a zombie. Proof: /proc shows the signal,
 * only waits with __WCLONE see them, and in the end each sends what it has to.
 */
#include "relations.h"

#include <sys/syscall.h>

static const int signals[] = {0, SIGUSR1, 41, SIGUSR2};
enum { COUNT = ARRAY_SIZE(signals), ZOMBIE = 3 };

static volatile sig_atomic_t got[65];

struct state {
	struct relations all;
	pid_t children[COUNT];
};

static void on_signal(int number)
{
	got[number]++;
}

static int exit_signal_of(pid_t pid)
{
	char path[64], text[1024];

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	char *at = strrchr(text, ')');
	for (int field = 2; at && field < 38; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at + 1) : -2;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	siginfo_t info = {0};

	relations_verify(p, &s->all);
	for (int i = 0; i < COUNT; i++)
		expect_same(p, "the exit signal", exit_signal_of(s->children[i]), signals[i]);
	expect_same(p, "a wait without __WCLONE", waitpid(-1, NULL, WNOHANG), -1);
	expect_same(p, "a wait with it", waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WCLONE), 0);
	expect_same(p, "who ended", info.si_pid, s->children[ZOMBIE]);
	expect_same(p, "SIGUSR1", got[SIGUSR1], 0);
	expect_same(p, "SIGUSR2", got[SIGUSR2], 1);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	for (int i = 0; i < COUNT; i++) {
		kill(s->children[i], SIGKILL);
		while (waitpid(s->children[i], NULL, __WCLONE) < 0 && got[0] == 0 && sleep(0) == 0)
			if (kill(s->children[i], 0) < 0)
				break;
	}
	expect_same(p, "SIGUSR1", got[SIGUSR1], 1);
	expect_same(p, "SIGUSR2", got[SIGUSR2], 1);
	expect_same(p, "signal 41", got[41], 1);
	expect_same(p, "SIGCHLD", got[SIGCHLD], 0);
}

static void spoil(void *state)
{
	struct state *s = state;

	waitpid(s->children[ZOMBIE], NULL, __WCLONE);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s;
	struct program p;

	relations_start(&p, argc, argv);
	for (int i = 1; i < COUNT; i++)
		signal(signals[i], on_signal);
	signal(SIGCHLD, on_signal);
	for (int i = 0; i < COUNT; i++) {
		s.children[i] = (pid_t)must(syscall(SYS_clone, signals[i], 0, 0, 0, 0));
		if (!s.children[i] && i == ZOMBIE)
			_exit(0);
		if (!s.children[i])
			rest();
	}
	relations_settle(&s.all, 1 + COUNT);
	return program_serve(&p, &ops, &s);
}
