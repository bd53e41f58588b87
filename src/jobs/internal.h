/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. */
#pragma once

#include "jobs/jobs.h"

/* Files in a job's folder. */
#define JOBS_RECORD_NAME "job.json"
#define JOBS_INIT_NAME "init"
#define JOBS_STATUS_NAME "status"
#define JOBS_LOG_NAME "log"

/* Where the init of a job with a terminal has its master side. */
enum { JOBS_TTY_FD = 3 };

/* The small init, as bytes of a program; see init.c. */
extern const char jobs_init_start[], jobs_init_end[];

bool jobs_name_good(const char *name);
unsigned jobs_image_number(const char *name);
must_check int jobs_lock(struct jobs_record *j, struct ferry_error *err);
struct jobs_record *jobs_add(struct jobs_list *list);
