/* SPDX-License-Identifier: Apache-2.0 */
/* Owns `ferry image VERB`: which words each verb takes, and where its input and output are. */
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
#include "image/json.h"
#include "image/show.h"

enum { JSON_MAX = 1 << 30 }; /* bytes */

struct words {
	struct progress *progress;
	const char *in, *out; /* NULL = standard input, output */
	bool pretty;
	bool no_payloads;
	bool skip_pages;
};

static int usage(struct ferry_error *err, const char *text, const char *word)
{
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "%s '%s'", text, word);
}

static int parse_words(int argc, char **argv, struct words *ret, struct ferry_error *err)
{
	static const struct {
		const char *word;
		size_t offset;
	} flags[] = {
		{"--pretty", offsetof(struct words, pretty)},
		{"--nopl", offsetof(struct words, no_payloads)},
		{"--skip-pages", offsetof(struct words, skip_pages)},
	};
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		bool known = false;
		for (size_t k = 0; k < ARRAY_SIZE(flags) && !known; k++) {
			known = !strcmp(word, flags[k].word);
			if (known)
				*(bool *)((char *)ret + flags[k].offset) = true;
		}
		if (known)
			continue;
		bool in = !strcmp(word, "-i") || !strcmp(word, "--in"),
		     out = !strcmp(word, "-o") || !strcmp(word, "--out");
		if ((in || out) && ++i == argc)
			return usage(err, "a file name has to follow", word);
		if (!in && !out && word[0] == '-' && word[1])
			return usage(err, "unknown option", word);
		if (!out && ret->in)
			return usage(err, "one file or directory at a time; too many:", argv[i]);
		*(out ? &ret->out : &ret->in) = argv[i];
	}
	return 0;
}

static int copy_to_memory(int from, struct ferry_error *err)
{
	_cleanup_close_ int fd = memfd_create("ferry-image", MFD_CLOEXEC);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "memfd_create");
	char bytes[65536];
	for (;;) {
		ssize_t n = read(from, bytes, sizeof(bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot read the input");
		if (!n)
			break;
		int r = fd_write_all(fd, bytes, (size_t)n);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot hold the input in memory");
	}
	if (lseek(fd, 0, SEEK_SET) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "lseek");
	return take_fd(fd);
}

/* The input as a regular file; what comes through a pipe is held in memory. */
static int open_input(const struct words *w, struct ferry_error *err)
{
	bool standard = !w->in || !strcmp(w->in, "-");
	_cleanup_close_ int fd = standard ? fd_dup(STDIN_FILENO, 3) : fd_open(AT_FDCWD, w->in, O_RDONLY, 0);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, fd == -ENOENT ? FERRY_ERROR_IMAGE_MISSING : FERRY_ERROR_SYSTEM,
				   fd < 0 ? -fd : errno, "cannot open '%s'",
				   standard ? "standard input" : w->in);
	if (S_ISDIR(st.st_mode))
		return error_set(err, FERRY_ERROR_USAGE, EISDIR, "'%s' is a directory; name one of its files",
				 w->in);
	return S_ISREG(st.st_mode) && !standard ? take_fd(fd) : copy_to_memory(fd, err);
}

static const char *input_name(const struct words *w)
{
	return w->in ? w->in : "standard input";
}

static int decode(const struct words *w, FILE *out, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *reader = NULL;
	_cleanup_fclose_ FILE *file = NULL;
	enum image_kind kind;
	int fd = open_input(w, err);
	if (fd < 0)
		return fd;
	int r = image_open_any(fd, input_name(w), &kind, &reader, err);
	if (r < 0)
		return r;
	if (w->out) {
		file = fopen(w->out, "we");
		if (!file)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot create '%s'", w->out);
	}
	const struct image_json_options options = {.pretty = w->pretty, .no_payloads = w->no_payloads};
	return image_decode(reader, kind, &options, file ? file : out, err);
}

/* The image is whole before the output is touched. */
static int write_encoded(const struct words *w, int from, FILE *out, struct ferry_error *err)
{
	_cleanup_free_ char *bytes = NULL;
	size_t n;
	if (lseek(from, 0, SEEK_SET) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "lseek");
	int r = fd_read_whole(from, SIZE_MAX / 2, &bytes, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot read the encoded image");
	if (!w->out) {
		fwrite(bytes, 1, n, out);
		if (fflush(out) != 0 || ferror(out))
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "cannot write the output");
		return 0;
	}
	_cleanup_close_ int fd = fd_open(AT_FDCWD, w->out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	r = fd < 0 ? fd : fd_write_all(fd, bytes, n);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot write '%s'", w->out) : 0;
}

static int encode(const struct words *w, FILE *out, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	_cleanup_close_ int in = open_input(w, err);
	if (in < 0)
		return in;
	int r = fd_read_whole(in, JSON_MAX, &text, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "cannot read '%s'", input_name(w));
	_cleanup_close_ int memory = memfd_create("ferry-image", MFD_CLOEXEC);
	if (memory < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "memfd_create");
	r = image_encode(text, n, input_name(w), memory, err);
	return r < 0 ? r : write_encoded(w, memory, out, err);
}

static bool is_directory(const struct words *w)
{
	struct stat st;
	return w->in && stat(w->in, &st) == 0 && S_ISDIR(st.st_mode);
}

static int open_dir(const struct words *w, bool check_pages, struct image_dir **ret, struct ferry_error *err)
{
	const struct image_dir_open options = {.check_pages = check_pages, .progress = w->progress};
	if (!w->in)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "an images directory has to be named");
	return image_dir_open(AT_FDCWD, w->in, &options, ret, err);
}

static int info(const struct words *w, FILE *out, struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	if (w->in && !is_directory(w))
		return image_show_file_info(AT_FDCWD, w->in, out, err);
	int r = open_dir(w, false, &dir, err);
	return r < 0 ? r : image_show_info(dir, out, err);
}

static int show(const struct words *w, FILE *out, struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	if (!is_directory(w)) {
		struct words pretty = *w;
		pretty.pretty = true;
		return decode(&pretty, out, err);
	}
	int r = open_dir(w, false, &dir, err);
	return r < 0 ? r : image_show(dir, out, err);
}

static int verify(const struct words *w, FILE *out, struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	struct image_dir *parent = NULL;
	int r = open_dir(w, !w->skip_pages, &dir, err);
	if (r >= 0)
		r = image_dir_open_chain(dir, err);
	/* Their pages may be this one's. Who is missing is found by the references. */
	if (r >= 0 && !w->skip_pages && image_dir_n_parents(dir))
		r = image_dir_parent(dir, &parent, err);
	if (r >= 0 && parent)
		r = image_dir_check_pages(parent, err);
	return r < 0 ? r : image_verify(dir, out, err);
}

static const struct {
	const char *word;
	int (*run)(const struct words *w, FILE *out, struct ferry_error *err);
} verbs[] = {
	{"decode", decode}, {"encode", encode}, {"info", info}, {"show", show}, {"verify", verify},
};

int image_verb(int argc, char **argv, FILE *out, struct progress *progress, struct ferry_error *err)
{
	struct words words = {.progress = progress};
	if (argc < 1)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "a verb is missing: show, decode, encode, info or verify");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(verbs[i].word, argv[0]))
			continue;
		int r = parse_words(argc, argv, &words, err);
		return r < 0 ? r : verbs[i].run(&words, out, err);
	}
	return usage(err, "unknown verb", argv[0]);
}
