/* SPDX-License-Identifier: Apache-2.0 */
/* Coming before everybody else on a processor, for the moment that others stand still for us. */
#pragma once

#include <stdbool.h>

/* The calling thread, and those that it starts from here on. Returns whether there is something to end. */
bool hurry_begin(void);
void hurry_end(bool began);
