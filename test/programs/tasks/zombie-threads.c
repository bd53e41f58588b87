/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A zombie that had several threads, the first of which ended before the others. Proof: relations.h.
 */
#include "relations.h"

#include <pthread.h>

static void *late_end(void *argument)
{
	sleep_ms(20);
	_exit(21);
	return argument;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	struct relations all;
	struct program p;

	relations_start(&p, argc, argv);
	pid_t zombie = must(fork());
	if (!zombie) {
		pthread_t other;
		pthread_create(&other, NULL, late_end, NULL);
		pthread_exit(NULL);
	}
	await_zombie(zombie);
	resting_child();
	relations_settle(&all, 3);
	return program_serve(&p, &ops, &all);
}
