/* SPDX-License-Identifier: Apache-2.0 */
/* Owns opening a pseudo terminal of a wanted number. Kernel interface: ioctl(2) TIOCGPTN of a devpts's ptmx. */
#include "host/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/vec.h"

int terminal_open_master(int dir, const char *path, int flags, uint32_t index)
{
	VEC(int) others = {0};
	int r = 0;
	for (bool found = false; r >= 0 && !found;) {
		uint32_t number;
		int fd = fd_open(dir, path, flags | O_NOCTTY, 0);
		r = fd >= 0 && ioctl(fd, TIOCGPTN, &number) < 0 ? -errno : fd;
		found = r >= 0 && number == index;
		int *slot = r >= 0 && number < index ? vec_push(&others) : NULL;
		if (slot)
			*slot = fd;
		else if (r >= 0 && !found)
			r = number > index ? -EEXIST : -ENOMEM;
		if (fd >= 0 && !slot && !found)
			close(fd);
	}
	vec_foreach(other, &others)
		close(*other);
	vec_release(&others);
	return r;
}
