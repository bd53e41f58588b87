/* SPDX-License-Identifier: Apache-2.0 */
/* NUMA policies of mappings, which are set before their pages come. */
#pragma once

#include "image/proto/ferry.pb-c.h"
#include "model/script.h"

/* Append the call that gives a mapping its policy, if it had one and the machine has a node of it. */
void mm_bind(struct script *s, const FerryVmaEntry *vma);
