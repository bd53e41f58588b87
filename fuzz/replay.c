/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns main() of a fuzz harness that is built without libFuzzer: every file of the folders and files named on the
 * command line is handed to the harness once. A crash is the failure; a folder that is missing is none.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { MAX_INPUT_BYTES = 16 << 20 };

static int replay_file(int dir_fd, const char *name)
{
	_cleanup_free_ char *bytes = NULL;
	size_t n = 0;
	int r = fd_read_path(dir_fd, name, MAX_INPUT_BYTES, &bytes, &n);
	if (r < 0)
		return r;
	LLVMFuzzerTestOneInput((const uint8_t *)bytes, n);
	return 1;
}

static int replay(const char *path)
{
	_cleanup_closedir_ DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOTDIR ? replay_file(AT_FDCWD, path) : 0;
	int count = 0;
	for (const struct dirent *entry; (entry = readdir(dir));) {
		if (entry->d_name[0] == '.')
			continue;
		int r = replay_file(dirfd(dir), entry->d_name);
		if (r < 0)
			return r;
		count += r;
	}
	return count;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int r = replay(argv[i]);
		if (r < 0) {
			fprintf(stderr, "cannot read '%s': %d\n", argv[i], r);
			return 1;
		}
		printf("%s: %d inputs\n", argv[i], r);
	}
	return 0;
}
