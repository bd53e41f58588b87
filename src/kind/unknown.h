/* SPDX-License-Identifier: Apache-2.0 */
/* What is refused because no kind has it. */
#pragma once

#include <ferry/error.h>

struct fd_view;

/* Name a descriptor that no kind owns, and what can be done about it; always -ENOTSUP. */
int unknown_refuse(const struct fd_view *view, struct ferry_error *err);
