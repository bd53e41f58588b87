/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of the terminal kind share: numbers of devices and of records. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/sysmacros.h>

#include "model/kind.h"

enum {
	TTY_MAJOR_AUX = 5, /* Documentation/admin-guide/devices.txt */
	TTY_MINOR_TTY = 0,
	TTY_MINOR_PTMX = 2,
	TTY_MAJOR_PTS = 136,
	TTY_MAJOR_PTS_LAST = 143,
	TTY_INDEX_MAX = 1 << 20,
	TTY_CC = 19,           /* NCCS of the kernel's struct termios */
	TTY_CTTY_ID = 1 << 23, /* added to the id of a terminal for what was opened as /dev/tty */
	TTY_SECOND = 1 << 24   /* records of terminals in further mounts of devpts */
};

static inline bool tty_is_master(dev_t rdev)
{
	return rdev == makedev(TTY_MAJOR_AUX, TTY_MINOR_PTMX);
}

static inline bool tty_is_ctty(dev_t rdev)
{
	return rdev == makedev(TTY_MAJOR_AUX, TTY_MINOR_TTY);
}

static inline bool tty_is_slave(dev_t rdev)
{
	return major(rdev) >= TTY_MAJOR_PTS && major(rdev) <= TTY_MAJOR_PTS_LAST;
}

/* Records of one terminal. */
enum tty_side { TTY_SLAVE, TTY_MASTER, TTY_CTTY, TTY_SIDES };

/* Hooks of the restore; tty_restore.c. */
must_check int tty_read(struct reader *r, struct ferry_error *err);
must_check int tty_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err);
must_check int tty_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err);
must_check int tty_join_session(struct settle *s, struct ferry_error *err);
must_check int tty_settle_task(struct settle *s, struct ferry_error *err);
must_check int tty_ready(struct opener *o, struct ferry_error *err);
void tty_before_run(struct opener *o);
