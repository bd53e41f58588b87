/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every reader of the image layer on bytes that nobody vouches for. The first byte chooses the reader: from
 * READ_KIND on a file of that kind (read, turned into JSON, and that encoded again), below it see below.
 *
 * Beyond crashes: what a file decodes to must encode, and to bytes that decode to the same text.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/coverage.h"
#include "image/json.h"
#include "image/pages.h"
#include "image/show.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Values of the first byte. Kinds come last, so that seeds keep their meaning when kinds are added. */
enum {
	READ_JSON,
	READ_ANY,
	READ_PAGEMAP,
	READ_MANIFEST,
	READ_INVENTORY,
	READ_DIR,
	READ_CHAIN,
	READ_KIND = 16
};

enum { CHAIN_DIRS = 3 };

/* No image of a few megabytes at most says more. */
enum { MAX_BYTES = 1 << 20 };

static int memory_with(const void *bytes, size_t n)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || fd_write_all(fd, bytes, n) < 0)
		abort();
	return fd;
}

static char *decode(int fd, enum image_kind kind, bool pretty)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_reader_ struct image_reader *r = NULL;
	char *text = NULL;
	size_t n;
	FILE *out = open_memstream(&text, &n);
	const struct image_json_options options = {.pretty = pretty};
	int ret = image_open_fd(fd, "fuzz.img", kind, &r, &err);
	if (ret == 0)
		ret = image_decode(r, kind, &options, out, &err);
	fclose(out);
	if ((ret < 0) != error_is_set(&err))
		abort();
	if (ret == 0)
		return text;
	free(text);
	return NULL;
}

/* What was decoded has to encode, and to decode to the same. */
static void read_kind(const uint8_t *bytes, size_t n, enum image_kind kind, bool pretty)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_free_ char *text = decode(memory_with(bytes, n), kind, pretty), *again = NULL;
	if (!text)
		return;
	_cleanup_close_ int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (image_encode(text, strlen(text), "fuzz.json", fd, &err) < 0) {
		fprintf(stderr, "%s\n%s\n", err.message, text);
		abort();
	}
	again = decode(fd_dup(fd, 3), kind, pretty);
	if (!again || strcmp(text, again)) {
		fprintf(stderr, "%s\n%s\n", text, again ? again : "nothing");
		abort();
	}
}

static void read_json(const uint8_t *bytes, size_t n)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_close_ int fd = memfd_create("fuzz", MFD_CLOEXEC);
	int r = image_encode((const char *)bytes, n, "fuzz.json", fd, &err);
	if ((r < 0) != error_is_set(&err))
		abort();
}

static void read_any(const uint8_t *bytes, size_t n)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_reader_ struct image_reader *r = NULL;
	enum image_kind kind = IMAGE_KIND_COUNT;
	if (image_open_any(memory_with(bytes, n), "fuzz", &kind, &r, &err) == 0 && kind >= IMAGE_KIND_COUNT)
		abort();
}

/* ---- directories ---- */

static void put_file(int dir_fd, const char *name, const void *bytes, size_t n)
{
	_cleanup_close_ int fd = fd_open(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || fd_write_all(fd, bytes, n) < 0)
		abort();
}

static const uint8_t inventory[] = {0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 0x08, 0x02};

/* Up to 255 files: [u8 length of the name][name][u16 size][bytes] ...; with several directories, the first letter tells which. */
static void put_files(const int *dir_fds, size_t n_dirs, const uint8_t *p, size_t n)
{
	while (n > 3) {
		size_t name_n = p[0];
		if (!name_n || n < 3 + name_n)
			return;
		char name[256];
		memcpy(name, p + 1, name_n);
		name[name_n] = '\0';
		size_t size = MIN((size_t)(p[1 + name_n] | p[2 + name_n] << 8), n - 3 - name_n);
		enum image_kind kind;
		uint64_t id;
		size_t dir = n_dirs > 1 ? (uint8_t)name[0] % n_dirs : 0;
		if (image_file_parse_name(name + (n_dirs > 1), &kind, &id) == 0)
			put_file(dir_fds[dir], name + (n_dirs > 1), p + 3 + name_n, size);
		p += 3 + name_n + size;
		n -= 3 + name_n + size;
	}
}

static void read_directory(const char *path)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	const struct image_dir_open options = {.check_pages = true};
	int r = image_dir_open(AT_FDCWD, path, &options, &dir, &err);
	if ((r < 0) != error_is_set(&err))
		abort();
	_cleanup_fclose_ FILE *out = fopen("/dev/null", "we");
	if (r < 0 || !out)
		return;
	r = image_verify(dir, out, &err);
	if ((r < 0) != error_is_set(&err))
		abort();
	error_clear(&err);
	r = image_show(dir, out, &err);
	if ((r < 0) != error_is_set(&err))
		abort();
	error_clear(&err);
	if ((image_show_info(dir, out, &err) < 0) != error_is_set(&err))
		abort();
}

/* What the next round of a chain wants to know. */
static void read_coverage(const char *path)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	_cleanup_image_coverage_ struct image_coverage *coverage = NULL;
	const struct image_dir_open options = {.no_checksums = true};
	if (image_dir_open(AT_FDCWD, path, &options, &dir, &err) < 0)
		return;
	if ((image_dir_open_chain(dir, &err) < 0) != error_is_set(&err))
		abort();
	error_clear(&err);
	if ((image_coverage_read(dir, &coverage, &err) < 0) != error_is_set(&err))
		abort();
}

static void remove_all(int dir_fd)
{
	_cleanup_closedir_ DIR *listing = fdopendir(fd_open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0));
	for (const struct dirent *e; listing && (e = readdir(listing));)
		if (e->d_name[0] != '.')
			unlinkat(dir_fd, e->d_name, 0);
}

static void read_in_directory(unsigned reader, const uint8_t *bytes, size_t n)
{
	char path[] = "/dev/shm/ferry-fuzz-XXXXXX";
	if (!mkdtemp(path))
		abort();
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (reader == READ_INVENTORY)
		put_file(fd, "inventory.img", bytes, n);
	else
		put_file(fd, "inventory.img", inventory, sizeof(inventory));
	if (reader == READ_MANIFEST)
		put_file(fd, "ferry-manifest.img", bytes, n);
	if (reader == READ_PAGEMAP) {
		put_file(fd, "pagemap-1.img", bytes, n);
		put_file(fd, "pages-1.img", bytes, n & ~(size_t)4095);
	}
	if (reader == READ_DIR)
		put_files(&fd, 1, bytes, n);
	read_directory(path);
	remove_all(fd);
	rmdir(path);
}

/* Each directory is the parent of the one before. */
static void read_chain(const uint8_t *bytes, size_t n)
{
	static const char *const names[CHAIN_DIRS] = {".", "parent", "parent/parent"};
	char path[] = "/dev/shm/ferry-fuzz-XXXXXX";
	int fds[CHAIN_DIRS];
	if (!mkdtemp(path))
		abort();
	for (size_t i = 0; i < CHAIN_DIRS; i++) {
		if (i && mkdirat(fds[0], names[i], 0700) < 0)
			abort();
		fds[i] = fd_open(i ? fds[0] : AT_FDCWD, i ? names[i] : path, O_RDONLY | O_DIRECTORY, 0);
		put_file(fds[i], "inventory.img", inventory, sizeof(inventory));
	}
	put_files(fds, CHAIN_DIRS, bytes, n);
	read_directory(path);
	read_coverage(path);
	for (size_t i = CHAIN_DIRS; i-- > 0;) {
		remove_all(fds[i]);
		if (i)
			unlinkat(fds[0], names[i], AT_REMOVEDIR);
		close(fds[i]);
	}
	rmdir(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	if (!n || n > MAX_BYTES)
		return 0;
	unsigned reader = bytes[0] % (READ_KIND + IMAGE_KIND_COUNT);
	/* The library wants memory that ends where the input ends, so that reading beyond it is seen. */
	_cleanup_free_ uint8_t *copy = malloc(n);
	memcpy(copy, bytes + 1, n - 1);
	if (reader >= READ_KIND)
		read_kind(copy, n - 1, (enum image_kind)(reader - READ_KIND), n & 1);
	else if (reader == READ_JSON)
		read_json(copy, n - 1);
	else if (reader == READ_ANY)
		read_any(copy, n - 1);
	else if (reader == READ_CHAIN)
		read_chain(copy, n - 1);
	else if (reader <= READ_DIR)
		read_in_directory(reader, copy, n - 1);
	return 0;
}
