/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tree that changes all the time: children that fork, execute, make threads and end. Proof: the children of all
 * generations come back with what they should, and none is lost. Whether it can be dumped at an instant is open; that it
 * goes on afterwards is not. A word says what it does: "fork", "exec", "threads" or "sockets".
 */
#include "program.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, STATUS = 42, THREADS = 4 };

struct state {
	unsigned rounds[WORKERS]; /* shared with the workers through the results that they exit with */
	pid_t workers[WORKERS];
	const char *what;
	char self[256];
};

static void *nothing(void *argument)
{
	return argument;
}

/* A pair of sockets that a child writes to. */
static int talk(void)
{
	int ends[2], status = 0;
	char said = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		return 1;
	pid_t pid = fork();
	if (!pid)
		_exit(write(ends[1], "x", 1) == 1 ? STATUS : 1);
	close(ends[1]);
	bool heard = read(ends[0], &said, 1) == 1 && said == 'x';
	close(ends[0]);
	return pid < 0 || !heard || waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != STATUS;
}

/* One round of a worker: something short-lived, whose result is known. */
static int once(const struct state *s)
{
	pthread_t threads[THREADS];
	int status = 0;

	if (!strcmp(s->what, "sockets"))
		return talk();
	if (!strcmp(s->what, "threads")) {
		for (int i = 0; i < THREADS; i++)
			if (pthread_create(&threads[i], NULL, nothing, NULL))
				return 1;
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		return 0;
	}
	pid_t pid = fork();
	if (!pid && !strcmp(s->what, "exec"))
		execl(s->self, s->self, "--exit", NULL);
	if (!pid)
		_exit(STATUS);
	return pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
	       WEXITSTATUS(status) != STATUS;
}

static void work(const struct state *s)
{
	for (int i = 0; i < 20; i++)
		if (once(s))
			_exit(1);
	_exit(STATUS);
}

static void start(struct state *s, int i)
{
	s->workers[i] = must(fork());
	if (!s->workers[i])
		work(s);
}

static unsigned bad;

/* Workers that ended are replaced. */
static void step(void *state)
{
	struct state *s = state;
	int status;

	for (int i = 0; i < WORKERS; i++) {
		if (waitpid(s->workers[i], &status, WNOHANG) != s->workers[i])
			continue;
		bad += !WIFEXITED(status) || WEXITSTATUS(status) != STATUS;
		s->rounds[i]++;
		start(s, i);
	}
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned before[WORKERS];

	memcpy(before, s->rounds, sizeof(before));
	for (int tries = 0; tries < 4000; tries++) {
		bool all = true;
		step(s);
		for (int i = 0; i < WORKERS; i++)
			all &= s->rounds[i] > before[i];
		if (all)
			break;
		sleep_ms(1);
	}
	for (int i = 0; i < WORKERS; i++)
		expect(p, s->rounds[i] > before[i], "worker %d does not get on", i);
	expect(p, !bad, "%u workers failed", bad);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .step = step};
	struct state s = {0};
	struct program p;

	if (argc > 1 && !strcmp(argv[1], "--exit"))
		return STATUS;
	program_start(&p, argc, argv);
	s.what = program_told(argc, argv, "threads") ? "threads"
		 : program_told(argc, argv, "exec")  ? "exec"
						     : "fork";
	must(readlink("/proc/self/exe", s.self, sizeof(s.self) - 1));
	for (int i = 0; i < WORKERS; i++)
		start(&s, i);
	return program_serve(&p, &ops, &s);
}
