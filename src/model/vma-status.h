/* SPDX-License-Identifier: Apache-2.0 */
/* What a mapping is: bits of vma_entry.status in the image. */
#pragma once

#define VMA_STATUS_REGULAR (1u << 0) /* has pages of its own in the task */
#define VMA_STATUS_STACK (1u << 1)
#define VMA_STATUS_VSYSCALL (1u << 2)
#define VMA_STATUS_VDSO (1u << 3)
#define VMA_STATUS_HEAP (1u << 5)
#define VMA_STATUS_FILE_PRIVATE (1u << 6)
#define VMA_STATUS_FILE_SHARED (1u << 7)
#define VMA_STATUS_ANON_SHARED (1u << 8)
#define VMA_STATUS_ANON_PRIVATE (1u << 9)
#define VMA_STATUS_SYSVIPC (1u << 10)
#define VMA_STATUS_SOCKET (1u << 11)
#define VMA_STATUS_VVAR (1u << 12)
#define VMA_STATUS_AIO_RING (1u << 13)
#define VMA_STATUS_MEMFD (1u << 14)
#define VMA_STATUS_GUARD \
	(1u << 16) /* no mapping, but guard pages of the one that lies there; these come last */

/* Ours: shmid is the id of an io_uring instance in files.img, pgoff one of IORING_OFF_x. */
#define VMA_STATUS_URING (1u << 24)

/* Not memory of the task's own: the kernel brings them. */
#define VMA_STATUS_KERNEL (VMA_STATUS_VSYSCALL | VMA_STATUS_VDSO | VMA_STATUS_VVAR)
