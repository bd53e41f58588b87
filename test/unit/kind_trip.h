/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of descriptors through their kinds without the engine: processes that hold some are stopped, their
 * descriptors collected and written to an image; other processes get what is restored from it, settle it, and
 * can be looked at and asked. Memory and registers play no part, so what the kinds do is seen alone.
 */
#pragma once

#include "unit.h"

#include <stdbool.h>
#include <sys/types.h>

#include "image/dir.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "model/kind.h"
#include "model/plan.h"
#include "model/snapshot.h"

enum { TRIP_TASKS = 4, TRIP_TEMPS_FROM = 300, TRIP_TEXT = 4096 };

struct trip_shared;

struct trip {
	struct trip_shared *shared;
	pid_t root;
	pid_t pids[TRIP_TASKS];     /* as collected: root, then its children */
	pid_t restored[TRIP_TASKS]; /* in the same order */
	size_t n;
	char folder[32];
	struct snapshot snap;
	struct plan plan;
	void *plan_data[KIND_COUNT];
	struct kind_options options;
	struct peers *peers;
	void (*tamper)(FileEntry *entry); /* with records right before they are written */
	bool continue_clocks;
	unsigned pause_ms; /* between reading the clocks and collecting */
	FerryClocksEntry clocks;
	VEC(FileEntry *) entries;
	struct ferry_error err;
};

/* Run setup in a new process. It may fork; every process ends in trip_ready(). Returns when `processes` are ready. */
void trip_start(struct trip *t, void (*setup)(void), unsigned processes);
__attribute__((noreturn)) void trip_ready(void);

/* Number `fd` becomes number `number`, close-on-exec as flags say. */
void trip_place(int fd, int number);

/* Collect and write the image; read it again. 0 or -errno with t->err. */
int trip_save(struct trip *t);
int trip_load(struct trip *t);

/* Restore all files, make the processes. Afterwards the first ones are killed. */
int trip_restore(struct trip *t);

/* Run verify in restored process number i, after its descriptors were settled; its result. Once a process. */
int trip_ask(struct trip *t, size_t i, int (*verify)(void));

/* Save, load, restore: all have to succeed. */
void trip_whole(struct trip *t);
void trip_end(struct trip *t);

/* /proc/PID/fdinfo/FD without numbers that differ between any two objects; lines sorted. */
void trip_fdinfo(pid_t pid, int fd, char ret_text[TRIP_TEXT]);

/* All descriptors of all processes are the same as before, in number, kind and fdinfo. Call before trip_restore. */
struct trip_picture;
struct trip_picture *trip_look(const pid_t *pids, size_t n);
void trip_compare(struct trip_picture *before, const pid_t *pids, size_t n);
