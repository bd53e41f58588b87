/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pager gives restored tasks their memory out of the image's files, or from a page server, while they run: a page when somebody asks for it, and all
 * others meanwhile. It is a process of its own that outlives ferry, and ends when nothing is missing any more.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "restore/segments.h"

struct pager;

/* What all memories have in common. The words lie in memory that is shared with forks. */
struct pager_setup {
	const uint32_t *go;       /* not 0 once the tree runs: what nobody asked for is filled, too */
	int proc;                 /* a /proc with the numbers of pids */
	int page_server;          /* a connection by which pages come that no file has; -1 = none */
	bool page_server_settles; /* ferry is behind it */
	int log;                  /* a line goes there when pages cannot be read; -1 = none */
};

/* Of one address space. */
struct pager_task {
	int uffd;
	pid_t pid;
	const uint32_t *ready; /* not 0 once its ranges are registered */
	const struct segments *missing;
};

must_check int pager_new(const struct pager_setup *setup, struct pager **ret, struct ferry_error *err);

must_check int pager_add(struct pager *p, const struct pager_task *task, struct ferry_error *err);

/* Have it keep a descriptor open as long as it lives: of what is locked meanwhile. */
must_check int pager_hold(struct pager *p, int fd, struct ferry_error *err);

/* Start it: serves from now on. What it needs it has copies of. */
must_check int pager_start(struct pager *p, struct ferry_error *err);

/* The tasks never ran, and are not to: end them. */
void pager_abandon(struct pager *p);

/* Whether it has ended because nothing is missing, or because pages could not be read; and the latter. */
bool pager_is_over(const struct pager *p);
bool pager_is_broken(const struct pager *p);

/* Bytes that are missing now. */
uint64_t pager_left(const struct pager *p);

void pager_free(struct pager *p);
