/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UTS namespaces: the first process has left the one it was started in. With "tasks" so have two children, each with names
 * of its own, and a third has gone back to the first process's by setns(2). Proof: what uname(2) says in each, and who
 * sees a name that one of them changes.
 */
#include "program.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

struct names {
	const char *host, *domain;
	struct program *p;
};

static void verify(struct program *p, void *state)
{
	const struct names *n = state;
	struct utsname now;
	must(uname(&now));
	expect(p, !strcmp(now.nodename, n->host), "the host is called '%s', not '%s'", now.nodename, n->host);
	expect(p, !strcmp(now.domainname, n->domain), "the domain is called '%s', not '%s'", now.domainname,
	       n->domain);
}

static void spoil(void *state)
{
	(void)state;
	must(sethostname("spoilt", 6));
}

static void take(const struct names *n)
{
	must(unshare(CLONE_NEWUTS));
	must(sethostname(n->host, strlen(n->host)));
	must(setdomainname(n->domain, strlen(n->domain)));
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil};
static const struct program_ops child_ops = {.verify = verify};

static void child(const struct program *p, const char *role, struct names names, int back)
{
	if (must(fork())) {
		program_await(p, role);
		return;
	}
	struct program q = program_role(p, role);
	for (int fd = 3; fd < 10; fd++)
		if (fd != back)
			close(fd);
	if (back >= 0) {
		must(unshare(CLONE_NEWUTS));
		must(sethostname("left-again", 10));
		must(setns(back, CLONE_NEWUTS));
		close(back);
	} else {
		take(&names);
	}
	_exit(program_serve(&q, &child_ops, &names));
}

int main(int argc, char **argv)
{
	struct names names = {.host = "first.example", .domain = "nis-first"};
	struct program p;
	program_start(&p, argc, argv);
	take(&names);
	if (program_told(argc, argv, "tasks")) {
		int fd = must(open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC));
		child(&p, "second", (struct names){.host = "second", .domain = ""}, -1);
		child(&p, "third", (struct names){.host = "third", .domain = "nis-third"}, -1);
		child(&p, "back", names, fd);
		close(fd);
	}
	return program_serve(&p, &ops, &names);
}
