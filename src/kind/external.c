/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the words that name what is outside of a tree: of --external "unix[INO]", a socket of the tree whose peer is outside,
 * "mnt[MOUNTPOINT]:NAME", a mount from outside, "mnt[NAME]:PATH", what takes its place, "net[INO]:NAME", a network namespace that
 * is somebody else's; and "fd[N]:RESOURCE" of --inherit-fd, a descriptor that ferry was started with, for "socket:[INO]" or a
 * name that --external gave.
 * Does not handle: terminals, files and devices from outside; such words are refused.
 */
#include "kind/external.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* The whole word, and nothing behind it. */
static bool external_read_unix(const char *word, uint32_t *ret_inode)
{
	char *end = NULL;
	unsigned long number = strncmp(word, "unix[", 5) ? 0 : strtoul(word + 5, &end, 10);
	*ret_inode = (uint32_t)number;
	return end && end > word + 5 && number <= UINT32_MAX && !strcmp(end, "]");
}

/* "TYPE[KEY]:VALUE": where the value begins; NULL: it is of another type. */
static const char *external_read(const char *word, const char *type, size_t *ret_key_bytes)
{
	size_t n = strlen(type);
	const char *end = strncmp(word, type, n) || word[n] != '[' ? NULL : strstr(word + n, "]:");
	*ret_key_bytes = end ? (size_t)(end - word) - n - 1 : 0;
	return end && *ret_key_bytes ? end + 2 : NULL;
}

/* "fd[N]:RESOURCE": where the resource begins. */
static const char *external_read_fd(const char *word, int *ret_fd)
{
	char *end = NULL;
	long number = strncmp(word, "fd[", 3) ? 0 : strtol(word + 3, &end, 10);
	*ret_fd = (int)number;
	return end && end > word + 3 && number >= 0 && number <= INT_MAX && !strncmp(end, "]:", 2) && end[2]
		       ? end + 2
		       : NULL;
}

/* "mnt[]"; letters may follow, which say what ferry does in any case (m), or what --enable-external-sharing does (s). */
static bool external_read_all_mounts(const char *word)
{
	if (strncmp(word, "mnt[]", 5) != 0)
		return false;
	return !word[5] || (word[5] == ':' && !word[6 + strspn(word + 6, "ms")]);
}

static bool external_is_known(const char *word)
{
	static const char *const types[] = {"mnt", "net", "veth", "macvlan"};
	uint32_t inode;
	size_t n;
	/* Engines give an empty value where there is nothing: "mnt[console]:", "console:". */
	bool known = (*word && word[strlen(word) - 1] == ':') || external_read_unix(word, &inode) ||
		     external_read_all_mounts(word);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		known |= external_read(word, types[i], &n) != NULL;
	return known;
}

int external_check(const struct kind_options *options, struct ferry_error *err)
{
	int fd;
	for (size_t i = 0; i < options->n_external; i++)
		if (!external_is_known(options->external[i]))
			return error_set(
				err, FERRY_ERROR_USAGE, EINVAL,
				"--external '%s' is none of unix[INODE], mnt[KEY]:VALUE, mnt[], net[INODE]:NAME, veth[IN]:OUT, macvlan[IN]:OUT",
				options->external[i]);
	for (size_t i = 0; i < options->n_inherited; i++) {
		if (!external_read_fd(options->inherited[i], &fd))
			return error_set(err, FERRY_ERROR_USAGE, EINVAL,
					 "--inherit-fd '%s' is not fd[NUMBER]:RESOURCE",
					 options->inherited[i]);
		if (fcntl(fd, F_GETFD) < 0)
			return error_set(err, FERRY_ERROR_USAGE, errno,
					 "--inherit-fd '%s': fd %d is not open", options->inherited[i], fd);
	}
	return 0;
}

bool external_unix(const struct kind_options *options, uint32_t inode)
{
	uint32_t given;
	for (size_t i = 0; i < options->n_external; i++)
		if (external_read_unix(options->external[i], &given) && given == inode)
			return true;
	return false;
}

bool external_all_mounts(const struct kind_options *options)
{
	for (size_t i = 0; i < options->n_external; i++)
		if (external_read_all_mounts(options->external[i]))
			return true;
	return false;
}

const char *external_value(const struct kind_options *options, const char *type, const char *key)
{
	for (size_t i = 0; i < options->n_external; i++) {
		size_t n;
		const char *value = external_read(options->external[i], type, &n);
		if (value && *value && n == strlen(key) &&
		    !memcmp(options->external[i] + strlen(type) + 1, key, n))
			return value;
	}
	return NULL;
}

const char *external_mount(const struct kind_options *options, const char *key)
{
	return external_value(options, "mnt", key);
}

const char *external_net(const struct kind_options *options, uint64_t inode)
{
	char key[24];
	snprintf(key, sizeof(key), "%llu", (unsigned long long)inode);
	return external_value(options, "net", key);
}

int external_inherited(const struct kind_options *options, const char *resource)
{
	int fd;
	for (size_t i = 0; options && i < options->n_inherited; i++) {
		const char *of = external_read_fd(options->inherited[i], &fd);
		if (of && !strcmp(of, resource))
			return fd;
	}
	return -1;
}

int external_inherited_socket(const struct kind_options *options, uint32_t inode)
{
	char resource[32];
	snprintf(resource, sizeof(resource), "socket:[%u]", inode);
	return external_inherited(options, resource);
}
