/* SPDX-License-Identifier: Apache-2.0 */
/* The processor that an image was made on (cpuinfo.img), and whether this one can take its place. */
#pragma once

#include <ferry/error.h>

#include "base/macros.h"

struct image_dir;
struct strbuf;

/* What is asked of a processor. */
enum cpu_caps {
	CPU_STATE = 1 << 0,        /* it has the parts of the floating point state */
	CPU_INSTRUCTIONS = 1 << 1, /* and the instructions */
	CPU_SAME = 1 << 2,         /* and nothing else, either */
	CPU_USUAL = CPU_STATE | CPU_INSTRUCTIONS,
	CPU_ALL = CPU_STATE | CPU_INSTRUCTIONS | CPU_SAME,
};

/* --cpu-cap: a list of fpu, ins, cpu, all and none, added to what is usual; ^WORD takes one away. NULL: none. */
must_check int cpu_caps_parse(const char *text, unsigned *ret_caps, struct ferry_error *err);

/* Into an image that is being written; and into a file of its own in a directory. */
must_check int cpu_dump(struct image_dir *dir, struct ferry_error *err);
must_check int cpu_dump_alone(const char *path, struct ferry_error *err);

/* CPU_FEATURE: what of it is missing here, by name. IMAGE_MISSING: the image says nothing of its processor. */
must_check int cpu_check(struct image_dir *dir, unsigned caps, struct ferry_error *err);
must_check int cpu_check_alone(const char *path, unsigned caps, struct ferry_error *err);
