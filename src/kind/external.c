/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the words that name what is outside of a tree: "unix[INO]" of --external, a socket of the tree whose peer is
 * outside, "mnt[MOUNTPOINT]:NAME", a mount from outside, "mnt[NAME]:PATH", what takes its place, and "fd[N]:socket:[INO]" of
 * --inherit-fd, a descriptor that ferry was started with, for such a socket.
 * Does not handle: terminals, files, devices and namespaces from outside; such words are refused.
 */
#include "kind/external.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* The whole word, and nothing behind it. */
static bool external_read_unix(const char *word, uint32_t *ret_inode)
{
	int n = 0;
	return sscanf(word, "unix[%u]%n", ret_inode, &n) == 1 && n && !word[n];
}

static bool external_read_fd(const char *word, int *ret_fd, uint32_t *ret_inode)
{
	int n = 0;
	return sscanf(word, "fd[%d]:socket:[%u]%n", ret_fd, ret_inode, &n) == 2 && n && !word[n];
}

/* "mnt[KEY]:VALUE": where the value begins; NULL = it is none. */
static const char *external_read_mount(const char *word)
{
	const char *end = strncmp(word, "mnt[", 4) ? NULL : strstr(word + 4, "]:");
	return end && end > word + 4 && end[2] ? end + 2 : NULL;
}

/* "mnt[]"; letters may follow, which say what ferry does in any case (m), or what --enable-external-sharing does (s). */
static bool external_read_all_mounts(const char *word)
{
	if (strncmp(word, "mnt[]", 5) != 0)
		return false;
	return !word[5] || (word[5] == ':' && !word[6 + strspn(word + 6, "ms")]);
}

int external_check(const struct kind_options *options, struct ferry_error *err)
{
	uint32_t inode;
	int fd;
	for (size_t i = 0; i < options->n_external; i++)
		if (!external_read_unix(options->external[i], &inode) &&
		    !external_read_mount(options->external[i]) &&
		    !external_read_all_mounts(options->external[i]))
			return error_set(err, FERRY_ERROR_USAGE, EINVAL,
					 "--external '%s' is neither unix[INODE], mnt[KEY]:VALUE nor mnt[]",
					 options->external[i]);
	for (size_t i = 0; i < options->n_inherited; i++) {
		if (!external_read_fd(options->inherited[i], &fd, &inode))
			return error_set(err, FERRY_ERROR_USAGE, EINVAL,
					 "--inherit-fd '%s' is not fd[NUMBER]:socket:[INODE]",
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

const char *external_mount(const struct kind_options *options, const char *key)
{
	size_t n = strlen(key);
	for (size_t i = 0; i < options->n_external; i++) {
		const char *word = options->external[i], *value = external_read_mount(word);
		if (value && (size_t)(value - 2 - (word + 4)) == n && !memcmp(word + 4, key, n))
			return value;
	}
	return NULL;
}

int external_inherited_socket(const struct kind_options *options, uint32_t inode)
{
	uint32_t given;
	int fd;
	for (size_t i = 0; options && i < options->n_inherited; i++)
		if (external_read_fd(options->inherited[i], &fd, &given) && given == inode)
			return fd;
	return -1;
}
