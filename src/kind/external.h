/* SPDX-License-Identifier: Apache-2.0 */
/* What a tree has outside of itself, by the words of --external and --inherit-fd. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "model/kind.h"

/* Whether every word is one that is understood; said before anything is looked at. */
must_check int external_check(const struct kind_options *options, struct ferry_error *err);

/* Whether "unix[INO]" was given. */
bool external_unix(const struct kind_options *options, uint32_t inode);

/* VALUE of "TYPE[KEY]:VALUE"; NULL: nothing was given. */
const char *external_value(const struct kind_options *options, const char *type, const char *key);

/* What the network namespace with this inode is called, if it is somebody else's. */
const char *external_net(const struct kind_options *options, uint64_t inode);

/* Our descriptor that was given for a resource; -1 = none. */
int external_inherited(const struct kind_options *options, const char *resource);

/* The same for "socket:[INO]". */
int external_inherited_socket(const struct kind_options *options, uint32_t inode);

/* What stands for the mount of this key: VALUE of "mnt[KEY]:VALUE"; NULL = nothing. */
const char *external_mount(const struct kind_options *options, const char *key);

/* Whether "mnt[]" was given: mounts from outside that nobody names are found where ferry has the same. */
bool external_all_mounts(const struct kind_options *options);
