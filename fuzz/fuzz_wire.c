/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a stranger may send to a ferry that receives, or one that migrates, and what may stand in a journal. The first
 * byte chooses:
 *
 *   0  raw bytes to a channel
 *   1  frames with proper headers to the greeting of a target, then to its receiving of an image
 *   2  the same to the greeting of a source
 *   3  a record of the journal
 *   4  an address to move
 *
 * Frames of 1 and 2: a byte with the length of the head, two with that of the data, then both.
 */
#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "migrate/files.h"
#include "migrate/hold.h"
#include "migrate/wire.h"
#include "store/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { MAX_BYTES = 60 << 10, FRAMES = 32, TIMEOUT_MS = 100 };

static void send_frames(int fd, const uint8_t *bytes, size_t n)
{
	for (int i = 0; i < FRAMES && n > 3; i++) {
		size_t head = bytes[0], data = (size_t)bytes[1] << 8 | bytes[2];
		bytes += 3;
		n -= 3;
		head = MIN(head, n);
		data = MIN(data, n - head);
		struct {
			uint32_t magic, head, data, zero;
			uint64_t checksum;
		} h = {htole32(0x31595246), htole32((uint32_t)head), htole32((uint32_t)data), 0, 0};
		h.checksum = htole64(XXH3_64bits_withSeed(bytes + head, data, XXH3_64bits(bytes, head)));
		if (fd_write_all(fd, &h, sizeof(h)) < 0 || fd_write_all(fd, bytes, head + data) < 0)
			return;
		bytes += head + data;
		n -= head + data;
	}
}

static void check(int r, const struct ferry_error *err)
{
	if ((r < 0) != error_is_set(err))
		abort();
}

static void remove_folder(const char *folder)
{
	_cleanup_closedir_ DIR *d = opendir(folder);
	for (struct dirent *entry; d && (entry = readdir(d));)
		if (entry->d_name[0] != '.' && unlinkat(dirfd(d), entry->d_name, 0) < 0)
			abort();
	if (rmdir(folder) < 0)
		abort();
}

static void talk(const uint8_t *bytes, size_t n, int mode)
{
	int pair[2];
	struct wire w = {0};
	struct token none = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    wire_open(&w, pair[0], TIMEOUT_MS, -1, NULL) < 0)
		abort();
	if (mode)
		send_frames(pair[1], bytes, n);
	else if (fd_write_all(pair[1], bytes, n) < 0)
		abort();
	shutdown(pair[1], SHUT_WR);
	channel_set_data_max(w.channel, CHANNEL_DATA_MAX);
	int r = mode == 1   ? wire_greet_source(&w, &none, &err)
		: mode == 2 ? wire_greet_target(&w, &none, &err)
			    : 0;
	check(r, &err);
	if (r >= 0 && mode == 1) {
		char folder[] = "/tmp/fuzz-wire-XXXXXX";
		int dir = mkdtemp(folder) ? fd_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY, 0) : -1;
		struct transfer t = {.wire = &w};
		if (dir < 0)
			abort();
		r = files_receive_image(&t, dir, &err);
		transfer_release(&t);
		check(r, &err);
		close(dir);
		remove_folder(folder);
	}
	while (r >= 0) {
		r = wire_receive(&w, &err);
		check(r, &err);
	}
	wire_close(&w);
	close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	if (!n || n > MAX_BYTES)
		return 0;
	struct journal_record record;
	struct address address;
	struct ferry_error err = FERRY_ERROR_INIT;
	char *text = strndup((const char *)bytes + 1, n - 1);
	switch (bytes[0]) {
	case 0:
	case 1:
	case 2: talk(bytes + 1, n - 1, bytes[0]); break;
	case 3:
		if (journal_parse(text, &record) >= 0 && !journal_id_valid(record.id))
			abort();
		break;
	case 4: check(hold_parse_address(text, &address, &err), &err); break;
	default: break;
	}
	free(text);
	return 0;
}
