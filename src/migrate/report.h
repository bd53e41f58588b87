/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a migration, as doc/outputs.md defines it, and as one HTML page with a timeline. */
#pragma once

#include "base/macros.h"
#include "base/strbuf.h"
#include "engine/engine.h"

struct json_object;

/* The JSON object; the caller frees it. NULL when memory is short. */
struct json_object *report_json(const struct engine_report *r);

/*
 * A page that needs nothing beside itself, drawn from the JSON form, so that whoever adds to that (a probe's
 * client_gap_ns) gets it drawn, too. -EBADMSG: a member is missing.
 */
must_check int report_html(struct json_object *report, struct strbuf *ret);
